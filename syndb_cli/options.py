"""Options of commands that ask the hub, and how options may be spelled: ``--data-dir`` is documented, ``--data_dir`` is
understood."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

ServerUrl = Annotated[str | None, typer.Option("--server-url", help="Address of the hub.", envvar="SYNDB_SERVER_URL")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="File that holds the API token; otherwise SYNDB_TOKEN, SYNDB_TOKEN_FILE."),
]


def dashed(token: str) -> str:
    """An option or command as the help spells it."""
    return token.replace("_", "-")


class DashedGroup(TyperGroup):
    """A group of commands that accepts underscores for dashes in the names of options, here and in all below it."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """As in typer, with names normalised; values of options are left as they are."""
        extra.setdefault("token_normalize_func", dashed)
        return super().make_context(*args, **extra)
