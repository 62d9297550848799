"""The hub's picture of its federation: who the nodes are, how they feel, what they hold.

The registry actor alone writes it; everybody else reads the current snapshot without waiting. A snapshot never
changes, so a reader that holds one has a consistent picture for as long as it likes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

import trio

from syndb_common.messages import Endpoints
from syndb_common.tables.versions import PublishedVersion

Key = tuple[UUID, int]
"""A data set and the number of one of its versions."""

HUB = "hub"
"""Name of the hub's own warehouse where holders of data are named; no node may have it."""


class Health(StrEnum):
    """How a node answers; decides whether queries go to it.

    ``unknown`` and ``unreachable`` nodes are not asked, ``degraded`` ones are asked last.
    """

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNREACHABLE = "unreachable"

    @property
    def routable(self) -> bool:
        """Whether queries may go to a node in this state."""
        return self in (Health.HEALTHY, Health.DEGRADED)


class Standing(StrEnum):
    """Whether a node takes part. Only ``active`` nodes are pinged, asked and listened to."""

    PENDING = "pending"
    """Entered by the hub's operator; no PeerId has proved the name yet."""
    WAITING = "waiting"
    """Has proved itself; the hub's operator has to approve it."""
    ACTIVE = "active"
    INACTIVE = "inactive"
    """Deactivated by the hub's operator."""


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """What the hub stores of a node: survives restarts of both.

    Attributes:
        peer_id: the key that has the name; None until one has proved it, and after the last one was revoked.
        endpoints: as the node announced them; what the hub dials of them is :attr:`Cluster.dial`.
        protocol_version: the version of the messages the node speaks.
        key_id: the secret it joined with (:func:`actors.remote.proof.key_id`).
        observed_hosts: IP addresses its connection came from when it joined.
        approved_hosts: IP addresses, networks (CIDR) and host names the hub's operator approved for it.
    """

    id: UUID
    name: str
    peer_id: str | None
    endpoints: Endpoints
    registered_at: datetime
    institution: str = ""
    description: str = ""
    contact_email: str = ""
    software: str = ""
    standing: Standing = Standing.ACTIVE
    schema_version: int = 0
    protocol_version: int = 1
    key_id: str = ""
    observed_hosts: tuple[str, ...] = ()
    approved_hosts: tuple[str, ...] = ()

    @property
    def is_active(self) -> bool:
        """Whether the node takes part."""
        return self.standing is Standing.ACTIVE


NOWHERE = Endpoints(multiaddrs=(), flight="", flight_certificate="")
"""Endpoints of a node that announced none, or none that was approved."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A node as the hub sees it now.

    Attributes:
        dial: of the announced endpoints those that are approved; the hub dials nothing else.
        refused_addresses: announced and not approved, or not resolved, each with the reason.
        since: when the node entered its present state of health.
        flaps: how often it became unreachable lately.
        clock_skew_seconds: its clock minus the hub's; None until a ping measured it.
    """

    record: ClusterRecord
    dial: Endpoints = NOWHERE
    refused_addresses: tuple[str, ...] = ()
    health: Health = Health.UNKNOWN
    cause: str = "not checked yet"
    since: datetime | None = None
    failures: int = 0
    flaps: int = 0
    latency_seconds: float | None = None
    clock_skew_seconds: float | None = None
    last_seen: datetime | None = None
    catalogue_revision: int | None = None
    ontology_revision: int | None = None
    versions: tuple[PublishedVersion, ...] = ()
    sharing: Mapping[UUID, str] = field(default_factory=dict)


def owned(clusters: Iterable[Cluster], own: Iterable[PublishedVersion] = ()) -> dict[Key, PublishedVersion]:
    """The versions that count, each as its owner announces it.

    A data set belongs to the hub if that publishes it (``own``), else to the active node that registered first among
    those that announce it. What others announce under its id counts only as a replica of one of the owner's versions.
    """
    found: dict[UUID, dict[int, PublishedVersion]] = {}
    active = sorted((c for c in clusters if c.record.is_active), key=lambda c: (c.record.registered_at, c.record.id))
    for versions in (own, *(cluster.versions for cluster in active)):
        mine: dict[UUID, dict[int, PublishedVersion]] = {}
        for version in versions:
            if version.dataset_id not in found:
                mine.setdefault(version.dataset_id, {})[version.version] = version
        found |= mine
    return {
        (version.dataset_id, version.version): version for versions in found.values() for version in versions.values()
    }


