"""The ``syndb-node`` command."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from syndb_common.daemon import configure_logging, report_errors, run_daemon
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import load

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The daemon of one institution in a SynDB federation. `syndb federation init` writes its configuration.",
)

Config = Annotated[Path, typer.Option("--config", help="Configuration file.", envvar="SYNDB_NODE_CONFIG")]


@app.command()
def run(config: Config) -> None:
    """Run the node until SIGTERM or Ctrl-C."""
    with report_errors() as outcome:
        settings = load(NodeSettings, config)
        configure_logging(settings.log_level)
        from syndb_node.tree import serve

        outcome.code = run_daemon(lambda task_status: serve(settings, task_status))
    raise typer.Exit(outcome.code)


@app.command("id")
def show_id(config: Config) -> None:
    """Print the node's PeerId, making its key when there is none yet."""
    with report_errors() as outcome:
        from actors.remote.identity import Identity

        typer.echo(Identity.load_or_create(load(NodeSettings, config).data_dir / "identity.key").peer_id)
    raise typer.Exit(outcome.code)


@app.command()
def check_config(config: Config) -> None:
    """Check the configuration file and say what is wrong with it."""
    with report_errors() as outcome:
        settings = load(NodeSettings, config)
        typer.echo(f"{config} is valid: node {settings.cluster.name}, data in {settings.data_dir}")
    raise typer.Exit(outcome.code)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"syndb-node {version('syndb')}")
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
    app(prog_name="syndb-node")
