"""``syndb-hub token``: credentials of programs and people."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from syndb_common.daemon import report_errors
from syndb_common.errors import NotFound
from syndb_common.settings import load
from syndb_hub.auth.principal import Right
from syndb_hub.commands.common import Config, note, store_path
from syndb_hub.settings import HubSettings

app = typer.Typer(no_args_is_help=True, help="API tokens. They work at once, also while the hub is running.")


@app.command()
def create(
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

        path = store_path(load(HubSettings, config))
        if replace:
            try:
                commands.revoke_token(path, name)
            except NotFound:
                note(f"there was no token named {name}")
        typer.echo(commands.create_token(path, name, scope, timedelta(days=days)).text)
    raise typer.Exit(outcome.code)


@app.command("list")
def show(config: Config) -> None:
    """List the tokens: names, scopes, expiry; never the secrets."""
    with report_errors() as outcome:
        from syndb_hub.auth import commands

        for record in commands.list_tokens(store_path(load(HubSettings, config))):
            state = "revoked" if record.revoked_at else f"until {record.expires_at:%Y-%m-%d %H:%M} UTC"
            typer.echo(f"{record.id}  {record.name}  {','.join(record.scopes)}  {state}")
    raise typer.Exit(outcome.code)


@app.command()
def revoke(config: Config, token: Annotated[str, typer.Argument(help="Name or id of the token.")]) -> None:
    """Revoke a token; its next use is refused."""
    with report_errors() as outcome:
        from syndb_hub.auth import commands

        commands.revoke_token(store_path(load(HubSettings, config)), token)
        note(f"revoked {token}")
    raise typer.Exit(outcome.code)