def false_claims(cluster: Cluster, counted: Mapping[Key, PublishedVersion]) -> list[PublishedVersion]:
    """What a node announces and nobody uses: versions of another's data set that its owner does not have like this."""
    return [version for version in cluster.versions if not is_replica(version, counted)]


def is_replica(version: PublishedVersion, counted: Mapping[Key, PublishedVersion]) -> bool:
    """Whether a version has the content of the one that counts (:func:`owned`) under its number."""
    original = counted.get((version.dataset_id, version.version))
    return original is not None and original.content_hash == version.content_hash


class Directory:
    """The current picture, and a way to wait for a change of one node.

    Publishing costs what has changed. A snapshot is made when somebody asks for :attr:`clusters` after a change: who
    wants one node asks for that one.
    """

    def __init__(self) -> None:
        self._now: dict[UUID, Cluster] = {}
        self._snapshot: Mapping[UUID, Cluster] | None = None
        self._by_peer: dict[str, UUID] = {}
        self._by_name: dict[str, UUID] = {}
        self._waiting: dict[UUID, trio.Event] = {}

    @property
    def clusters(self) -> Mapping[UUID, Cluster]:
        """All nodes by id. It never changes; ask again for the next picture."""
        if self._snapshot is None:
            self._snapshot = MappingProxyType(dict(self._now))
        return self._snapshot

    def __len__(self) -> int:
        """How many nodes there are."""
        return len(self._now)

    def get(self, cluster_id: UUID) -> Cluster | None:
        """The node of that id, if any."""
        return self._now.get(cluster_id)

    def by_peer(self, peer_id: str) -> Cluster | None:
        """The node that has this PeerId, if any."""
        found = self._by_peer.get(peer_id)
        return None if found is None else self._now[found]

    def by_name(self, name: str) -> Cluster | None:
        """The node of that name, if any."""
        found = self._by_name.get(name)
        return None if found is None else self._now[found]

    def publish(self, changed: Iterable[Cluster]) -> None:
        """Put these nodes in place of their former states. For the registry actor only."""
        for cluster in changed:
            record = cluster.record
            before = self._now.get(record.id)
            self._now[record.id] = cluster
            if before is None or before.record is not record:
                self._index(before, record)
            if (waiting := self._waiting.pop(record.id, None)) is not None:
                waiting.set()
        self._snapshot = None

    def remove(self, cluster_id: UUID) -> None:
        """Drop a node. For the registry actor only."""
        before = self._now.pop(cluster_id)
        self._unindex(before)
        if (waiting := self._waiting.pop(cluster_id, None)) is not None:
            waiting.set()
        self._snapshot = None

    async def wait_unroutable(self, cluster_id: UUID) -> str:
        """Return when the node of that id stops being routable, with the cause."""
        while True:
            cluster = self._now.get(cluster_id)
            if cluster is None or not cluster.record.is_active:
                return "the node left the federation"
            if not cluster.health.routable:
                return cluster.cause
            await self._waiting.setdefault(cluster_id, trio.Event()).wait()

    def _index(self, before: Cluster | None, record: ClusterRecord) -> None:
        if before is not None:
            self._unindex(before)
        self._by_name[record.name] = record.id
        if record.peer_id is not None:
            self._by_peer[record.peer_id] = record.id

    def _unindex(self, before: Cluster) -> None:
        # Another node may have taken over in between: only what still leads here is removed.
        for index, key in ((self._by_peer, before.record.peer_id), (self._by_name, before.record.name)):
            if key is not None and index.get(key) == before.record.id:
                del index[key]
