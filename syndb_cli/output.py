"""What commands print: tables for people on standard output, notes on standard error, JSON for programs.

Data, and messages of other daemons, are text: nothing in them is markup, and no control character reaches a terminal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from syndb_common.errors import SynDBError

screen = Console()
notes = Console(stderr=True, highlight=False)

_CONTROLS = dict.fromkeys((*range(32), *range(127, 160))) | {ord(blank): " " for blank in "\t\n\r"}


def show_json(value: Any) -> None:
    """One JSON document."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """A table; numbers stand right, missing values are shown as such."""
    content = [list(row) for row in rows]
    table = Table(title=Text(plain(title)) if title else None, title_justify="left")
    for index, name in enumerate(columns):
        numeric = any(isinstance(row[index], int | float) for row in content)
        table.add_column(Text(plain(name)), justify="right" if numeric else "left")
    for row in content:
        table.add_row(*(Text(cell(value)) for value in row))
    # A pipe has no width of its own: wide rows must not be cut there.
    (screen if screen.is_terminal else Console(width=10_000)).print(table)


def cell(value: Any) -> str:
    """One value as a line of text: floats with six significant digits, NULL as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return plain(str(value))


def plain(text: str) -> str:
    """The text without control characters; line breaks and tabs become spaces."""
    return text.translate(_CONTROLS)


def note(text: str, style: str = "") -> None:
    """One line on standard error, as it is: neither markup nor control characters mean anything."""
    notes.print(Text(plain(text), style=style), soft_wrap=True)


def quiet_logs() -> None:
    """Let what a command uses of the daemons log errors only, and to standard error: standard output is the answer."""
    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Show on standard error that something takes a while; only people on a terminal see it."""
    if not notes.is_terminal:
        yield
        return
    with notes.status(Text(plain(text))):
        yield


@contextlib.contextmanager
def errors_as_lines(*, as_json: bool = False) -> Iterator[None]:
    """Show an error as one line and a hint (or as JSON) and leave with its exit code; never a traceback."""
    try:
        yield
    except (SystemExit, GeneratorExit, typer.Exit, typer.Abort):
        raise
    except BaseException as raised:
        if was_interrupted(raised):
            note("interrupted")
            raise typer.Exit(130) from None
        from syndb_common.daemon import first_error  # here, since it brings trio, which most commands do without

        error = first_error(raised) or _unforeseen(raised)
        if as_json:
            show_json(error.to_body().model_dump())
        else:
            note(f"error: {error.message}", "red")
            if error.hint:
                note(f"  {error.hint}")
        raise typer.Exit(error.exit_code) from None


def was_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is what, or part of what, was raised."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)


def _unforeseen(error: BaseException) -> SynDBError:
    if isinstance(error, OSError):
        return SynDBError(str(error))
    return SynDBError(f"unexpected {type(error).__name__}: {error}", hint="Please report it.")
