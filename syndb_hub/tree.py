"""What a hub is made of. The only place where its parts meet.

::

    network, HTTP       a hub without them is none: when one fails the daemon ends and is restarted
    hub                 one_for_one
    ├── warehouse       the engine process with the hub's own data
    ├── merger          the engine process that merges what nodes send; it owns nothing
    ├── registry        admits nodes and writes the directory
    ├── schema_publisher, ontology_publisher  send migrations and terms
    ├── terms           notices when an operator has imported others
    ├── health_monitor  pings nodes
    ├── jobs            answers questions
    ├── downloads       prepares whole versions as files
    │                   the hub goes on while one of these fails:
    ├── announcer       notes who has been told the hub's next key
    ├── measurements    keeps what queries cost
    ├── ways            tries which nodes' Flight servers the hub reaches
    ├── relays          keeps the places through which the hub is reached, where some are configured
    └── records         says in the distributed hash table where the hub is
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
import trio

from actors.addresses import Approval
from actors.directory import Cluster, Directory
from actors.health import HealthPolicy, Watch
from actors.health_monitor import HealthMonitor
from actors.ontology_sync import OntologyPublisher
from actors.part_metrics import count_events
from actors.registry import Registry
from actors.remote.circuits import Circuits
from actors.remote.discovery.dht import Dht
from actors.remote.discovery.mdns import Mdns, open_mdns
from actors.remote.discovery.records import HUB
from actors.remote.discovery.static import configured_peers
from actors.remote.host import Host
from actors.remote.identity import Identity
from actors.remote.multiaddrs import split_peer
from actors.remote.policy import Policy as RpcPolicy
from actors.remote.policy import Trust
from actors.remote.relay import RelayService
from actors.remote.rpc import RemoteRef, RpcClient
from actors.remote.rpc_server import RpcServer
from actors.runtime import ActorRef, ChildSpec, Intensity, MailboxFull, Supervisor, Tree, run_tree
from actors.schema_sync import SchemaPublisher
from actors.service import Service, dispensable
from syndb_common.engine import published
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.settings import Server
from syndb_common.errors import Unavailable
from syndb_common.messages import CatalogAnnouncement, JoinRequest, LeaveFederation, RegisterCluster
from syndb_common.metrics import Sample, serve_metrics
from syndb_common.syql import Scope
from syndb_common.tables import schema
from syndb_common.tables.versions import PublishedVersion
from syndb_hub import lock
from syndb_hub.auth.tokens import TokenService
from syndb_hub.downloads import Downloads
from syndb_hub.federation.checks import Checks
from syndb_hub.federation.control import TreeControl
from syndb_hub.federation.fan_out import FanOut
from syndb_hub.federation.joining import HttpJoining
from syndb_hub.federation.measuring import Measurements
from syndb_hub.federation.queries import FederatedQueries
from syndb_hub.federation.targets import Holding, visible
from syndb_hub.federation.view import DirectoryView
from syndb_hub.federation.ways import ChosenWays
from syndb_hub.flight import FlightUsers, results_folder
from syndb_hub.health import StoresProbe
from syndb_hub.http import Services, create_app
from syndb_hub.http import serve as serve_http
from syndb_hub.jobs.runner import JobRunner
from syndb_hub.keys import Announcement, Announcer, Keys
from syndb_hub.metrics import readings
from syndb_hub.present import Present
from syndb_hub.settings import HubSettings
from syndb_hub.store.benchmarks import StoredBenchmarks
from syndb_hub.store.clusters import Clusters
from syndb_hub.store.database import Store
from syndb_hub.store.invitations import Invitations
from syndb_hub.store.ontology import StoredTerms

log = structlog.get_logger(__name__)

INTENSITY = Intensity(restarts=10, within=60.0)
"""An engine that dies more than ten times a minute will not get well by being started again."""

ANNOUNCE_SECONDS = 5.0
"""Between two looks at whether the machine's addresses have changed: half of a node's patience with a silent hub."""


def store_path(settings: HubSettings) -> Path:
    """The metadata store's file."""
    return settings.data_dir / "hub.sqlite"


