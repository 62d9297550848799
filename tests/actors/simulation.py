"""A hub and its nodes in one process, over a network with faults: real actors, simulated time, engines of a few lines.

Real are the registry, the health monitor, the schema publisher, the node's actors and the RPC between them. The engine
is a double that keeps what matters here, the commit rows and the record of migrations: a real one takes longer to start
than a whole simulation.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from logging import CRITICAL
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import structlog
import trio
from pydantic import SecretStr

from actors import key_rotation, node_state
from actors.admission import Keyring
from actors.catalogue import Catalogue
from actors.cluster import LEAVE_SECONDS, Cluster, Leave
from actors.directory import Cluster as Known
from actors.directory import Directory
from actors.health import HealthPolicy
from actors.health_monitor import HealthMonitor
from actors.hub_link import FoundHub, HubLink
from actors.hub_pins import HubPins
from actors.joining import FederationSecret, Membership
from actors.node_state import NodeState
from actors.registry import Registry
from actors.remote.identity import Identity
from actors.remote.memory import MemoryHost, MemoryNetwork
from actors.remote.policy import Policy, RateLimit, Trust
from actors.remote.proof import derive_key
from actors.remote.rpc import RemoteRef, RpcClient
from actors.remote.rpc_server import RpcServer
from actors.runtime import ActorError, ActorRef, ChildSpec, Intensity, Supervisor, Tree, run_tree
from actors.runtime.events import ActorCrashed
from actors.runtime.testing import Faults, InjectedCrash
from actors.schema_sync import SchemaKeeper, SchemaPublisher
from syndb_common.engine.interface import Answer, Limits, Scan
from syndb_common.errors import SynDBError, UnknownName
from syndb_common.messages import (
    CatalogAnnouncement,
    DatasetCatalogRequest,
    Endpoints,
    GetFlightEndpoint,
    HealthPing,
    JoinRequest,
    LeaveFederation,
    RegisterCluster,
    SchemaMigration,
    SchemaSync,
)
from syndb_common.tables import schema
from tests.actors.federation_parts import MemoryInvitations, MemoryStore, published

SECRET = "syndb1_" + "A" * 43
HUB = Identity.generate()
POLICY = HealthPolicy(longest_pause=2.0)
"""The dead are pinged as often as the living, so that a cycle is the same for all."""
PATIENT = Intensity(restarts=1000, within=60.0)
STATEMENT_SECONDS = 0.05
MIGRATIONS = tuple(
    SchemaMigration(
        version=number,
        name=f"table {number}",
        statements=tuple(
            f"CREATE TABLE IF NOT EXISTS syndb.t{number}_{part} (id UInt64) ENGINE = MergeTree ORDER BY id"
            for part in "ab"
        ),
    )
    for number in range(1, 6)
)


class SmallEngine:
    """The commit rows and the record of migrations of one node; they outlast its process.

    Attributes:
        history: numbers of migrations in the order in which they were recorded as applied.
    """

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.history: list[int] = []
        self.versions: list[Any] = []
        self.publications = 0
        self.ready = True
        self._recorded = False

    def publish(self) -> None:
        """One more version of the node's data set."""
        number = len(self.versions) + 1
        self.versions.append(published(self.dataset, number, content=f"{number % 16:x}"))

    async def wait_published(self, seen: int) -> int:
        while self.publications == seen:  # noqa: ASYNC110 - a double
            await trio.sleep(1.0)
        return self.publications

    async def execute(self, sql: str) -> None:
        await trio.sleep(STATEMENT_SECONDS)
        self._recorded = self._recorded or "schema_migrations" in sql

    async def query(self, sql: str, *, limits: Limits | None = None, query_id: str | None = None) -> Answer:
        await trio.lowlevel.checkpoint()
        if not self._recorded:
            raise UnknownName("no such table")
        if "schema_migrations" in sql:
            return Answer(pa.table({"version": pa.array(self.history, pa.uint32())}), Scan())
        return Answer(pa.Table.from_pylist([_row(version) for version in self.versions], schema=_COMMITS), Scan())

    async def insert(self, table: str, rows: pa.Table) -> int:
        await trio.sleep(STATEMENT_SECONDS)
        self.history += rows.column("version").to_pylist()
        return rows.num_rows


_COMMITS = pa.schema(
    [
        ("dataset_id", pa.string()),
        ("version", pa.uint32()),
        ("metadata", pa.string()),
        ("row_counts", pa.map_(pa.string(), pa.uint64())),
        ("content_hash", pa.string()),
        ("schema_version", pa.uint32()),
        ("published_at", pa.timestamp("ms", "UTC")),
    ]
)


