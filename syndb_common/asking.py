"""Questions that a command asks before it does what cannot be undone."""

from __future__ import annotations

import sys

import typer

from syndb_common.errors import InvalidRequest


def agreed(yes: bool, question: str) -> bool:
    """Whether the operator wants it: said by ``--yes``, or answered now.

    Raises:
        InvalidRequest: nobody is there to answer, as in a script.
    """
    if yes:
        return True
    try:
        return typer.confirm(question)
    except typer.Abort:
        if sys.stdin.isatty():
            raise
    raise InvalidRequest("nobody is there to answer; nothing was done", hint="Without a terminal, give --yes.")
