"""Reaching the hub from the command line: every way there is, as the daemon tries them, but once and then no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

import trio

from actors.http_joining import join_over_http
from actors.hub_pins import HubPins
from actors.joining import Application, FederationSecret, Membership, join
from actors.key_rotation import load_keys
from actors.remote.discovery import PeerAddresses, Source
from actors.remote.discovery.dht import Dht
from actors.remote.discovery.hub import Reached, find_hub
from actors.remote.discovery.mdns import Mdns, open_mdns
from actors.remote.discovery.static import configured, configured_peers, through_relays
from actors.remote.host import Host, open_host
from actors.remote.identity import Identity
from actors.remote.rpc import RemoteRef, RpcClient
from syndb_common.errors import Conflict, PeerUnavailable, SynDBError
from syndb_common.messages import Endpoints, LeaveFederation, Registered
from syndb_common.node_settings import NodeSettings

FIND_SECONDS = 10.0
"""mDNS answers within three seconds on a LAN; the rest is for a slow line."""
LISTEN_SECONDS = 4.0
"""How long hubs of the local network are listened for before one is trusted: both of two have answered by then."""
DIAL_SECONDS = 5.0
MAX_HUBS = 8
"""Different hubs of one network that are tried; more than one are refused anyway."""
PORTS = ("/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0")
"""A command listens where there is room: the daemon's ports are the daemon's."""
NOWHERE = Endpoints(multiaddrs=(), flight="", flight_certificate="")

NOT_FOUND = (
    "Is the hub running? On another network name its address: --hub-multiaddr, or federation.hub_multiaddrs. "
    "Open UDP 4001, or TCP 4001 where UDP is blocked."
)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to find the hub: its name, and what it claims."""

    name: str
    source: Source


@dataclass(frozen=True, slots=True)
class Network:
    """A place on the network for as long as a command runs."""

    identity: Identity
    host: Host
    mdns: Mdns | None


def ways(settings: NodeSettings, hub_peer_ids: Sequence[str], network: Network) -> list[Way]:
    """The ways that the node's configuration allows.

    Raises:
        ConfigError: a configured address is none.
    """
    federation = settings.federation
    found = []
    if addresses := federation.hub_addresses_of(hub_peer_ids):
        found.append(Way("configured addresses", configured(addresses)))
    if federation.relays:
        found.append(Way("relays", through_relays(federation.relays, hub_peer_ids)))
    if network.mdns is not None:
        found.append(Way("mdns", network.mdns.heard("hub")))
    if federation.enable_dht and federation.bootstrap:
        bootstrap = configured_peers(federation.bootstrap)
        dht = Dht(
            network.host, network.identity, name=None, trusted=lambda peer: peer in hub_peer_ids, bootstrap=bootstrap
        )
        found.append(Way("dht", dht.hubs(hub_peer_ids)))
    return found


@asynccontextmanager
async def opened(identity: Identity, *, multicast: bool) -> AsyncIterator[Network]:
    """A host on ports of its own, and the local network if it is to be used."""
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(open_host(identity, PORTS))
        mdns = await stack.enter_async_context(open_mdns()) if multicast else None
        yield Network(identity, host, mdns)


async def register_once(settings: NodeSettings) -> Registered:
    """Join as the daemon will, and leave again: name, password and keys are known to be right afterwards.

    A next key (`syndb-node rotate-key`) is used as the daemon would; its file changes place when that joins.

    Raises:
        PeerUnavailable: the hub was not found.
        ConfigError: an address names another peer than the hub.
        JoinRefused, Conflict: the hub did not take the node; the message says why.
    """
    federation = settings.federation
    folder = settings.data_dir
    keys = await trio.to_thread.run_sync(load_keys, folder)
    pins = HubPins(folder, federation.hub_peer_id)
    federation.check_hub_addresses(pins.followed)
    hub_peer_id = pins.current
    key = await FederationSecret(federation.password).key(hub_peer_id)
    application = Application(
        membership=Membership(
            name=settings.cluster.name,
            institution=settings.cluster.institution,
            description=settings.cluster.description,
            contact_email=settings.cluster.contact_email,
            software=f"syndb {version('syndb')}",
        ),
        identity=keys.identity,
        predecessor=keys.predecessor,
        endpoints=NOWHERE,
        schema_version=0,
    )
    async with opened(keys.identity, multicast=federation.enable_mdns) as network:
        try:
            sources = [way.source for way in ways(settings, [hub_peer_id], network)]
            reached = await find_hub(network.host, [hub_peer_id], sources, timeout=FIND_SECONDS)
        except PeerUnavailable as error:
            if not federation.hub_url:
                raise PeerUnavailable(error.message, hint=NOT_FOUND) from None
        else:
            return await _join_and_leave(network.host, reached, key, application)
    return await join_over_http(federation.hub_url, hub_peer_id, key, application)


async def _join_and_leave(host: Host, reached: Reached, key: bytes, application: Application) -> Registered:
    hub = RemoteRef(RpcClient(host), reached.peer_id, lambda: reached.addresses, "syndb-hub")
    registered: Registered = await join(hub, reached.peer_id, key, application)
    try:
        await hub.ask(LeaveFederation(reason="set up, and not started yet"), timeout=DIAL_SECONDS)
    except SynDBError:
        return registered  # a hub that does not hear it finds out by pinging
    return registered


async def first_hub() -> PeerAddresses:
    """The one hub of this network that answers.

    Raises:
        PeerUnavailable: none does.
        Conflict: several do, and somebody has to say which.
    """
    claimed: dict[str, PeerAddresses] = {}
    answered: list[PeerAddresses] = []
    async with opened(Identity.generate(), multicast=True) as network:
        assert network.mdns is not None
        with trio.move_on_after(LISTEN_SECONDS):
            async with network.mdns.peers(role="hub") as findings:
                async for found in findings:
                    if found.peer_id in claimed or len(claimed) < MAX_HUBS:
                        claimed[found.peer_id] = found

        async def dial(found: PeerAddresses) -> None:
            try:
                await network.host.connect(found.peer_id, found.addresses, timeout=DIAL_SECONDS)
            except PeerUnavailable:
                return
            answered.append(found)

        async with trio.open_nursery() as nursery:
            for found in claimed.values():
                nursery.start_soon(dial, found)
    if not answered:
        raise PeerUnavailable(
            f"no hub was heard on this network within {LISTEN_SECONDS:g} s",
            hint="Multicast (UDP 5353) may be blocked, or the hub is on another network: ask its operator for an "
            "invitation, and use --invite-file.",
        )
    if len(answered) > 1:
        names = " and ".join(sorted(found.peer_id for found in answered))
        raise Conflict(
            f"{len(answered)} different hubs answer on this network: {names}",
            hint="Ask the operator of yours which one it is, and pin it: --hub-peer-id.",
        )
    return answered[0]
