"""``syndb-hub engine``: backup and restore of a hub that is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syndb_common.daemon import configure_logging, report_errors
from syndb_common.errors import ConfigError
from syndb_common.settings import load
from syndb_hub.commands.common import Config, note
from syndb_hub.settings import HubSettings

app = typer.Typer(no_args_is_help=True, help="The hub's data: back them up, restore them.")


@app.command()
def backup(
    config: Config,
    target: Annotated[Path, typer.Argument(help="The new file, or a folder that exists, in which one is made.")],
) -> None:
    """Save keys, configuration, registry, results and every published version to one file. The hub must be stopped.

    The file holds the hub's key and passwords: keep it as you keep those.
    """
    with report_errors() as outcome:
        configure_logging("warning")
        from syndb_common.engine.backup import Home
        from syndb_common.engine.backup import backup as save
        from syndb_hub import lock

        settings = load(HubSettings, config)
        if settings.engine.kind == "server":
            raise ConfigError(
                "the versions of this hub are on a ClickHouse server",
                hint="Back that up by its own means, and the hub's data_dir and configuration by copying them.",
            )
        with lock.hold(settings.data_dir):
            typer.echo(save(Home("hub", "", settings.data_dir, config), target, note))
    raise typer.Exit(outcome.code)


@app.command()
def restore(
    archive: Annotated[Path, typer.Argument(help="The file that `backup` has made.")],
    data_dir: Annotated[Path, typer.Option(help="A new or empty folder for the hub's data.", envvar="SYNDB_DATA_DIR")],
) -> None:
    """Put a hub back as it was when it was saved. Nothing is ever overwritten.

    Every checksum and every content hash is checked first. The configuration is restored as hub.toml in that folder.
    """
    with report_errors() as outcome:
        configure_logging("warning")
        from syndb_common.engine.backup import restore as put_back

        config = put_back(archive, "hub", data_dir, note)
        typer.echo(f"restored; its configuration is {config}")
        settings = load(HubSettings, config)
        if settings.data_dir.resolve() != config.parent:
            note(f'Before you start the hub, write data_dir = "{config.parent}" into it.')
    raise typer.Exit(outcome.code)