async def serve(
    settings: HubSettings,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    *,
    reread: Callable[[], HubSettings] | None = None,
) -> None:
    """Run a hub until cancelled; started once it answers HTTP and nodes.

    Args:
        settings: the hub's.
        task_status: told when it has started.
        reread: reads the configuration again, at SIGHUP.

    Raises:
        ConfigError: the settings, the keys or the store cannot be used, or another hub has the folder.
    """
    await trio.Path(settings.data_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        # Before anybody can learn from the lock whom to signal: an unexpected SIGHUP ends a process.
        hangups = stack.enter_context(trio.open_signal_receiver(signal.SIGHUP))
        stack.enter_context(lock.hold(settings.data_dir))
        identity = await trio.to_thread.run_sync(Keys(settings.data_dir).load_current)
        server = await trio.to_thread.run_sync(settings.engine.server)
        present = Present(settings, identity.peer_id, reread)
        await present.load()
        federation = settings.federation
        host = Host(identity, federation.listen, max_connections=federation.max_connections)
        store = await Store.open(store_path(settings))
        stack.push_async_callback(store.close)
        terms = StoredTerms(store)
        await terms.load()
        mdns = await stack.enter_async_context(open_mdns()) if federation.enable_mdns else None
        async with trio.open_nursery() as nursery:
            parts = _Parts(settings, identity, present, host, store, terms, server)
            tree: Tree = await nursery.start(run_tree, parts.supervisor())
            # A node that finds the port open must find somebody who answers: listening comes last.
            parts.answer_nodes(tree)
            await nursery.start(host.run)
            nursery.start_soon(count_events, tree)
            metrics = await nursery.start(serve_metrics, settings.metrics.listen, parts.readings)
            if mdns is not None:
                nursery.start_soon(_announce, mdns, host)
            app = create_app(parts.services(tree))
            url = await nursery.start(serve_http, app, settings.http.host, settings.http.port)
            log.info("hub started", url=url, peer_id=identity.peer_id, listen=list(host.addresses), metrics=metrics)
            task_status.started()
            async for _ in hangups:
                await present.reload()


async def _announce(mdns: Mdns, host: Host) -> None:
    """Be found on the LAN, also after this machine has got another address."""
    announced: tuple[str, ...] = ()
    while True:
        if (addresses := host.addresses) != announced:
            announced = addresses
            await mdns.announce(host.peer_id, addresses, role="hub")
        await trio.sleep(ANNOUNCE_SECONDS)


class _Parts:
    """The parts and who is given what."""

    def __init__(
        self,
        settings: HubSettings,
        identity: Identity,
        present: Present,
        host: Host,
        store: Store,
        terms: StoredTerms,
        server: Server | None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._present = present
        self._host = host
        self._store = store
        self._terms = terms
        self._client = RpcClient(host)
        self._monitor: ActorRef | None = None
        self._directory = Directory()
        self._own: Sequence[PublishedVersion] = ()
        self._own_state: tuple[int | None, int] | None = None
        results = results_folder(settings.data_dir)
        answers: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {}
        self._warehouse = LocalEngine(
            settings.data_dir / "engine",
            server=server,
            flight=settings.flight.server(settings.data_dir, results),
            name="warehouse",
            asked=answers,
        )
        self._merger = LocalEngine(None, name="merger")
        self._benchmarks = StoredBenchmarks(store)
        self._measurements = Measurements(self._benchmarks)
        self._ways = ChosenWays(
            directory=self._directory,
            direct=self._is_direct,
            receiver=self._warehouse,
            streams=settings.flight.max_streams,
        )
        self._queries = FederatedQueries(
            directory=self._directory,
            own=self._own_versions,
            fan_out=FanOut(
                self._directory,
                self._warehouse,
                self._peer,
                settings.jobs.max_result_bytes,
                self._suspect,
                self._ways,
                lambda: self._warehouse.flight_here,
            ),
            merger=self._merger,
            delegation_seconds=settings.federation.delegation_timeout_seconds,
            measurements=self._measurements,
        )
        self._jobs = JobRunner(store, self._queries, results, settings.jobs)
        answers.update(FlightUsers(TokenService(store), self._queries, self._jobs, self._holdings).answers)
        self._downloads = Downloads(
            settings.data_dir / "objects" / "downloads", self._jobs, self._holdings, settings.jobs
        )
        federation = settings.federation
        self._announcer = Announcer(
            self._directory, Announcement(store), present.next_peer_id, federation.ping_timeout_seconds
        )
        host.known = self._is_member
        self._circuits = Circuits(host, configured_peers(federation.relays))
        self._dht = self._distributed_records() if federation.enable_dht else None

    def supervisor(self) -> Supervisor:
        """The tree of the module's docstring."""
        return Supervisor(
            "hub",
            children=[
                ChildSpec("warehouse", lambda: Service(self._run_warehouse)),
                ChildSpec("merger", lambda: Service(self._merger.run)),
                ChildSpec("registry", self._registry),
                ChildSpec("schema_publisher", lambda: SchemaPublisher(directory=self._directory, peer=self._peer)),
                ChildSpec("ontology_publisher", self._ontology_publisher),
                ChildSpec("terms", lambda: Service(self._terms.run)),
                ChildSpec("health_monitor", self._health_monitor),
                ChildSpec("jobs", lambda: Service(self._jobs.run)),
                ChildSpec("downloads", lambda: Service(self._downloads.run)),
                *dispensable(
                    announcer=self._announcer.run,
                    measurements=self._measurements.run,
                    ways=self._ways.run,
                    relays=self._circuits.run if self._settings.federation.relays else None,
                    records=None if self._dht is None else self._dht.run,
                ),
            ],
            intensity=INTENSITY,
        )

    def answer_nodes(self, tree: Tree) -> None:
        """Route the messages of nodes to the registry."""
        self._monitor = tree.ref("health_monitor")
        registry = tree.ref("registry")
        routes: dict[type, ActorRef] = dict.fromkeys(
            (JoinRequest, RegisterCluster, LeaveFederation, CatalogAnnouncement), registry
        )
        RpcServer(self._host, RpcPolicy(self._trust_of), routes)
        if self._settings.federation.serve_relay:
            RelayService(self._host, self._is_member)

    def services(self, tree: Tree) -> Services:
        """What the HTTP layer is given."""
        view = DirectoryView(
            self._directory,
            schema.CURRENT,
            lambda key_id: self._present.keyring().secret_of(key_id),
            way_of=self._ways.way,
        )
        checks = Checks(
            directory=self._directory, peer=self._peer, queries=self._queries, schema_version=schema.CURRENT
        )
        control = TreeControl(
            directory=self._directory,
            view=view,
            registry=tree.ref("registry"),
            health_monitor=tree.ref("health_monitor"),
            schema_publisher=tree.ref("schema_publisher"),
            checks=checks,
            store=Clusters(self._store),
            measurements=self._measurements,
        )
        return Services(
            queries=self._queries,
            federation=view,
            control=control,
            joining=HttpJoining(tree.ref("registry"), self._identity, self._is_member),
            benchmarks=self._benchmarks,
            jobs=self._jobs,
            downloads=self._downloads,
            tokens=TokenService(self._store),
            probe=StoresProbe(
                store=self._store,
                warehouse=self._warehouse,
                engine_kind=self._settings.engine.kind,
                objects=self._settings.data_dir / "objects",
            ),
            migrations=schema.migrations,
            version=version("syndb"),
            settings=self._settings.http,
            flight=lambda: (self._warehouse.flight_location, self._warehouse.flight_certificate),
        )

    def readings(self) -> Iterator[Sample]:
        """What metrics tell of this hub now."""
        return readings(self._directory, self._host.counters, self._jobs.unfinished)

    async def _run_warehouse(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The engine, up to date in its schema before anybody asks it anything."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._warehouse.run)
            await schema.apply(self._warehouse, schema.migrations())
            task_status.started()

    async def _own_versions(self) -> Sequence[PublishedVersion]:
        """What the hub itself has published, read again when something was published or the engine restarted."""
        state = self._warehouse.pid, self._warehouse.publications
        if state != self._own_state:
            self._own, self._own_state = await published.versions(self._warehouse), state
        return self._own

    async def _holdings(self) -> Sequence[Holding]:
        """What the hub and its active nodes hold."""
        return visible(self._directory, await self._own_versions(), Scope.FEDERATION, None)

    def _suspect(self, cluster_id: UUID) -> None:
        # A full mailbox means that the monitor is pinging as fast as it can.
        with contextlib.suppress(MailboxFull):
            if self._monitor is not None:
                self._monitor.tell(Watch(cluster_id))

    def _is_member(self, peer_id: str) -> bool:
        cluster = self._directory.by_peer(peer_id)
        return cluster is not None and cluster.record.is_active

    def _is_direct(self, cluster: Cluster) -> bool:
        """Whether a node and the hub see each other without a relay, as far as their connection shows."""
        peer_id = cluster.record.peer_id
        if peer_id is None or not self._host.is_connected(peer_id):
            return bool(cluster.record.observed_hosts)
        return bool(self._host.observed_hosts(peer_id))

    def _trust_of(self, peer_id: str) -> Trust:
        return Trust.MEMBER if self._is_member(peer_id) else Trust.ANYONE

    def _may_dial(self, peer_id: str, address: str) -> bool:
        """Also where the address came from elsewhere, the hub dials a node only at its approved ones."""
        cluster = self._directory.by_peer(peer_id)
        approved = () if cluster is None else cluster.dial.multiaddrs
        return split_peer(address)[0] in {split_peer(each)[0] for each in approved}

    def _peer(self, cluster: Cluster) -> ActorRef:
        record = cluster.record
        if record.peer_id is None:
            raise Unavailable(f"{record.name} has not joined yet")
        return RemoteRef(self._client, record.peer_id, lambda: cluster.dial.multiaddrs, f"syndb-cluster:{record.name}")

    def _registry(self) -> Registry:
        federation = self._settings.federation
        return Registry(
            directory=self._directory,
            store=Clusters(self._store),
            invitations=Invitations(self._store),
            hub_peer_id=self._identity.peer_id,
            keys=self._present.keyring,
            schema_version=schema.CURRENT,
            require_approval=federation.require_approval,
            approval=Approval.of(federation.approved_networks, federation.relays),
            observed_hosts=self._host.observed_hosts,
            ping_seconds=federation.ping_interval_seconds,
            next_hub_peer_id=self._present.next_peer_id,
            max_nodes=federation.max_nodes,
        )

    def _health_monitor(self) -> HealthMonitor:
        federation = self._settings.federation
        return HealthMonitor(
            directory=self._directory,
            peer=self._peer,
            policy=HealthPolicy(
                interval=federation.ping_interval_seconds,
                timeout=federation.ping_timeout_seconds,
                retry_timeout=min(federation.ping_timeout_seconds, 1.5 * federation.degraded_latency_seconds),
                degraded_latency=federation.degraded_latency_seconds,
                degraded_after=federation.degraded_after,
                healthy_after=federation.healthy_after,
                unreachable_after=federation.unreachable_after,
                max_clock_skew=federation.max_clock_skew_seconds,
                flap_limit=federation.flap_limit,
                flap_window=federation.flap_window_seconds,
                flap_hold=federation.flap_hold_seconds,
            ),
            schema_version=schema.CURRENT,
            ontology_revision=lambda: self._terms.revision,
            next_hub_peer_id=self._present.next_peer_id,
        )

    def _ontology_publisher(self) -> OntologyPublisher:
        return OntologyPublisher(terms=self._terms, directory=self._directory, peer=self._peer)

    def _distributed_records(self) -> Dht:
        return Dht(
            self._host,
            self._identity,
            name=HUB,
            trusted=self._is_member,
            may_dial=self._may_dial,
            folder=self._settings.data_dir / "dht",
        )