def _row(version: Any) -> dict[str, Any]:
    return {
        **version.model_dump(),
        "dataset_id": str(version.dataset_id),
        "metadata": json.dumps(version.metadata.model_dump(mode="json")),
        "row_counts": list(version.row_counts.items()),
    }


class _Unwritten(NodeState):
    """The state of a node without the file, which would cost real time."""

    async def note(self, state: str, error: SynDBError | None = None, *, hub_peer_id: str, **facts: str) -> None:
        self.joined = state == node_state.JOINED
        self.state = state

    async def note_schema(self, version: int) -> None:
        pass


class Process:
    """What a simulated daemon is made of while it runs."""

    def __init__(self, host: MemoryHost) -> None:
        self.host = host
        self.client = RpcClient(host)
        self.scope = trio.CancelScope()
        self.tree: Tree

    async def run(self, supervisor: Supervisor, *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                self.tree = await nursery.start(run_tree, supervisor)
                nursery.start_soon(self._notice_crashes)
                task_status.started()
                await trio.sleep_forever()

    async def _notice_crashes(self) -> None:
        """A part that crashes by itself is a fault, however soon it is back."""
        with self.tree.events.subscribe() as events:
            async for event in events:
                if isinstance(event, ActorCrashed) and not isinstance(event.error, InjectedCrash):
                    raise event.error

    def kill(self) -> None:
        """As SIGKILL does: nobody is told."""
        self.host.kill()
        self.scope.cancel()


class Hub:
    """The hub of a simulation; its store outlasts its process."""

    def __init__(self, network: MemoryNetwork, nursery: trio.Nursery, key: bytes) -> None:
        self._network = network
        self._nursery = nursery
        self._key = key
        self.store = MemoryStore()
        self.invitations = MemoryInvitations()
        self.directory = Directory()
        self.faults = Faults()
        self.process: Process | None = None

    async def start(self) -> None:
        """Start it, if it does not run."""
        if self.process is not None:
            return
        process = Process(self._network.host(HUB.peer_id))
        directory = self.directory = Directory()

        def peer(known: Known) -> ActorRef:
            assert known.record.peer_id is not None
            return RemoteRef(process.client, known.record.peer_id, lambda: known.dial.multiaddrs, known.record.name)

        registry = partial(
            Registry,
            directory=directory,
            store=self.store,
            invitations=self.invitations,
            hub_peer_id=HUB.peer_id,
            keys=lambda: Keyring(self._key),
            schema_version=MIGRATIONS[-1].version,
            observed_hosts=process.host.observed_hosts,
            ping_seconds=POLICY.interval,
            own_addresses=lambda: (),
        )
        monitor = partial(
            HealthMonitor, directory=directory, peer=peer, policy=POLICY, schema_version=MIGRATIONS[-1].version
        )
        children = [
            ChildSpec("registry", self.faults.inject(registry)),
            ChildSpec("schema_publisher", lambda: SchemaPublisher(directory=directory, peer=peer)),
            ChildSpec("health_monitor", monitor),
        ]
        await self._nursery.start(process.run, Supervisor("hub", children, intensity=PATIENT))
        to_registry = (JoinRequest, RegisterCluster, LeaveFederation, CatalogAnnouncement)
        policy = Policy(self._trust_of, limit=RateLimit(clock=trio.current_time))
        RpcServer(process.host, policy, dict.fromkeys(to_registry, process.tree.ref("registry")))
        self.process = process

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None

    async def do(self, message: object) -> None:
        """Ask the registry as the operator does, who sees it fail if it fails."""
        if self.process is not None:
            with suppress(SynDBError, ActorError):
                await self.process.tree.ref("registry").ask(message, timeout=5)

    def _trust_of(self, peer_id: str) -> Trust:
        known = self.directory.by_peer(peer_id)
        return Trust.MEMBER if known is not None and known.record.is_active else Trust.ANYONE


class Node:
    """A node of a simulation; engine, key and name outlast its process."""

    def __init__(self, network: MemoryNetwork, nursery: trio.Nursery, name: str, folder: Path) -> None:
        self._network = network
        self._nursery = nursery
        self._folder = folder
        self.name = name
        self.engine = SmallEngine(name)
        self.state = _Unwritten(folder, name, "")
        self.process: Process | None = None
        self.keys = key_rotation.load_keys(folder)

    async def start(self) -> None:
        """Start it, if it does not run."""
        if self.process is not None:
            return
        self.keys = key_rotation.load_keys(self._folder)
        process = Process(self._network.host(self.keys.identity.peer_id))
        host, pins = process.host, HubPins(self._folder, HUB.peer_id)
        catalogue = Catalogue(self.engine, lambda version: "rows")  # type: ignore[arg-type]
        hub_addresses = (self._hub_address,)

        async def find_hub() -> FoundHub:
            await host.connect(HUB.peer_id, hub_addresses, timeout=5)
            return FoundHub(HUB.peer_id, RemoteRef(process.client, HUB.peer_id, lambda: hub_addresses, "syndb-hub"))

        async def lost(peer_id: str) -> None:
            while host.is_connected(peer_id):  # noqa: ASYNC110 - a host has no event for it
                await trio.sleep(0.2)

        link = HubLink(
            folder=self._folder,
            membership=Membership(self.name),
            keys=self.keys,
            pins=pins,
            secret=FederationSecret(SecretStr(SECRET)),
            find_hub=find_hub,
            hub_url=lambda: "",
            endpoints=lambda: Endpoints(
                multiaddrs=host.addresses,
                flight=f"grpc+tls://{host.addresses[0].split('/')[2]}:50052",
                flight_certificate="pem",
            ),
        )
        cluster = partial(
            Cluster,
            link=link,
            catalogue=catalogue,
            state=self.state,
            load=lambda: 0,
            silence_seconds=lambda: 10.0,
            lost=lost,
            ontology_revision=lambda: 0,
        )
        keeper = partial(SchemaKeeper, engine=self.engine, changed=catalogue.look_again)  # type: ignore[arg-type]
        children = [ChildSpec("cluster", cluster), ChildSpec("schema_keeper", keeper)]
        await self._nursery.start(process.run, Supervisor("node", children, intensity=PATIENT))
        to_cluster = (HealthPing, DatasetCatalogRequest, GetFlightEndpoint)
        routes: dict[Any, ActorRef] = dict.fromkeys(to_cluster, process.tree.ref("cluster"))
        routes[SchemaSync] = process.tree.ref("schema_keeper")
        limit = RateLimit(clock=trio.current_time)
        RpcServer(host, Policy(lambda peer: Trust.HUB if pins.trusts(peer) else Trust.ANYONE, limit=limit), routes)
        self.process = process

    def publish(self) -> None:
        """Publish one more version."""
        self.engine.publish()
        self.engine.publications += 1

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None

    async def stop(self) -> None:
        """Stop on purpose: say goodbye, if the hub answers."""
        if self.process is not None:
            with suppress(SynDBError, ActorError):
                await self.process.tree.ref("cluster").ask(Leave(), timeout=LEAVE_SECONDS)
            self.process.host.close()
            self.process.scope.cancel()
            self.process = None

    async def change_key(self) -> None:
        """Stop, and come back with another key."""
        await self.stop()
        key_rotation.prepare_next(self._folder)
        await self.start()

    @property
    def _hub_address(self) -> str:
        return self._network._places[HUB.peer_id]


class Simulation:
    """A hub and some nodes.

    Attributes:
        network: what lies between them.
    """

    def __init__(self, network: MemoryNetwork, hub: Hub, nodes: list[Node]) -> None:
        self.network = network
        self.hub = hub
        self.nodes = nodes

    def calm(self) -> None:
        """End all faults of the network."""
        self.network.everywhere = None
        self.network.heal()


@asynccontextmanager
async def simulation(folder: Path, nodes: int) -> AsyncIterator[Simulation]:
    """A federation that runs within the block, on the clock of ``trio.run``."""
    key = await derive_key(SECRET, HUB.peer_id)
    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(nursery, seed=0)
        hub = Hub(network, nursery, key)
        await hub.start()
        found = []
        for number in range(nodes):
            own = folder / f"node-{number}"
            own.mkdir()
            found.append(Node(network, nursery, f"lab-{number}", own))
        for node in found:
            await node.start()
        yield Simulation(network, hub, found)
        nursery.cancel_scope.cancel()


@contextmanager
def without_real_time() -> Iterator[None]:
    """Run threads at once, since simulated time would run away while one is waited for, and log nothing, which would
    take most of the real time. There are five small migrations."""

    async def at_once(work: Any, *args: Any, **options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work(*args)

    logging = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(CRITICAL))
    try:
        with patch.object(trio.to_thread, "run_sync", at_once), patch.object(schema, "_all", lambda: MIGRATIONS):
            yield
    finally:
        structlog.configure(**logging)
