"""What the tests of the federation's actors share: nodes as the hub knows them, and peers that answer as told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import trio

from actors.admission import Invitation
from actors.cluster_store import Transition
from actors.directory import Cluster, ClusterRecord
from actors.runtime import Actor, ActorRef, handle
from syndb_common.errors import DeadlineExceeded
from syndb_common.messages import CatalogAnnouncement, Endpoints
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
ENDPOINTS = Endpoints(
    multiaddrs=("/ip4/127.0.0.1/tcp/4001",), flight="grpc+tls://127.0.0.1:50052", flight_certificate="pem"
)


def record(name: str = "worm-lab", peer_id: str | None = "12D3Worm", **facts: Any) -> ClusterRecord:
    """A node's record."""
    known = {"endpoints": ENDPOINTS, "registered_at": BEGAN, "schema_version": 1}
    return ClusterRecord(**{"id": uuid4(), "name": name, "peer_id": peer_id, **known, **facts})


def cluster(name: str = "worm-lab", *, record_facts: dict[str, Any] | None = None, **facts: Any) -> Cluster:
    """A node as the directory holds it; its PeerId follows from its name."""
    return Cluster(record(name, f"12D3{name}", **(record_facts or {})), **facts)


def published(name: str, version: int = 1, *, content: str = "a", **row_counts: int) -> PublishedVersion:
    """A published version of a data set; equal ``content`` (a hexadecimal digit) is equal content."""
    return PublishedVersion(
        dataset_id=dataset_id(name),
        version=version,
        metadata=DatasetMetadata(dataset=name),
        row_counts=row_counts or {"synapses": 10},
        content_hash=content * 64,
        schema_version=1,
        published_at=BEGAN,
    )


class Peer(ActorRef):
    """The other daemon, as far as a test needs it: one answer per type of message, and what it was asked."""

    def __init__(self, answers: dict[type, Callable[[Any], Any]], name: str = "peer") -> None:
        self.name = name
        self.answers = answers
        self.asked: list[Any] = []

    async def ask(self, message: Any, *, timeout: float, sender: object = None) -> Any:  # noqa: ASYNC109
        self.asked.append(message)
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(timeout):
            answer = self.answers[type(message)](message)
            return await answer if isinstance(answer, Awaitable) else answer
        raise DeadlineExceeded(f"{self.name} did not answer in time")

    def tell(self, message: Any, *, sender: object = None) -> None:
        raise AssertionError("peers are asked")

    def count(self, kind: type) -> int:
        """How many messages of this type came."""
        return sum(isinstance(message, kind) for message in self.asked)


class MemoryStore:
    """A ClusterStore without a disk, for tests whose clock jumps while a thread would be waited for."""

    def __init__(self, *records: ClusterRecord) -> None:
        self.records = {each.id: each for each in records}
        self.catalogues: dict[UUID, CatalogAnnouncement] = {}
        self.transitions: list[tuple[str, str]] = []
        self.revoked: set[str] = set()

    async def load(self) -> list[ClusterRecord]:
        return list(self.records.values())

    async def save(self, record: ClusterRecord) -> None:
        self.records[record.id] = record

    async def forget(self, cluster_id: UUID) -> None:
        del self.records[cluster_id]
        self.catalogues.pop(cluster_id, None)

    async def revoke(self, record: ClusterRecord, peer_id: str, cause: str) -> None:
        self.records[record.id] = record
        self.revoked.add(peer_id)

    async def revoked_peers(self) -> frozenset[str]:
        return frozenset(self.revoked)

    async def load_catalogues(self) -> dict[UUID, CatalogAnnouncement]:
        return self.catalogues

    async def save_catalogue(self, cluster_id: UUID, announcement: CatalogAnnouncement) -> None:
        self.catalogues[cluster_id] = announcement

    async def record_transitions(self, transitions: Sequence[Transition]) -> None:
        self.transitions += [(each.from_state, each.to_state) for each in transitions]


class MemoryInvitations:
    """An InvitationStore without a disk."""

    def __init__(self, *invitations: Invitation) -> None:
        self.invitations = {each.key_id: each for each in invitations}

    async def find(self, key_id: str) -> Invitation | None:
        return self.invitations.get(key_id)

    async def use(self, key_id: str, peer_id: str) -> None:
        self.invitations[key_id] = replace(self.invitations[key_id], used_by=peer_id)


class Inbox(Actor):
    """Keeps what it is sent, and answers with what a test says."""

    def __init__(self, received: list[Any], answer: Callable[[Any], Any] = lambda message: None) -> None:
        self._received = received
        self._answer = answer

    @handle
    async def keep(self, message: object) -> Any:
        self._received.append(message)
        return self._answer(message)
