"""A hub without engines, in a thread of its own: real registry, store, libp2p and HTTP, for commands to join."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import trio

from actors.admission import Keyring
from actors.directory import Directory, Health
from actors.health import HealthObserved, Verify
from actors.registry import Registry
from actors.remote.discovery.mdns import open_mdns
from actors.remote.host import open_host
from actors.remote.identity import Identity
from actors.remote.policy import Policy, RateLimit, Trust
from actors.remote.proof import derive_key
from actors.remote.rpc_server import RpcServer
from actors.runtime import ChildSpec, Supervisor, Tree, run_tree
from syndb_common.errors import PeerUnavailable
from syndb_common.messages import JoinRequest, LeaveFederation, RegisterCluster
from syndb_hub.auth import Right, TokenService
from syndb_hub.federation.checks import Checks
from syndb_hub.federation.control import TreeControl
from syndb_hub.federation.joining import HttpJoining
from syndb_hub.federation.measuring import Measurements
from syndb_hub.federation.view import DirectoryView
from syndb_hub.http import Services, create_app, serve
from syndb_hub.settings import HttpSettings
from syndb_hub.store import Store
from syndb_hub.store.benchmarks import StoredBenchmarks
from syndb_hub.store.clusters import Clusters
from syndb_hub.store.invitations import Invitations
from tests.actors.federation_parts import Inbox, Peer

PASSWORD = "the-secret-of-this-hub"
SCHEMA = 3


@dataclass
class SmallHub:
    """What a test needs of it. Registry and directory live in another thread: only look."""

    identity: Identity
    folder: Path
    require_approval: bool = False
    multicast: bool = False
    addresses: tuple[str, ...] = ()
    url: str = ""
    token: str = field(default="", repr=False)
    reader: str = field(default="", repr=False)
    directory: Directory = field(default_factory=Directory)
    peer: Callable[[Any], Any] = lambda cluster: Peer({})
    http_limit: RateLimit | None = field(default_factory=lambda: RateLimit(rate=1000, burst=1000))

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    def node(self, name: str) -> Any:
        """A node as the hub sees it now."""
        return self.directory.by_name(name)

    async def run(self, started: Callable[[], None]) -> None:
        """Until cancelled."""
        async with AsyncExitStack() as stack:
            store = await Store.open(self.folder / "hub.sqlite")
            stack.push_async_callback(store.close)
            listen = ("/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0")
            host = await stack.enter_async_context(open_host(self.identity, listen))
            self.addresses = host.addresses
            if self.multicast:
                mdns = await stack.enter_async_context(open_mdns())
                await mdns.announce(self.peer_id, host.addresses, role="hub")
            key = await derive_key(PASSWORD, self.peer_id)
            registry = partial(
                Registry,
                directory=self.directory,
                store=Clusters(store),
                invitations=Invitations(store),
                hub_peer_id=self.peer_id,
                keys=lambda: Keyring(key),
                schema_version=SCHEMA,
                require_approval=self.require_approval,
                observed_hosts=host.observed_hosts,
                ping_seconds=2.0,
            )
            children = [ChildSpec("registry", registry), ChildSpec("health_monitor", lambda: Inbox([], _verified))]
            nursery = await stack.enter_async_context(trio.open_nursery())
            tree = await nursery.start(run_tree, Supervisor("hub", children))
            routes = dict.fromkeys((JoinRequest, RegisterCluster, LeaveFederation), tree.ref("registry"))
            RpcServer(host, Policy(self._trust, limit=RateLimit(rate=1000, burst=1000)), routes)
            await self._serve_http(nursery, store, tree, Keyring(key))
            started()
            await trio.sleep_forever()

    async def _serve_http(self, nursery: trio.Nursery, store: Store, tree: Tree, keys: Keyring) -> None:
        view = DirectoryView(self.directory, SCHEMA, keys.secret_of)
        benchmarks = StoredBenchmarks(store)
        measurements = Measurements(benchmarks)
        await nursery.start(measurements.run)
        nothing: Any = None
        tokens = TokenService(store)
        self.token = (await tokens.create("everything", [Right.EVERYTHING])).text
        self.reader = (await tokens.create("reader", [Right.FEDERATION])).text
        services = Services(
            queries=nothing,
            federation=view,
            control=TreeControl(
                directory=self.directory,
                view=view,
                registry=tree.ref("registry"),
                health_monitor=tree.ref("health_monitor"),
                schema_publisher=nothing,
                checks=Checks(
                    directory=self.directory,
                    peer=lambda node: self.peer(node),
                    queries=nothing,
                    schema_version=SCHEMA,
                ),
                store=Clusters(store),
                measurements=measurements,
            ),
            joining=HttpJoining(tree.ref("registry"), self.identity, self._is_member, limit=self.http_limit),
            benchmarks=benchmarks,
            jobs=nothing,
            downloads=nothing,
            tokens=tokens,
            probe=nothing,
            migrations=lambda: (),
            version="1.2.3",
            settings=HttpSettings(),
        )

        async def run(task_status: trio.TaskStatus[str]) -> None:
            await serve(create_app(services), "127.0.0.1", 0, task_status=task_status)

        self.url = await nursery.start(run)

    def _is_member(self, peer_id: str) -> bool:
        cluster = self.directory.by_peer(peer_id)
        return cluster is not None and cluster.record.is_active

    def _trust(self, peer_id: str) -> Trust:
        return Trust.MEMBER if self._is_member(peer_id) else Trust.ANYONE


def _verified(message: Any) -> Any:
    """The health monitor finds every node gone, at once."""
    if isinstance(message, Verify):
        return HealthObserved(message.cluster_id, Health.UNREACHABLE, "nobody answers", 1, at=datetime.now(UTC))
    return None


def gone(cluster: Any) -> Peer:
    """A node that cannot be reached."""

    def refuse(message: Any) -> Any:
        raise PeerUnavailable("nobody answers at its addresses")

    class Gone(Peer):
        async def ask(self, message: Any, *, timeout: float, sender: object = None) -> Any:  # noqa: ASYNC109
            return refuse(message)

    return Gone({})


@contextmanager
def small_hub(folder: Path, **options: Any) -> Iterator[SmallHub]:
    """A hub that runs while the block does."""
    folder.mkdir(parents=True, exist_ok=True)
    hub = SmallHub(Identity.generate(), folder, **options)
    ready: queue.Queue[BaseException | None] = queue.Queue()
    stop: list[Callable[[], None]] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()
            stop.append(lambda: token.run_sync_soon(scope.cancel))
            await hub.run(lambda: ready.put(None))

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    error = ready.get(timeout=60)
    if error is not None:
        raise error
    try:
        yield hub
    finally:
        stop[0]()
        thread.join(timeout=30)
        assert not thread.is_alive()
