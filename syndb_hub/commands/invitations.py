"""``syndb-hub invite``: one secret for one node, that can be revoked alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from syndb_common.daemon import report_errors
from syndb_common.settings import load
from syndb_hub.commands.common import AsJson, Config, note, print_json, store_path
from syndb_hub.settings import HubSettings

app = typer.Typer(
    help="Invite a node: print the one line it joins with. Works at once, also while the hub is running.",
)


@app.callback(invoke_without_command=True)
def invite(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", help="Configuration file.", envvar="SYNDB_HUB_CONFIG")
    ] = None,
    name: Annotated[str, typer.Option(help="The only cluster name it is good for; any by default.")] = "",
    days: Annotated[float, typer.Option(help="Days within which it must be used.", min=0.01, max=365)] = 7.0,
    address: Annotated[
        list[str] | None,
        typer.Option(help="Multiaddr at which the node reaches the hub, repeatable; the hub's own by default."),
    ] = None,
    url: Annotated[str, typer.Option(help="URL of the REST API, for nodes that libp2p does not get through to.")] = "",
    as_json: AsJson = False,
) -> None:
    """Print one line that names the hub, its addresses and a secret of its own for one node. Keep it secret."""
    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise typer.BadParameter("name the configuration file", param_hint="--config")
    with report_errors() as outcome:
        from syndb_hub import inviting
        from syndb_hub.keys import Keys
        from syndb_hub.store.once import once

        settings = load(HubSettings, config)
        path = store_path(settings)
        identity = Keys(settings.data_dir).load_current()
        made = once(
            path,
            lambda store: inviting.invite(
                store, settings, identity, name=name, lifetime=timedelta(days=days), addresses=address or (), url=url
            ),
        )
        if inviting.only_near(made.addresses):
            note("warning: these addresses lead nowhere from outside this network; name a public one with --address")
        if as_json:
            told = {"id": made.invitation.key_id, "line": made.line, "addresses": made.addresses}
            print_json({**told, "expires_at": made.invitation.expires_at.isoformat()})
        else:
            typer.echo(made.line)
    raise typer.Exit(outcome.code)


@app.command("list")
def show(config: Config, as_json: AsJson = False) -> None:
    """List the invitations and who used them; never the secrets."""
    with report_errors() as outcome:
        from syndb_hub.store.invitations import Invitations
        from syndb_hub.store.once import once

        found = once(store_path(load(HubSettings, config)), lambda store: Invitations(store).all())
        now = datetime.now(UTC)
        rows = []
        for each in found:
            state = "revoked" if each.revoked_at else "used" if each.used_by else "open"
            if state == "open" and each.expires_at <= now:
                state = "expired"
            rows.append(
                {
                    "id": each.key_id,
                    "name": each.cluster_name,
                    "state": state,
                    "used_by": each.used_by,
                    "expires_at": each.expires_at.isoformat(timespec="seconds"),
                }
            )
        if as_json:
            print_json(rows)
        for row in () if as_json else rows:
            detail = f"by {row['used_by']}" if row["used_by"] else f"until {row['expires_at']}"
            typer.echo(f"{row['id']}  {row['name'] or 'any name'}  {row['state']}  {detail}")
    raise typer.Exit(outcome.code)


@app.command()
def revoke(config: Config, invitation: Annotated[str, typer.Argument(help="Id of the invitation.")]) -> None:
    """Revoke an invitation: nobody joins with it any more, nor does the node that used it."""
    with report_errors() as outcome:
        from syndb_hub.store.invitations import Invitations
        from syndb_hub.store.once import once

        path = store_path(load(HubSettings, config))
        revoked = once(path, lambda store: Invitations(store).revoke(invitation, datetime.now(UTC)))
        note(f"revoked {invitation}")
        if revoked.used_by is not None:
            note(
                f"{revoked.used_by} joined with it and takes part until it joins anew; "
                "to exclude it now: syndb federation clusters deactivate"
            )
    raise typer.Exit(outcome.code)
