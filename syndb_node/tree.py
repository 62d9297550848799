"""What a node is made of. The only place where its parts meet.

::

    network             libp2p; a node without it is none, so when it fails the daemon ends and is restarted
    node                one_for_one
    ├── engine          the process that owns ClickHouse's files and serves Flight
    ├── schema_keeper   applies the hub's migrations
    ├── analytics       answers plans, under the owner's policy
    └── cluster         joins the hub and answers its pings
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from importlib.metadata import version

import structlog
import trio

from actors.analytics_delegate import AnalyticsDelegate, Running
from actors.cluster import Catalogue, Cluster, Membership
from actors.remote.discovery.hub import find_hub
from actors.remote.discovery.mdns import Mdns, open_mdns
from actors.remote.discovery.static import configured, through_relays
from actors.remote.host import Host
from actors.remote.identity import Identity
from actors.remote.policy import Policy as RpcPolicy
from actors.remote.policy import Trust
from actors.remote.proof import derive_key
from actors.remote.rpc import RemoteRef, RpcClient, RpcServer
from actors.runtime import ActorRef, ChildSpec, Intensity, Supervisor, Tree, run_tree
from actors.schema_sync import SchemaKeeper
from actors.service import Service
from syndb_common.engine.embedded import EmbeddedEngine
from syndb_common.flight.settings import FlightSettings
from syndb_common.messages import (
    AnalyticsQuery,
    CancelQuery,
    DatasetCatalogRequest,
    Endpoints,
    GetFlightEndpoint,
    HealthPing,
    SchemaSync,
)
from syndb_common.node_settings import NodeSettings
from syndb_node.policy import Policy

log = structlog.get_logger(__name__)

FIND_SECONDS = 20.0
"""One search for the hub; then the failure is logged and the search goes on."""
INTENSITY = Intensity(restarts=10, within=60.0)
"""An engine that dies more than ten times a minute will not get well by being started again."""


async def serve(settings: NodeSettings, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Run a node until cancelled; started once it listens, whether or not the hub is there."""
    identity = await trio.to_thread.run_sync(Identity.load_or_create, settings.data_dir / "identity.key")
    federation = settings.federation
    key = await derive_key(federation.password.get_secret_value(), federation.hub_peer_id)
    host = Host(identity, federation.listen)
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        mdns = await stack.enter_async_context(open_mdns()) if federation.enable_mdns else None
        parts = _Parts(settings, identity, key, host, mdns)
        tree: Tree = await nursery.start(run_tree, parts.supervisor())
        # A hub that finds the port open must find somebody who answers: listening comes last.
        parts.answer_hub(tree)
        await nursery.start(host.run)
        parts.listening.set()
        log.info("node started", cluster=settings.cluster.name, peer_id=identity.peer_id, listen=list(host.addresses))
        task_status.started()


class _Parts:
    """The parts and who is given what."""

    def __init__(self, settings: NodeSettings, identity: Identity, key: bytes, host: Host, mdns: Mdns | None) -> None:
        self._settings = settings
        self.listening = trio.Event()
        self._host = host
        self._mdns = mdns
        self._client = RpcClient(host)
        self._engine = EmbeddedEngine(settings.data_dir / "engine", flight=_flight(settings))
        self._policy = Policy(settings.policy)
        self._catalogue = Catalogue(self._engine, self._policy.share)
        self._running = Running(settings.limits.concurrent_queries)
        self._membership = Membership(
            name=settings.cluster.name,
            node_peer_id=identity.peer_id,
            hub_peer_id=settings.federation.hub_peer_id,
            key=key,
            institution=settings.cluster.institution,
            description=settings.cluster.description,
            contact_email=settings.cluster.contact_email,
            software=f"syndb-node {version('syndb')}",
        )

    def supervisor(self) -> Supervisor:
        """The tree of the module's docstring."""
        return Supervisor(
            "node",
            children=[
                ChildSpec("engine", lambda: Service(self._engine.run)),
                ChildSpec("schema_keeper", lambda: SchemaKeeper(engine=self._engine)),
                ChildSpec("analytics", self._analytics),
                ChildSpec("cluster", self._cluster),
            ],
            intensity=INTENSITY,
        )

    def answer_hub(self, tree: Tree) -> None:
        """Route the messages of the pinned hub, and of nobody else, to the actors."""
        hub_peer_id = self._settings.federation.hub_peer_id
        policy = RpcPolicy(lambda peer_id: Trust.HUB if peer_id == hub_peer_id else Trust.ANYONE)
        cluster, analytics, schema_keeper = (tree.ref(name) for name in ("cluster", "analytics", "schema_keeper"))
        routes: dict[type, ActorRef] = {
            HealthPing: cluster,
            DatasetCatalogRequest: cluster,
            GetFlightEndpoint: cluster,
            SchemaSync: schema_keeper,
            AnalyticsQuery: analytics,
            CancelQuery: analytics,
        }
        RpcServer(self._host, policy, routes)

    def _analytics(self) -> AnalyticsDelegate:
        return AnalyticsDelegate(
            engine=self._engine,
            running=self._running,
            catalogue=self._catalogue,
            guard=lambda plan: self._policy.check(plan, self._catalogue.versions),
            limits=self._settings.limits.for_query,
        )

    def _cluster(self) -> Cluster:
        return Cluster(
            membership=self._membership,
            catalogue=self._catalogue,
            endpoints=self._endpoints,
            find_hub=self._find_hub,
            load=lambda: len(self._running),
            state_file=self._settings.data_dir / "federation-state.json",
            silence_seconds=self._settings.federation.hub_silence_seconds,
        )

    def _endpoints(self) -> Endpoints:
        return Endpoints(
            multiaddrs=self._host.addresses,
            flight=self._engine.flight_location,
            flight_certificate=self._engine.flight_certificate,
        )

    async def _find_hub(self) -> ActorRef:
        await self.listening.wait()
        federation = self._settings.federation
        hub_peer_id = federation.hub_peer_id
        sources = [configured(federation.hub_addresses), through_relays(federation.relays, [hub_peer_id])]
        if self._mdns is not None:
            sources.append(self._mdns.heard("hub"))
        found = await find_hub(self._host, [hub_peer_id], sources, timeout=FIND_SECONDS)
        return RemoteRef(self._client, found.peer_id, lambda: found.addresses, "syndb-hub")


def _flight(settings: NodeSettings) -> FlightSettings:
    return FlightSettings(
        host=settings.flight.host,
        port=settings.flight.port,
        certificate_folder=settings.data_dir / "engine" / "tls",
        advertise=settings.flight.advertise or "localhost",
    )
