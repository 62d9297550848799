"""``syndb-hub key``: change the hub's own key without losing a node."""

from __future__ import annotations

from typing import Annotated

import typer

from syndb_common.daemon import report_errors
from syndb_common.errors import Conflict
from syndb_common.settings import load
from syndb_hub.commands.common import AsJson, Config, note, print_json, store_path
from syndb_hub.settings import HubSettings

app = typer.Typer(no_args_is_help=True, help="The hub's key: make the next one, announce it, change to it.")


@app.command("next")
def make_next(config: Config) -> None:
    """Make the key the hub will change to, and print its PeerId."""
    with report_errors() as outcome:
        from syndb_hub.keys import Keys

        identity = Keys(load(HubSettings, config).data_dir).make_next()
        typer.echo(identity.peer_id)
        note(f"the running hub announces it after: syndb-hub reload --config {config}")
    raise typer.Exit(outcome.code)


@app.command()
def show_state(config: Config, as_json: AsJson = False) -> None:
    """Print the PeerIds of the present and the next key, and which active nodes do not know the next one yet."""
    with report_errors() as outcome:
        from syndb_hub.keys import Announcement, Keys
        from syndb_hub.store.once import once

        settings = load(HubSettings, config)
        path, keys = store_path(settings), Keys(settings.data_dir)
        current, coming = keys.load_current().peer_id, keys.load_next()
        missing = [] if coming is None else once(path, lambda store: Announcement(store).missing(coming.peer_id))
        if as_json:
            print_json({"current": current, "next": coming and coming.peer_id, "not_told": missing})
        else:
            typer.echo(f"present key: {current}")
            typer.echo(f"next key: {coming.peer_id if coming else 'none'}")
            if coming is not None:
                typer.echo(f"not told yet: {', '.join(missing) or 'nobody'}")
    raise typer.Exit(outcome.code)


@app.command()
def change(
    config: Config,
    force: Annotated[bool, typer.Option("--force", help="Even if active nodes do not know the next key.")] = False,
) -> None:
    """Put the next key in place of the present one, which is kept. The hub must be stopped."""
    with report_errors() as outcome:
        from syndb_hub import keys, lock
        from syndb_hub.store.once import once

        settings = load(HubSettings, config)
        if lock.running(settings.data_dir) is not None:
            raise Conflict("the hub is running", hint="Stop it, change the key, and start it again.")
        path = store_path(settings)
        with lock.hold(settings.data_dir):
            once(path, lambda store: keys.change(keys.Keys(settings.data_dir), store, force=force))
        note(f"the hub is {keys.Keys(settings.data_dir).load_current().peer_id} from its next start on")
    raise typer.Exit(outcome.code)
