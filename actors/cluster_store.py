"""What the registry needs of the hub's metadata store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from actors.directory import ClusterRecord
from syndb_common.messages import CatalogAnnouncement


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of a node's health and why it happened."""

    cluster_id: UUID
    at: datetime
    from_state: str
    to_state: str
    cause: str


class ClusterStore(Protocol):
    """Where the registry keeps its records; the hub's metadata store implements it."""

    async def load(self) -> list[ClusterRecord]:
        """All records."""
        ...

    async def save(self, record: ClusterRecord) -> None:
        """Insert or replace one record."""
        ...

    async def forget(self, cluster_id: UUID) -> None:
        """Remove a record and all that is kept of its node."""
        ...

    async def revoke(self, record: ClusterRecord, peer_id: str, cause: str) -> None:
        """Believe ``peer_id`` never again, and keep ``record``, which has it no more: both or neither."""
        ...

    async def revoked_peers(self) -> frozenset[str]:
        """All PeerIds that were revoked."""
        ...

    async def load_catalogues(self) -> dict[UUID, CatalogAnnouncement]:
        """What each node announced last."""
        ...

    async def save_catalogue(self, cluster_id: UUID, announcement: CatalogAnnouncement) -> None:
        """Keep what a node announced in place of what it announced before."""
        ...

    async def record_transitions(self, transitions: Sequence[Transition]) -> None:
        """Keep changes of health for audit, oldest first, in one write."""
        ...
