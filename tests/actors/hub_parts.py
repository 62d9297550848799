"""A registry under a supervisor over a real store, and nodes that join it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import trio
from trio.testing import wait_all_tasks_blocked

from actors.addresses import Address, Approval
from actors.admission import Keyring
from actors.directory import Cluster, Directory
from actors.registry import Registry
from actors.remote.identity import Identity
from actors.remote.proof import Transcript, generate_nonce, node_proof, succession_statement
from actors.runtime import ChildSpec, Supervisor, Tree, run_tree
from actors.runtime.testing import Faults
from syndb_common.messages import Endpoints, JoinChallenge, JoinRequest, RegisterCluster, Registered, Succession
from syndb_hub.store.clusters import Clusters
from syndb_hub.store.database import Store
from syndb_hub.store.invitations import Invitations
from tests.actors.federation_parts import ENDPOINTS, Inbox

KEY, HUB_PEER_ID, SCHEMA = b"k" * 32, "12D3Hub", 7


class ManualClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        await trio.lowlevel.checkpoint()


@dataclass
class Hub:
    """A registry under a supervisor, over a real store; change ``keyring``, ``observed`` and ``next_key`` as it runs.

    Attributes:
        observed: where the connections of each PeerId come from.
        addresses: what the hub's name server says.
        watched: what the health monitor was told; see :meth:`told`.
    """

    directory: Directory
    store: Store
    clock: ManualClock = field(default_factory=ManualClock)
    faults: Faults = field(default_factory=Faults)
    watched: list[Any] = field(default_factory=list)
    keyring: Keyring = field(default_factory=lambda: Keyring(KEY))
    observed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    next_key: str = ""
    tree: Tree = field(init=False)

    async def start(self, nursery: trio.Nursery, **settings: Any) -> None:
        make = partial(
            Registry,
            directory=self.directory,
            store=Clusters(self.store),
            invitations=self.invitations,
            hub_peer_id=HUB_PEER_ID,
            keys=lambda: self.keyring,
            schema_version=SCHEMA,
            observed_hosts=lambda peer_id: self.observed.get(peer_id, ()),
            next_hub_peer_id=lambda: self.next_key,
            own_addresses=lambda: [ip_address("198.51.100.1")],
            resolve=self._resolve,
            **settings,
        )
        children = [
            ChildSpec("registry", self.faults.inject(make)),
            ChildSpec("health_monitor", lambda: Inbox(self.watched)),
        ]
        self.tree = await nursery.start(partial(run_tree, Supervisor("hub", children), clock=self.clock))

    @property
    def invitations(self) -> Invitations:
        return Invitations(self.store)

    async def ask(self, message: object, sender: str | None = "12D3Worm") -> Any:
        return await self.tree.ref("registry").ask(message, timeout=5, sender=sender)

    async def do(self, message: object) -> Any:
        """Ask what the hub's own parts ask."""
        return await self.ask(message, sender=None)

    async def told(self) -> list[Any]:
        """What the health monitor was told since the last look."""
        await wait_all_tasks_blocked()
        told = self.watched[:]
        self.watched.clear()
        return told

    async def records(self) -> dict[str, UUID]:
        return {each.name: each.id for each in await Clusters(self.store).load()}

    def node(self, name: str = "worm-lab") -> Cluster:
        found = self.directory.by_name(name)
        assert found is not None
        return found

    async def _resolve(self, name: str) -> tuple[Address, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(ip_address(text) for text in self.addresses.get(name, ()))


class StartHub(Protocol):
    """Starts a hub on the one store of a test; starting it again is a restart of the process."""

    async def __call__(
        self, *, approval: Approval | None = None, require_approval: bool = False, max_nodes: int = 1000
    ) -> Hub: ...


@dataclass
class Attempt:
    """One node's way through both steps; replace what should be wrong."""

    name: str = "worm-lab"
    peer_id: str = "12D3Worm"
    key: bytes = KEY
    nonce: bytes = field(default_factory=generate_nonce)
    key_id: str = ""
    protocol_version: int = 2
    endpoints: Endpoints = ENDPOINTS

    async def challenge(self, hub: Hub) -> JoinChallenge:
        request = JoinRequest(
            cluster_name=self.name,
            node_nonce=self.nonce,
            key_id=self.key_id,
            protocol_version=self.protocol_version,
        )
        found: JoinChallenge = await hub.ask(request, sender=self.peer_id)
        return found

    def transcript(self, challenge: JoinChallenge) -> Transcript:
        return Transcript(self.nonce, challenge.hub_nonce, self.peer_id, HUB_PEER_ID, self.name)

    def registration(self, challenge: JoinChallenge, **facts: Any) -> RegisterCluster:
        return RegisterCluster(
            join_id=challenge.join_id,
            node_proof=node_proof(self.key, self.transcript(challenge)),
            endpoints=self.endpoints,
            schema_version=3,
            **facts,
        )

    async def join(self, hub: Hub, *, previous: Identity | None = None, **facts: Any) -> Registered:
        """Both steps; with ``previous`` that key hands its name to this one."""
        challenge = await self.challenge(hub)
        if previous is not None:
            statement = succession_statement(self.transcript(challenge))
            signature = previous.sign(statement)
            facts["succession"] = Succession(previous_peer_id=previous.peer_id, signature=signature)
        found: Registered = await hub.ask(self.registration(challenge, **facts), sender=self.peer_id)
        return found


async def open_store(folder: Path) -> Store:
    """The hub's store of a test."""
    return await Store.open(folder / "hub.sqlite")
