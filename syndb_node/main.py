"""The ``syndb-node`` command."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from syndb_common import invitation
from syndb_common.asking import agreed
from syndb_common.daemon import configure_logging, report_errors, run_daemon
from syndb_common.errors import ConfigError, InvalidRequest
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import load
from syndb_common.tracing import export_traces
from syndb_node import engine_commands

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The daemon of one institution in a SynDB federation. `init` writes its configuration.",
)
app.add_typer(engine_commands.app, name="engine")

Config = Annotated[Path, typer.Option("--config", help="Configuration file.", envvar="SYNDB_NODE_CONFIG")]


@app.command()
def init(
    config: Config,
    invite: Annotated[
        str,
        typer.Option(help="The invitation of the hub's operator, a secret line; `-` reads it from standard input."),
    ] = "",
    invite_file: Annotated[Path | None, typer.Option(help="A file with that line.")] = None,
    cluster_name: Annotated[str, typer.Option(help="Unique name of this node.", envvar="FEDERATION_CLUSTER_NAME")] = "",
    hub_peer_id: Annotated[str, typer.Option(help="The hub's PeerId, when there is no invitation.")] = "",
    federation_password: Annotated[
        str,
        typer.Option(help="The federation password, when there is no invitation.", envvar="SYNDB_FEDERATION_PASSWORD"),
    ] = "",
    institution: Annotated[str, typer.Option(help="Shown to users.")] = "",
    hub_multiaddr: Annotated[list[str] | None, typer.Option(help="libp2p address of the hub. Repeatable.")] = None,
    hub_url: Annotated[str, typer.Option(help="The hub's REST API.", envvar="SYNDB_HUB_URL")] = "",
    flight_advertise: Annotated[str, typer.Option(help="host:port of the Flight server as the hub sees it.")] = "",
    share: Annotated[str, typer.Option(help="What leaves the node: none, count, aggregate or rows.")] = "",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the node's data.", envvar="SYNDB_DATA_DIR")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a node's configuration and create its key, as `syndb federation init` does."""
    with report_errors() as outcome:
        from actors.node_setup import NewNode, set_up

        facts: dict[str, Any] = {
            "cluster_name": cluster_name,
            "hub_multiaddrs": tuple(hub_multiaddr or ()),
            "hub_url": hub_url,
            "institution": institution,
            "flight_advertise": flight_advertise,
            "share": share,
            "data_dir": data_dir,
        }
        invited = invitation.read(invite, invite_file)
        if invited is not None:
            node = NewNode.invited(invited, **facts)
        else:
            if not (hub_peer_id and federation_password and cluster_name):
                raise ConfigError(
                    "neither an invitation nor all of name, hub and password are given",
                    hint="Give --invite-file, or --cluster-name, --hub-peer-id and SYNDB_FEDERATION_PASSWORD.",
                )
            node = NewNode(hub_peer_id=hub_peer_id, password=federation_password, **facts)
        identity = set_up(node, config, replace=force)
        typer.echo(f"wrote {config}; this node is {identity.peer_id}")
    raise typer.Exit(outcome.code)


@app.command()
def run(config: Config) -> None:
    """Run the node until SIGTERM or Ctrl-C."""
    with report_errors() as outcome:
        settings = load(NodeSettings, config)
        configure_logging(settings.log_level)
        export_traces("syndb-node")
        from syndb_node.tree import serve

        outcome.code = run_daemon(
            lambda task_status: serve(settings, task_status, reload=lambda: load(NodeSettings, config))
        )
    raise typer.Exit(outcome.code)


@app.command("id")
def show_id(config: Config) -> None:
    """Print the node's PeerId, making its key when there is none yet."""
    with report_errors() as outcome:
        from actors.key_rotation import load_keys

        typer.echo(load_keys(load(NodeSettings, config).data_dir).identity.peer_id)
    raise typer.Exit(outcome.code)


@app.command()
def trust(
    config: Config,
    peer_id: Annotated[
        str, typer.Argument(help="The hub's PeerId, from its operator; without it the pins are shown.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Show the hub keys this node obeys, or obey another hub from now on.

    A node follows its hub when that announces another key. Pin one yourself when the hub has lost its key, or was
    restored with a former one, and its operator has told you its PeerId by a channel you trust.
    """
    with report_errors() as outcome:
        from actors import hub_pins
        from actors.hub_pins import Pins

        settings = load(NodeSettings, config)
        start = settings.federation.hub_peer_id
        if not peer_id:
            found = hub_pins.read(settings.data_dir)
            pins = found if found is not None and found.configured == start else Pins(configured=start, current=start)
            typer.echo(f"hub       {pins.current}\nnext key  {pins.successor or 'none announced'}")
        elif not hub_pins.can_be_pinned(peer_id):
            raise InvalidRequest(f"{peer_id[:100]!r} is not the PeerId of a hub", hint="`syndb-hub id` prints it.")
    if outcome.code or not peer_id:
        raise typer.Exit(outcome.code)
    typer.echo(f"This node will obey the hub {peer_id} and no other: it answers its questions, within the")
    typer.echo("owner's policy, and takes its schema. All hub keys pinned before are refused.")
    sure = False
    with report_errors() as outcome:
        sure = agreed(yes, "Has the hub's operator told you this PeerId?")
    if not sure:
        raise typer.Exit(outcome.code or 1)
    with report_errors() as outcome:
        hub_pins.write(settings.data_dir, Pins(configured=start, current=peer_id))
        typer.echo("pinned; a running node heeds it on SIGHUP, and when it joins next")
    raise typer.Exit(outcome.code)


@app.command()
def rotate_key(config: Config) -> None:
    """Make a new key for this node, which keeps its name in the federation."""
    with report_errors() as outcome:
        from actors.key_rotation import NEXT_KEY, prepare_next

        folder = load(NodeSettings, config).data_dir
        keys = prepare_next(folder)
        typer.echo(f"the next key is {keys.identity.peer_id}")
        typer.echo("Restart the node: it joins with that key, signed by the present one, which stays until the hub")
        typer.echo(f"has accepted. To stay with the present key, remove {folder / NEXT_KEY} before.")
    raise typer.Exit(outcome.code)


@app.command()
def check_config(config: Config) -> None:
    """Check the configuration file and say what is wrong with it."""
    with report_errors() as outcome:
        settings = load(NodeSettings, config)
        settings.engine.server()
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
