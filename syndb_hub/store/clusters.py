"""Nodes as the hub remembers them, and the history of their health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from syndb_common.errors import Conflict, NotFound
from syndb_hub.store.database import Store
from syndb_hub.store.schema import clusters, health_transitions


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """One registered node. ``endpoints`` is the JSON form of :class:`syndb_common.messages.Endpoints`."""

    id: UUID
    name: str
    peer_id: str
    endpoints: Mapping[str, Any]
    institution: str
    description: str
    contact_email: str
    software: str
    schema_version: int
    is_active: bool
    registered_at: datetime


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of a node's health and why it happened."""

    cluster_id: UUID
    at: datetime
    from_state: str
    to_state: str
    cause: str


class Clusters:
    """Repository of nodes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def all(self) -> list[ClusterRecord]:
        """Every node ever registered, by name."""

        def work(connection: sa.Connection) -> list[ClusterRecord]:
            by_name = sa.select(clusters).order_by(clusters.c.name)
            return [ClusterRecord(**row._mapping) for row in connection.execute(by_name)]

        return await self._store.read(work)

    async def upsert(
        self,
        *,
        name: str,
        peer_id: str,
        endpoints: Mapping[str, Any],
        institution: str = "",
        description: str = "",
        contact_email: str = "",
        software: str = "",
        schema_version: int = 0,
    ) -> ClusterRecord:
        """Register a node, or refresh what is known of it. Its id, its date and whether it is active stay.

        Raises:
            Conflict: the name belongs to another PeerId, or the PeerId to another name.
        """
        known = {
            "name": name,
            "peer_id": peer_id,
            "endpoints": dict(endpoints),
            "institution": institution,
            "description": description,
            "contact_email": contact_email,
            "software": software,
            "schema_version": schema_version,
        }

        def work(connection: sa.Connection) -> ClusterRecord:
            same = sa.select(clusters).where(sa.or_(clusters.c.name == name, clusters.c.peer_id == peer_id))
            found = connection.execute(same).all()
            for row in found:
                if (row.name, row.peer_id) != (name, peer_id):
                    raise Conflict(
                        f"Node {row.name!r} is registered with another identity than {name!r} shows now.",
                        hint="Restore the node's key, choose another cluster name, or let the hub's operator decide.",
                    )
            if found:
                connection.execute(sa.update(clusters).where(clusters.c.id == found[0].id).values(**known))
            else:
                fixed = {"id": uuid4(), "is_active": True, "registered_at": datetime.now(UTC)}
                connection.execute(sa.insert(clusters).values(**known, **fixed))
            return ClusterRecord(**connection.execute(same).one()._mapping)

        return await self._store.write(work)

    async def set_schema_version(self, cluster_id: UUID, version: int) -> None:
        """Remember the schema version a node reports.

        Raises:
            NotFound: no such node.
        """
        await self._update(cluster_id, schema_version=version)

    async def set_active(self, cluster_id: UUID, active: bool) -> None:
        """Let a node take part in queries, or not any more; its record stays.

        Raises:
            NotFound: no such node.
        """
        await self._update(cluster_id, is_active=active)

    async def add_transition(self, transition: Transition) -> None:
        """Append one change of health. A cause longer than 1000 characters is cut."""

        def work(connection: sa.Connection) -> None:
            connection.execute(
                sa.insert(health_transitions).values(
                    cluster_id=transition.cluster_id,
                    at=transition.at,
                    from_state=transition.from_state,
                    to_state=transition.to_state,
                    cause=transition.cause[:1000],
                )
            )

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

    async def _update(self, cluster_id: UUID, **values: Any) -> None:
        def work(connection: sa.Connection) -> None:
            done = connection.execute(sa.update(clusters).where(clusters.c.id == cluster_id).values(**values))
            if done.rowcount == 0:
                raise NotFound(f"There is no node with id {cluster_id}.")

        await self._store.write(work)
