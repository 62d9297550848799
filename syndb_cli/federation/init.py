"""``init``: set up a node, and join its hub once to see that everything is right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from syndb_cli.federation.node import is_running
from syndb_cli.federation.options import Config, default_config, settings_of
from syndb_cli.output import errors_as_lines, note, progress, quiet_logs, show_json, was_interrupted
from syndb_common.errors import ConfigError, InvalidRequest, SynDBError

if TYPE_CHECKING:
    from actors.node_setup import NewNode
    from syndb_common.invitation import Invitation

TRUSTED = (
    "You have not compared this PeerId with anybody: you trust that no one on this network pretends to be the hub.",
    "The node obeys this hub from now on, and no other. Compare the PeerId with what `syndb-hub id` prints there.",
)


def init(
    cluster_name: Annotated[str, typer.Option(help="Unique name of this node.", envvar="FEDERATION_CLUSTER_NAME")] = "",
    invite: Annotated[
        str,
        typer.Option(
            help="The line from the hub's operator (`syndb-hub invite`), a secret; - reads it from standard input.",
            envvar="SYNDB_INVITE",
            show_envvar=True,
        ),
    ] = "",
    invite_file: Annotated[Path | None, typer.Option(help="A file with that line.")] = None,
    hub_peer_id: Annotated[str, typer.Option(help="The hub's PeerId, from its operator (`syndb-hub id`).")] = "",
    trust_first_hub: Annotated[
        bool, typer.Option("--trust-first-hub", help="Pin the one hub that answers on this network.")
    ] = False,
    federation_password: Annotated[
        str, typer.Option(help="The federation password; asked for when missing.", envvar="SYNDB_FEDERATION_PASSWORD")
    ] = "",
    institution: Annotated[str, typer.Option(help="Shown to users.")] = "",
    description: Annotated[str, typer.Option(help="Shown to users.")] = "",
    contact_email: Annotated[str, typer.Option(help="For the hub's operator.")] = "",
    hub_multiaddr: Annotated[
        list[str] | None, typer.Option(help="libp2p address of the hub; needed beyond the LAN. Repeatable.")
    ] = None,
    hub_url: Annotated[
        str, typer.Option(help="The hub's REST API, to join where libp2p does not get through.", envvar="SYNDB_HUB_URL")
    ] = "",
    listen_addr: Annotated[list[str] | None, typer.Option(help="libp2p listen address. Repeatable.")] = None,
    flight_port: Annotated[int, typer.Option(help="Port of the Flight server.")] = 50052,
    flight_advertise: Annotated[str, typer.Option(help="host:port of it as the hub sees it.")] = "",
    share: Annotated[str, typer.Option(help="What leaves the node: none, count, aggregate or rows.")] = "aggregate",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the node's data.", envvar="SYNDB_DATA_DIR")] = None,
    clickhouse_endpoint: Annotated[str, typer.Option(hidden=True)] = "",
    clickhouse_http_port: Annotated[str, typer.Option(hidden=True)] = "",
    clickhouse_port: Annotated[str, typer.Option(hidden=True)] = "",
    config: Config = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Only write the file; do not try to join.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Set up a node: write its configuration, make its key, and join the hub once to see that all is right.

    The hub is named by an invitation (--invite-file), by its PeerId (--hub-peer-id) and the federation password, or,
    where you trust the network, by being the only one on it (--trust-first-hub). Afterwards start the daemon:
    syndb-node run.
    """
    with errors_as_lines(as_json=as_json):
        from actors.node_setup import set_up
        from syndb_common import invitation

        quiet_logs()
        if clickhouse_endpoint or clickhouse_http_port or clickhouse_port:
            note("the node has an engine of its own: --clickhouse changes nothing; a server is set in [engine]")
        facts: dict[str, Any] = {
            "cluster_name": cluster_name,
            "hub_multiaddrs": tuple(hub_multiaddr or ()),
            "hub_url": hub_url,
            "institution": institution,
            "description": description,
            "contact_email": contact_email,
            "listen": tuple(listen_addr or ()),
            "flight_port": flight_port,
            "flight_advertise": flight_advertise,
            "share": share,
            "data_dir": data_dir,
        }
        node = _described(
            invitation.read(invite, invite_file), hub_peer_id, trust_first_hub, federation_password, facts
        )
        path = config or default_config()
        identity = set_up(node, path, replace=force)
        note(f"wrote {path}; this node is {identity.peer_id}")
        joined = None if offline else _try_to_join(path)
        if as_json:
            show_json({"config": str(path), "peer_id": identity.peer_id, "joined": joined})
        note(f"start it with: syndb-node run --config {path}")


def _described(
    invited: Invitation | None, hub_peer_id: str, trust_first_hub: bool, password: str, facts: dict[str, Any]
) -> NewNode:
    """The node as the options describe it."""
    from actors.node_setup import NewNode

    if sum(map(bool, (invited, hub_peer_id, trust_first_hub))) != 1:
        raise InvalidRequest(
            "say which hub to join, in one way",
            hint="--invite-file FILE, or --invite -, or --hub-peer-id PEER_ID, or --trust-first-hub.",
        )
    if invited is not None:
        return NewNode.invited(invited, **facts)
    if not facts["cluster_name"]:
        raise ConfigError("the node needs a name", hint="--cluster-name, or FEDERATION_CLUSTER_NAME.")
    if trust_first_hub:
        hub_peer_id, facts["hub_multiaddrs"] = _first_hub(facts["hub_multiaddrs"])
    password = password or typer.prompt("Federation password", hide_input=True)
    return NewNode(hub_peer_id=hub_peer_id, password=password, **facts)


def _first_hub(configured: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    import trio

    from syndb_cli.federation.reaching import first_hub

    with progress("listening for hubs on this network"):
        found = trio.run(first_hub)
    note(f"pinned the hub {found.peer_id}, the only one that answers on this network")
    for line in TRUSTED:
        note(line, "yellow")
    return found.peer_id, configured or found.addresses


def _try_to_join(path: Path) -> dict[str, Any] | None:
    """Join once; a failure is told with the file that is kept."""
    import trio

    from syndb_cli.federation.reaching import register_once
    from syndb_common.daemon import first_error

    settings = settings_of(path)
    if is_running(settings.data_dir):
        note("its daemon runs already and has not been disturbed: restart it to have the new configuration")
        return None
    try:
        with progress("joining the hub"):
            registered = trio.run(register_once, settings)
    except (SynDBError, BaseExceptionGroup) as raised:
        error = first_error(raised)
        if error is None or was_interrupted(raised):
            raise
        kept = f"{path} is kept, not verified: change it there, or repeat init with --force; --offline skips joining."
        error.hint = f"{error.hint} {kept}".strip()
        raise error from None
    note(f"joined as {settings.cluster.name}: the hub knows this node as {registered.cluster_id}")
    if registered.standing == "waiting":
        note(f"its operator has to approve it: syndb federation clusters activate {settings.cluster.name}", "yellow")
    return {"cluster_id": str(registered.cluster_id), "standing": registered.standing}
