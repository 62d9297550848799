"""What a node is made of. The only place where its parts meet.

::

    network             libp2p; a node without it is none, so when it fails the daemon ends and is restarted
    node                one_for_one
    ├── engine          the process that owns ClickHouse's files and serves Flight
    ├── schema_keeper   applies the hub's migrations
    ├── ontology_keeper keeps the federation's terms
    ├── deliveries      brings parts to a hub that cannot fetch them
    ├── analytics       answers plans, under the owner's policy
    ├── cluster         joins the hub and answers its pings
    │                   the node goes on while one of these fails:
    ├── relays          keeps reservations at relays
    └── records         finds, and is found, through the federation's members
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from importlib.metadata import version

import structlog
import trio

from actors import key_rotation
from actors.analytics_delegate import AnalyticsDelegate, Running
from actors.catalogue import Catalogue
from actors.cluster import LEAVE_SECONDS, Cluster, Leave, Rejoin
from actors.delivering import Deliverer
from actors.hub_link import FoundHub, HubLink
from actors.hub_pins import HubPins
from actors.joining import FederationSecret, Membership
from actors.key_rotation import NodeKeys
from actors.node_state import NodeState
from actors.ontology_sync import OntologyFile, OntologyKeeper
from actors.part_metrics import count_events
from actors.remote.circuits import Circuits
from actors.remote.discovery.dht import Dht
from actors.remote.discovery.hub import find_hub
from actors.remote.discovery.mdns import Mdns, open_mdns
from actors.remote.discovery.records import cluster as cluster_name
from actors.remote.discovery.static import configured, configured_peers, through_relays
from actors.remote.host import Host
from actors.remote.multiaddrs import leads_elsewhere, only_loopback
from actors.remote.policy import Policy as RpcPolicy
from actors.remote.policy import Trust
from actors.remote.relay import RelayService
from actors.remote.rpc import RemoteRef, RpcClient
from actors.remote.rpc_server import RpcServer
from actors.runtime import ActorError, ActorRef, ChildSpec, Intensity, Supervisor, Tree, run_tree
from actors.schema_sync import SchemaKeeper
from actors.service import Service, dispensable
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.settings import Server
from syndb_common.errors import ConfigError, SynDBError
from syndb_common.messages import (
    AnalyticsQuery,
    CancelQuery,
    DatasetCatalogRequest,
    Endpoints,
    GetFlightEndpoint,
    HealthPing,
    OntologySync,
    SchemaSync,
)
from syndb_common.metrics import Sample, serve_metrics
from syndb_common.node_settings import NodeSettings
from syndb_node.metrics import readings
from syndb_node.policy import Policy

log = structlog.get_logger(__name__)

FIND_SECONDS = 20.0
"""One search for the hub; then the failure is logged and the search goes on."""
INTENSITY = Intensity(restarts=10, within=60.0)
"""An engine that dies more than ten times a minute will not get well by being started again."""

Reload = Callable[[], NodeSettings]
"""Reads the configuration again; raises ConfigError."""


async def serve(
    settings: NodeSettings,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    *,
    reload: Reload | None = None,
) -> None:
    """Run a node until cancelled; started once it listens, whether or not the hub is there.

    Args:
        settings: its configuration.
        task_status: told when it listens.
        reload: what SIGHUP calls to read the configuration again; None leaves the signal alone.
    """
    async with AsyncExitStack() as stack:
        # Before anything else: an unexpected SIGHUP ends a process.
        hangups = stack.enter_context(trio.open_signal_receiver(signal.SIGHUP)) if reload is not None else None
        keys = await trio.to_thread.run_sync(key_rotation.load_keys, settings.data_dir)
        pins = await trio.to_thread.run_sync(HubPins, settings.data_dir, settings.federation.hub_peer_id)
        server = await trio.to_thread.run_sync(settings.engine.server)
        nursery = await stack.enter_async_context(trio.open_nursery())
        work = trio.CancelScope()
        parts = _Parts(settings, keys, pins, server)
        try:
            tree: Tree = await nursery.start(parts.run, work)
            # From here on the parts outlive a cancellation by the moment it takes to say goodbye.
            work.shield = True
            log.info("node started", cluster=settings.cluster.name, peer_id=keys.identity.peer_id)
            task_status.started()
            if reload is not None and hangups is not None:
                async for _ in hangups:
                    await parts.reload(tree, reload)
            await trio.sleep_forever()
        finally:
            if parts.listening.is_set():
                with trio.move_on_after(LEAVE_SECONDS, shield=True):
                    await parts.leave(tree)
            work.cancel()


class _Parts:
    """The parts and who is given what."""

    def __init__(self, settings: NodeSettings, keys: NodeKeys, pins: HubPins, server: Server | None) -> None:
        self._settings = settings
        self._pins = pins
        self.listening = trio.Event()
        self._host = Host(keys.identity, settings.federation.listen, known=pins.trusts)
        self._mdns: Mdns | None = None
        self._client = RpcClient(self._host)
        self._engine = LocalEngine(
            settings.data_dir / "engine", server=server, flight=settings.flight.server(settings.data_dir)
        )
        self._policy = Policy(settings.policy)
        self._catalogue = Catalogue(self._engine, self._policy.share)
        self._ontology = OntologyFile(settings.data_dir / "ontology.json")
        self._deliverer = Deliverer(lambda: self._engine.flight_here)
        self._running = Running(settings.limits.concurrent_queries)
        self._secret = FederationSecret(settings.federation.password)
        self._state = NodeState(settings.data_dir, settings.cluster.name, keys.identity.peer_id)
        federation = settings.federation
        on_one_machine = only_loopback((*federation.listen, *federation.hub_multiaddrs, *federation.bootstrap))
        self._circuits = Circuits(self._host, configured_peers(federation.relays))
        self._dht = (
            Dht(
                self._host,
                keys.identity,
                name=cluster_name(settings.cluster.name),
                trusted=pins.trusts,
                vouches=pins.trusts,
                may_dial=lambda _peer_id, address: leads_elsewhere(address, local_too=on_one_machine),
                bootstrap=configured_peers(federation.bootstrap),
                folder=settings.data_dir / "dht",
            )
            if federation.enable_dht
            else None
        )
        if federation.serve_relay:
            RelayService(self._host, pins.trusts)
        self._link = HubLink(
            folder=settings.data_dir,
            membership=Membership(
                name=settings.cluster.name,
                institution=settings.cluster.institution,
                description=settings.cluster.description,
                contact_email=settings.cluster.contact_email,
                software=f"syndb-node {version('syndb')}",
            ),
            keys=keys,
            pins=pins,
            secret=self._secret,
            find_hub=self._find_hub,
            hub_url=lambda: self._settings.federation.hub_url,
            endpoints=self._endpoints,
        )

    async def run(
        self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[Tree] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run everything until ``scope`` is cancelled; started with the tree once the host listens."""
        with scope:
            async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
                if self._settings.federation.enable_mdns:
                    self._mdns = await stack.enter_async_context(open_mdns())
                tree: Tree = await nursery.start(run_tree, self._supervisor())
                # A hub that finds the port open must find somebody who answers: listening comes last.
                self._answer_hub(tree)
                await nursery.start(self._host.run)
                nursery.start_soon(count_events, tree)
                await nursery.start(serve_metrics, self._settings.metrics.listen, self._readings)
                self.listening.set()
                task_status.started(tree)

    async def reload(self, tree: Tree, read: Reload) -> None:
        """Join anew with what is configured now: password, addresses, pinned hub. Queries go on."""
        try:
            settings = await trio.to_thread.run_sync(read)
            federation = settings.federation
            await self._pins.reload(federation.hub_peer_id)
        except SynDBError as error:
            log.warning("configuration not read again", cause=error.message, hint=error.hint)
            return
        kept = self._settings.federation.model_copy(update={name: getattr(federation, name) for name in _RELOADED})
        if settings != self._settings.model_copy(update={"federation": federation}) or federation != kept:
            log.warning("some settings take effect when the node is restarted", at_once=_RELOADED)
        self._settings = self._settings.model_copy(update={"federation": kept})
        self._secret.replace(federation.password)
        log.info("configuration read again", hub=self._pins.current)
        with contextlib.suppress(ActorError):  # too much is waiting: the next attempt to join will see it
            tree.ref("cluster").tell(Rejoin())

    async def leave(self, tree: Tree) -> None:
        """Tell the hub that the node stops, if it is joined and the hub answers."""
        try:
            await tree.ref("cluster").ask(Leave(), timeout=LEAVE_SECONDS)
        except (SynDBError, ActorError) as error:
            log.info("the hub was not told that the node stops", cause=str(error))

    def _supervisor(self) -> Supervisor:
        """The tree of the module's docstring."""
        return Supervisor(
            "node",
            children=[
                ChildSpec("engine", lambda: Service(self._engine.run)),
                ChildSpec(
                    "schema_keeper", lambda: SchemaKeeper(engine=self._engine, changed=self._catalogue.look_again)
                ),
                ChildSpec("ontology_keeper", lambda: OntologyKeeper(file=self._ontology)),
                ChildSpec("deliveries", lambda: Service(self._deliverer.run)),
                ChildSpec("analytics", self._analytics),
                ChildSpec("cluster", self._cluster),
                *dispensable(
                    relays=self._circuits.run if self._settings.federation.relays else None,
                    records=None if self._dht is None else self._dht.run,
                ),
            ],
            intensity=INTENSITY,
        )

    def _answer_hub(self, tree: Tree) -> None:
        """Route the messages of the pinned hub, and of nobody else, to the actors."""
        policy = RpcPolicy(lambda peer_id: Trust.HUB if self._pins.trusts(peer_id) else Trust.ANYONE)
        cluster, analytics = tree.ref("cluster"), tree.ref("analytics")
        routes: dict[type, ActorRef] = {
            HealthPing: cluster,
            DatasetCatalogRequest: cluster,
            GetFlightEndpoint: cluster,
            SchemaSync: tree.ref("schema_keeper"),
            OntologySync: tree.ref("ontology_keeper"),
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
            deliverer=self._deliverer,
            frame_bytes=self._settings.limits.frame_bytes,
        )

    def _cluster(self) -> Cluster:
        return Cluster(
            link=self._link,
            catalogue=self._catalogue,
            state=self._state,
            load=lambda: len(self._running),
            silence_seconds=lambda: self._settings.federation.hub_silence_seconds,
            lost=self._host.lost,
            ontology_revision=lambda: self._ontology.revision,
        )

    def _readings(self) -> Iterator[Sample]:
        return readings(
            joined=self._state.joined,
            running=len(self._running),
            engine_ok=self._catalogue.engine == "ok",
            versions=self._catalogue.versions,
            network=self._host.counters,
        )

    def _endpoints(self) -> Endpoints:
        return Endpoints(
            multiaddrs=self._host.addresses,
            flight=self._engine.flight_location,
            flight_certificate=self._engine.flight_certificate,
        )

    async def _find_hub(self) -> FoundHub:
        await self.listening.wait()
        federation = self._settings.federation
        pinned = self._pins.followed
        try:
            federation.check_hub_addresses(pinned)
        except ConfigError as error:
            log.warning("an address does not lead to the hub", cause=error.message, hint=error.hint)
        sources = [configured(federation.hub_addresses_of(pinned)), through_relays(federation.relays, pinned)]
        if self._mdns is not None:
            sources.append(self._mdns.heard("hub"))
        if self._dht is not None:
            sources.append(self._dht.hubs(pinned))
        found = await find_hub(self._host, pinned, sources, timeout=FIND_SECONDS)
        return FoundHub(found.peer_id, RemoteRef(self._client, found.peer_id, lambda: found.addresses, "syndb-hub"))


_RELOADED = ("password", "hub_peer_id", "hub_multiaddrs", "hub_url", "hub_silence_seconds")
"""What SIGHUP changes of a running node: what joining looks at anew. Its places at relays are kept from the start."""
