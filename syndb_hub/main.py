"""The ``syndb-hub`` command."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from syndb_hub.commands import engine, invitations, key, ontology, password, setup, tokens

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The hub of a SynDB federation: registry of the nodes, REST API and pages.",
)
app.command()(setup.init)
app.command()(setup.run)
app.command()(setup.reload)
app.command("id")(setup.show_id)
app.command()(setup.check_config)
app.add_typer(invitations.app, name="invite")
app.add_typer(password.app, name="password")
app.add_typer(key.app, name="key")
app.add_typer(tokens.app, name="token")
app.add_typer(ontology.app, name="ontology")
app.add_typer(engine.app, name="engine")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"syndb-hub {version('syndb')}")
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
    app(prog_name="syndb-hub")
