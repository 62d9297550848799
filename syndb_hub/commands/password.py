"""``syndb-hub password``: change the federation password while nodes go on working."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from syndb_common.daemon import report_errors
from syndb_common.errors import Conflict
from syndb_common.settings import load
from syndb_hub.commands.common import AsJson, Config, note, print_json, store_path
from syndb_hub.settings import HubSettings

if TYPE_CHECKING:
    from syndb_hub.passwords import Survey

app = typer.Typer(no_args_is_help=True, help="The federation password: rotate, tell the nodes, retire the old one.")


@app.command()
def rotate(
    config: Config,
    force: Annotated[bool, typer.Option("--force", help="Forget a previous password that is still accepted.")] = False,
) -> None:
    """Write a new password into the configuration; the present one stays accepted until it is retired."""
    with report_errors() as outcome:
        from syndb_hub import passwords

        passwords.rotate(config, force=force)
        note(f"{config} has a new federation.password; the hub accepts both after: syndb-hub reload --config {config}")
        note("give it to the nodes, then remove the old one: syndb-hub password retire")
    raise typer.Exit(outcome.code)


@app.command()
def retire(
    config: Config,
    force: Annotated[bool, typer.Option("--force", help="Even if nodes still join with it.")] = False,
) -> None:
    """Remove the previous password from the configuration, once no active node joined with it."""
    with report_errors() as outcome:
        from syndb_hub import passwords

        other = () if force else _survey(load(HubSettings, config)).other
        if other:
            raise Conflict(
                f"these nodes joined with the previous password, or with one that is not known: {', '.join(other)}",
                hint="Give them the new one, deactivate them, or use --force: they cannot join again without it.",
            )
        passwords.retire(config)
        note(f"the previous password is refused after: syndb-hub reload --config {config}")
    raise typer.Exit(outcome.code)


@app.command()
def show_state(config: Config, as_json: AsJson = False) -> None:
    """Say which passwords are accepted and which active nodes joined with which; never the passwords."""
    with report_errors() as outcome:
        settings = load(HubSettings, config)
        found = _survey(settings)
        rotating = bool(settings.federation.previous_password.get_secret_value())
        if as_json:
            print_json({"previous_accepted": rotating, **asdict(found)})
        else:
            typer.echo(f"previous password: {'accepted' if rotating else 'none'}")
            for label, names in (
                ("joined with the present password", found.current),
                ("joined with their invitation", found.invited),
                ("joined with the previous or an unknown one", found.other),
            ):
                typer.echo(f"{label}: {', '.join(names) or 'nobody'}")
    raise typer.Exit(outcome.code)


def _survey(settings: HubSettings) -> Survey:
    from syndb_hub import passwords
    from syndb_hub.keys import Keys
    from syndb_hub.store.once import once

    path = store_path(settings)
    peer_id = Keys(settings.data_dir).load_current().peer_id
    return once(path, lambda store: passwords.survey(store, settings, peer_id))
