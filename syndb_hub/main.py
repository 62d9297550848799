"""The ``syndb-hub`` command."""

from __future__ import annotations

from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from syndb_common.daemon import configure_logging, report_errors, run_daemon
from syndb_common.errors import Conflict, NotFound
from syndb_common.settings import load, render, write_private
from syndb_hub.auth.principal import Right
from syndb_hub.settings import HubSettings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The hub of a SynDB federation: registry of the nodes, REST API and pages.",
)
token_app = typer.Typer(no_args_is_help=True, help="API tokens. They work at once, also while the hub is running.")
app.add_typer(token_app, name="token")

Config = Annotated[Path, typer.Option("--config", help="Configuration file.", envvar="SYNDB_HUB_CONFIG")]


@app.command()
def init(
    config: Config,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the hub's data; beside the file by default.", envvar="SYNDB_DATA_DIR")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a configuration with a strong federation password, and create the hub's key."""
    with report_errors() as outcome:
        from actors.remote.identity import Identity
        from actors.remote.proof import generate_secret

        if config.exists() and not force:
            raise Conflict(f"{config} exists", hint="Use --force to replace it; nodes must then get its new password.")
        folder = (data_dir or config.parent / "hub").absolute()
        values = {"data_dir": str(folder), "federation": {"password": generate_secret()}}
        identity = Identity.load_or_create(folder / "identity.key")
        write_private(config, render(HubSettings, values))
        typer.echo(f"wrote {config}; this hub is {identity.peer_id}", err=True)
        typer.echo(f"start it with: syndb-hub run --config {config}", err=True)
    raise typer.Exit(outcome.code)


@app.command()
def run(config: Config) -> None:
    """Run the hub until SIGTERM or Ctrl-C."""
    with report_errors() as outcome:
        settings = load(HubSettings, config)
        configure_logging(settings.log_level)
        from syndb_hub.tree import serve

        outcome.code = run_daemon(lambda task_status: serve(settings, task_status))
    raise typer.Exit(outcome.code)


@app.command("id")
def show_id(config: Config) -> None:
    """Print the hub's PeerId, which nodes pin."""
    with report_errors() as outcome:
        from actors.remote.identity import Identity

        typer.echo(Identity.load_or_create(load(HubSettings, config).data_dir / "identity.key").peer_id)
    raise typer.Exit(outcome.code)


@app.command()
def check_config(config: Config) -> None:
    """Check the configuration file and say what is wrong with it."""
    with report_errors() as outcome:
        settings = load(HubSettings, config)
        typer.echo(f"{config} is valid: data in {settings.data_dir}")
    raise typer.Exit(outcome.code)


@token_app.command("create")
def create_token(
    config: Config,
    name: Annotated[str, typer.Option(help="Name of the token, to recognise it by.")],
    scope: Annotated[
        list[Right],
        typer.Option(help="Right, repeatable; query and federation by default. '*' is every right."),
    ] = [Right.QUERY, Right.FEDERATION],  # noqa: B006 - typer only reads it
    days: Annotated[float, typer.Option(help="Days until it expires.", min=0.01)] = 90.0,
    replace: Annotated[bool, typer.Option("--replace", help="Revoke a token of that name first.")] = False,
) -> None:
    """Make a token and print it; the hub keeps only a hash, so this is the one time it is shown."""
    with report_errors() as outcome:
        from syndb_hub.auth import commands

        path = _store(config)
        if replace:
            try:
                commands.revoke_token(path, name)
            except NotFound:
                typer.echo(f"there was no token named {name}", err=True)
        typer.echo(commands.create_token(path, name, scope, timedelta(days=days)).text)
    raise typer.Exit(outcome.code)


@token_app.command("list")
def list_tokens(config: Config) -> None:
    """List the tokens: names, scopes, expiry; never the secrets."""
    with report_errors() as outcome:
        from syndb_hub.auth import commands

        for record in commands.list_tokens(_store(config)):
            state = "revoked" if record.revoked_at else f"until {record.expires_at:%Y-%m-%d %H:%M} UTC"
            typer.echo(f"{record.id}  {record.name}  {','.join(record.scopes)}  {state}")
    raise typer.Exit(outcome.code)


@token_app.command("revoke")
def revoke_token(config: Config, token: Annotated[str, typer.Argument(help="Name or id of the token.")]) -> None:
    """Revoke a token; its next use is refused."""
    with report_errors() as outcome:
        from syndb_hub.auth import commands

        commands.revoke_token(_store(config), token)
        typer.echo(f"revoked {token}", err=True)
    raise typer.Exit(outcome.code)


def _store(config: Path) -> Path:
    settings = load(HubSettings, config)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return settings.data_dir / "hub.sqlite"


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
