"""``syndb-hub init``, ``run``, ``reload``, ``id`` and ``check-config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syndb_common.daemon import configure_logging, report_errors, run_daemon
from syndb_common.errors import Conflict
from syndb_common.settings import load, render, write_private
from syndb_common.tracing import export_traces
from syndb_hub.commands.common import Config, note
from syndb_hub.settings import HubSettings


def init(
    config: Config,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the hub's data; beside the file by default.", envvar="SYNDB_DATA_DIR")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a configuration with a strong federation password, and create the hub's key."""
    with report_errors() as outcome:
        from actors.remote.proof import generate_secret
        from syndb_hub.keys import Keys

        if config.exists() and not force:
            raise Conflict(f"{config} exists", hint="Use --force to replace it; nodes must then get its new password.")
        folder = (data_dir or config.parent / "hub").absolute()
        values = {"data_dir": str(folder), "federation": {"password": generate_secret()}}
        identity = Keys(folder).load_current()
        write_private(config, render(HubSettings, values))
        note(f"wrote {config}; this hub is {identity.peer_id}")
        note(f"start it with: syndb-hub run --config {config}")
    raise typer.Exit(outcome.code)


def run(config: Config) -> None:
    """Run the hub until SIGTERM or Ctrl-C."""
    with report_errors() as outcome:
        settings = load(HubSettings, config)
        configure_logging(settings.log_level)
        export_traces("syndb-hub")
        from syndb_hub.tree import serve

        outcome.code = run_daemon(
            lambda task_status: serve(settings, task_status, reread=lambda: load(HubSettings, config))
        )
    raise typer.Exit(outcome.code)


def reload(config: Config) -> None:
    """Have the running hub read its passwords, its next key and its log level again."""
    with report_errors() as outcome:
        from syndb_hub.lock import tell_to_reload

        tell_to_reload(load(HubSettings, config).data_dir)
        note("the hub was told to read its configuration again; its log says what changed")
        note("what else changed counts from the next start on; the log says which keys these are")
    raise typer.Exit(outcome.code)


def show_id(config: Config) -> None:
    """Print the hub's PeerId, which nodes pin."""
    with report_errors() as outcome:
        from syndb_hub.keys import Keys

        typer.echo(Keys(load(HubSettings, config).data_dir).load_current().peer_id)
    raise typer.Exit(outcome.code)


def check_config(config: Config) -> None:
    """Check the configuration file and the key files, and say what is wrong with them."""
    with report_errors() as outcome:
        from actors.remote.identity import Identity
        from syndb_hub.keys import Keys

        settings = load(HubSettings, config)
        settings.engine.server()
        keys = Keys(settings.data_dir)
        for path in (keys.current, keys.next, keys.previous):
            if path.exists():
                Identity.load(path)
        if not keys.current.exists():
            note(f"there is no key at {keys.current} yet; the hub makes one when it starts")
        typer.echo(f"{config} is valid: data in {settings.data_dir}")
    raise typer.Exit(outcome.code)
