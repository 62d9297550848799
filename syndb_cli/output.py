"""What commands print: tables for people on standard output, notes on standard error, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from syndb_common.errors import SynDBError

screen = Console()
notes = Console(stderr=True, highlight=False)


def show_json(value: Any) -> None:
    """One JSON document."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """A table; numbers stand right, missing values are shown as such."""
    content = [list(row) for row in rows]
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        numeric = any(isinstance(row[index], int | float) for row in content)
        table.add_column(name, justify="right" if numeric else "left")
    for row in content:
        table.add_row(*(cell(value) for value in row))
    # A pipe has no width of its own: wide rows must not be cut there.
    (screen if screen.is_terminal else Console(width=10_000)).print(table)


def cell(value: Any) -> str:
    """One value as text: floats with six significant digits, NULL as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


@contextlib.contextmanager
def errors_as_lines(*, as_json: bool = False) -> Iterator[None]:
    """Show an error of ours as one line and a hint (or as JSON) and leave with its exit code; never a traceback."""
    try:
        yield
    except SynDBError as error:
        if as_json:
            show_json(error.to_body().model_dump())
        else:
            notes.print(f"error: {error.message}", style="red", markup=False, soft_wrap=True)
            if error.hint:
                notes.print(f"  {error.hint}", markup=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        notes.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(SynDBError.exit_code) from None
    except KeyboardInterrupt:
        notes.print("interrupted")
        raise typer.Exit(130) from None
