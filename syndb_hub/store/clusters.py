"""Nodes as the hub remembers them, what they announced last, and the history of their health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from pydantic import ValidationError

from actors.cluster_store import Transition
from actors.directory import ClusterRecord, Standing
from syndb_common.errors import Conflict
from syndb_common.messages import CatalogAnnouncement, Endpoints
from syndb_hub.store.database import Store
from syndb_hub.store.schema import TOLD, catalogues, clusters, health_transitions, hub_state, revoked_peers

log = structlog.get_logger(__name__)

MAX_CAUSE = 1000
"""Characters kept of why a node's health changed or its key was revoked."""
MAX_TRANSITIONS = 1000
"""Changes of health kept of each node: a node that flaps all day fills the store no further."""
TRANSITIONS_LIFETIME = timedelta(days=400)
"""How long they are kept: long enough to compare a month with the same one a year before."""


class Clusters:
    """Repository of nodes. Implements :class:`actors.cluster_store.ClusterStore`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> list[ClusterRecord]:
        """Every node ever registered, by name. Changes of health that are too old are forgotten on this occasion."""
        forgotten = health_transitions.c.at < datetime.now(UTC) - TRANSITIONS_LIFETIME

        def work(connection: sa.Connection) -> list[ClusterRecord]:
            connection.execute(sa.delete(health_transitions).where(forgotten))
            by_name = sa.select(clusters).order_by(clusters.c.name)
            return [_record(row._mapping) for row in connection.execute(by_name)]

        return await self._store.write(work)

    async def save(self, record: ClusterRecord) -> None:
        """Insert or replace one record.

        Raises:
            Conflict: the name or the PeerId belongs to another record.
        """
        try:
            await self._store.write(lambda connection: _save(connection, record))
        except Conflict:
            raise Conflict(
                f"the name {record.name} or the identity of that node belongs to another node",
                hint="Restore the node's key, or choose another cluster name.",
            ) from None

    async def forget(self, cluster_id: UUID) -> None:
        """Remove a record and all that is kept of its node; its revoked keys stay revoked."""

        def work(connection: sa.Connection) -> None:
            for table in (health_transitions, catalogues):
                connection.execute(sa.delete(table).where(table.c.cluster_id == cluster_id))
            connection.execute(sa.delete(hub_state).where(hub_state.c.name == f"{TOLD}{cluster_id}"))
            connection.execute(sa.delete(clusters).where(clusters.c.id == cluster_id))

        await self._store.write(work)

    async def revoke(self, record: ClusterRecord, peer_id: str, cause: str) -> None:
        """Believe ``peer_id`` never again, and keep ``record``, which has it no more: both or neither."""
        row = {"peer_id": peer_id, "at": datetime.now(UTC), "cause": cause[:MAX_CAUSE]}
        known = sa.select(revoked_peers.c.peer_id).where(revoked_peers.c.peer_id == peer_id)

        def work(connection: sa.Connection) -> None:
            if connection.execute(known).first() is None:
                connection.execute(sa.insert(revoked_peers).values(**row))
            _save(connection, record)

        await self._store.write(work)

    async def revoked_peers(self) -> frozenset[str]:
        """All PeerIds that were revoked."""
        every = sa.select(revoked_peers.c.peer_id)
        return await self._store.read(lambda connection: frozenset(connection.execute(every).scalars()))

    async def load_catalogues(self) -> dict[UUID, CatalogAnnouncement]:
        """The last announcement of each node that made one; what cannot be read any more is left out."""

        def work(connection: sa.Connection) -> dict[UUID, CatalogAnnouncement]:
            found = {}
            for row in connection.execute(sa.select(catalogues)):
                try:
                    found[row.cluster_id] = CatalogAnnouncement.model_validate_json(row.announcement)
                except ValidationError as error:
                    log.warning("catalogue not readable", cluster_id=str(row.cluster_id), faults=error.error_count())
            return found

        return await self._store.read(work)

    async def save_catalogue(self, cluster_id: UUID, announcement: CatalogAnnouncement) -> None:
        """Keep what a node announced in place of what it announced before."""

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(catalogues).where(catalogues.c.cluster_id == cluster_id))
            text = announcement.model_dump_json()
            connection.execute(sa.insert(catalogues).values(cluster_id=cluster_id, announcement=text))

        await self._store.write(work)

    async def record_transitions(self, transitions: Sequence[Transition]) -> None:
        """Append changes of health, their causes cut after :data:`MAX_CAUSE` characters, in place of those of the same
        nodes that are too old or too many."""
        rows = [{**asdict(transition), "cause": transition.cause[:MAX_CAUSE]} for transition in transitions]
        latest = {transition.cluster_id: transition.at for transition in transitions}

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.insert(health_transitions), rows)
            for cluster_id, at in latest.items():
                connection.execute(_surplus(cluster_id, at))

        if rows:
            await self._store.write(work)

    async def transitions(self, cluster_id: UUID, limit: int = 100) -> list[Transition]:
        """The latest changes of a node's health, newest first."""

        def work(connection: sa.Connection) -> list[Transition]:
            latest = (
                sa.select(health_transitions)
                .where(health_transitions.c.cluster_id == cluster_id)
                .order_by(health_transitions.c.id.desc())
                .limit(limit)
            )
            return [
                Transition(row.cluster_id, row.at, row.from_state, row.to_state, row.cause)
                for row in connection.execute(latest)
            ]

        return await self._store.read(work)


def _save(connection: sa.Connection, record: ClusterRecord) -> None:
    values = {
        **asdict(record),
        "endpoints": record.endpoints.model_dump(mode="json"),
        "standing": record.standing.value,
    }
    changed = connection.execute(sa.update(clusters).where(clusters.c.id == record.id).values(**values))
    if not changed.rowcount:
        connection.execute(sa.insert(clusters).values(**values))


def _surplus(cluster_id: UUID, at: datetime) -> sa.Delete:
    """Forget what is too old or too much of one node's history."""
    of_node = health_transitions.c.cluster_id == cluster_id
    newest_first = sa.select(health_transitions.c.id).where(of_node).order_by(health_transitions.c.id.desc())
    surplus = newest_first.offset(MAX_TRANSITIONS).limit(1).scalar_subquery()
    old_or_many = sa.or_(health_transitions.c.at < at - TRANSITIONS_LIFETIME, health_transitions.c.id <= surplus)
    return sa.delete(health_transitions).where(of_node, old_or_many)


def _record(row: Any) -> ClusterRecord:
    stored = {
        "endpoints": Endpoints.model_validate(row["endpoints"]),
        "standing": Standing(row["standing"]),
        "observed_hosts": tuple(row["observed_hosts"]),
        "approved_hosts": tuple(row["approved_hosts"]),
    }
    return ClusterRecord(**{**row, **stored})
