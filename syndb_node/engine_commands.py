"""``syndb-node engine``: what an operator does with the data of a node that is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syndb_common.daemon import configure_logging, report_errors
from syndb_common.engine.settings import EngineSettings
from syndb_common.errors import ConfigError
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import load, toml_value, validate

app = typer.Typer(no_args_is_help=True, help="The node's data: back them up, restore them, move them to a server.")

Config = Annotated[Path, typer.Option("--config", help="Configuration file.", envvar="SYNDB_NODE_CONFIG")]


def _embedded(config: Path) -> NodeSettings:
    settings = load(NodeSettings, config)
    if settings.engine.kind == "server":
        raise ConfigError(
            "the versions of this node are on a ClickHouse server",
            hint="Back that up by its own means, and the node's data_dir and configuration by copying them.",
        )
    return settings


def _tell(line: str) -> None:
    typer.echo(line, err=True)


@app.command()
def backup(
    config: Config,
    target: Annotated[Path, typer.Argument(help="The new file, or a folder that exists, in which one is made.")],
) -> None:
    """Save keys, configuration, state and every published version to one file. The node must be stopped.

    The file holds the node's key and the federation password: keep it as you keep those.
    """
    with report_errors() as outcome:
        configure_logging("warning")
        from syndb_common.engine.backup import Home
        from syndb_common.engine.backup import backup as save

        settings = _embedded(config)
        typer.echo(save(Home("node", settings.cluster.name, settings.data_dir, config), target, _tell))
    raise typer.Exit(outcome.code)


@app.command()
def restore(
    archive: Annotated[Path, typer.Argument(help="The file that `backup` has made.")],
    data_dir: Annotated[Path, typer.Option(help="A new or empty folder for the node's data.", envvar="SYNDB_DATA_DIR")],
) -> None:
    """Put a node back as it was when it was saved. Nothing is ever overwritten.

    Every checksum and every content hash is checked first. The configuration is restored as node.toml in that folder.
    """
    with report_errors() as outcome:
        configure_logging("warning")
        from syndb_common.engine.backup import restore as put_back

        config = put_back(archive, "node", data_dir, _tell)
        typer.echo(f"restored; its configuration is {config}")
        settings = load(NodeSettings, config)
        if settings.data_dir.resolve() != config.parent:
            typer.echo(f'Before you start the node, write data_dir = "{config.parent}" into it.')
    raise typer.Exit(outcome.code)


@app.command()
def migrate(
    config: Config,
    to: Annotated[str, typer.Option(help="The server's HTTP interface, https://host:8443 or http://host:8123.")],
    user: Annotated[str, typer.Option(help="User on the server.")] = "default",
    password_file: Annotated[Path | None, typer.Option(help="File with the user's password.")] = None,
    cluster: Annotated[str, typer.Option(help="Cluster of the server, whose tables are then replicated.")] = "",
    ca_file: Annotated[Path | None, typer.Option(help="PEM of the authority of the server's certificate.")] = None,
) -> None:
    """Copy every published version to a ClickHouse server, and say how to use that. The node must be stopped.

    Each version's content hash is computed anew on the server. Interrupted, it goes on where it was when you repeat it.
    The node's own data stay as they are.
    """
    with report_errors() as outcome:
        configure_logging("warning")
        from syndb_common.engine.backup import ENGINE
        from syndb_common.engine.migrate import migrate as copy

        settings = _embedded(config)
        section = {
            "kind": "server",
            "url": to,
            "user": user,
            "password_file": password_file and str(password_file.absolute()),
            "cluster": cluster,
            "ca_file": ca_file and str(ca_file.absolute()),
        }
        given = {key: value for key, value in section.items() if value}
        server = validate(EngineSettings, given, "the options").server()
        assert server is not None
        count = copy(settings.data_dir / ENGINE, server, _tell)
        _tell(f"all {count} versions are on the server. Write this into {config} and start the node:")
        typer.echo("\n".join(["[engine]", *(f"{key} = {toml_value(value)}" for key, value in given.items())]))
    raise typer.Exit(outcome.code)
