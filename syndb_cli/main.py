"""The ``syndb`` command: scientists ask and import with it, operators look after their node."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from syndb_cli import dataset, etl, federation
from syndb_cli.downloading import download_command
from syndb_cli.options import DashedGroup
from syndb_cli.syql import syql

app = typer.Typer(
    cls=DashedGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Ask a federation of connectome databases, import data into a node, and run a node.",
    epilog="Exit codes: 0 done, 2 wrong request, 3 wrong data, 4 not allowed, 5 not found, 6 conflict, 7 limit, "
    "8 cancelled, 9 no answer in time, 10 unavailable, 130 interrupted.",
)
app.command()(syql)
app.add_typer(federation.app, name="federation")
app.add_typer(etl.app, name="etl")
app.add_typer(dataset.app, name="dataset")
dataset.app.command("download")(download_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"syndb {version('syndb')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Entry point."""
    app(prog_name="syndb")


if __name__ == "__main__":
    main()
