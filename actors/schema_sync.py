"""Both ends of schema sync: the hub publishes numbered migrations, the node applies them in order.

The node decides what is applied: only CREATE and ALTER in its own database, each number once
(:func:`syndb_common.tables.schema.apply`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from actors.directory import Cluster, Directory
from actors.paging import in_pages
from actors.runtime import Actor, ActorRef, handle
from syndb_common.engine.interface import Engine
from syndb_common.errors import NotFound, SynDBError
from syndb_common.messages import SchemaReport, SchemaSync
from syndb_common.tables import schema

log = structlog.get_logger(__name__)

APPLY_SECONDS = 30.0
"""DDL on empty tables takes milliseconds; half a minute covers a node whose disk is busy."""
SYNC_SECONDS = 120.0
"""For all messages of one sync: the migrations of many years fit into a few."""


@dataclass(frozen=True, slots=True)
class SyncCluster:
    """Bring this node to the hub's schema; it has the migrations up to ``since``.

    Answered with a :class:`SchemaReport`: all that was applied, or with ``dry_run`` would be. A node ahead of the hub
    answers with its own, higher version.
    """

    cluster_id: UUID
    since: int = 0
    dry_run: bool = False


class SchemaPublisher(Actor):
    """The hub's end: sends a node the migrations it lacks."""

    expected = (SynDBError,)

    def __init__(self, *, directory: Directory, peer: Callable[[Cluster], ActorRef]) -> None:
        self._directory = directory
        self._peer = peer

    @handle
    async def sync(self, message: SyncCluster) -> SchemaReport:
        """Send one node what it lacks. Nodes are served side by side."""
        cluster = self._directory.get(message.cluster_id)
        if cluster is None:
            raise NotFound("no such node")
        return self.context.delegate(self._send, cluster, message)

    async def _send(self, cluster: Cluster, message: SyncCluster) -> SchemaReport:
        peer = self._peer(cluster)
        applied: list[int] = []
        for page in in_pages(schema.migrations(since=message.since)):
            pending = SchemaSync(migrations=page, dry_run=message.dry_run)
            report: SchemaReport = await peer.ask(pending, timeout=APPLY_SECONDS)
            applied += report.applied
        log.info("schema synced", cluster=cluster.record.name, version=report.schema_version, applied=applied)
        return SchemaReport(schema_version=report.schema_version, applied=tuple(applied))


class SchemaKeeper(Actor):
    """The node's end: applies what the hub sends, one message at a time.

    Args:
        engine: whose tables they concern.
        changed: told when migrations were applied.
    """

    expected = (SynDBError,)

    def __init__(self, *, engine: Engine, changed: Callable[[], None] = lambda: None) -> None:
        self._engine = engine
        self._changed = changed

    @handle
    async def apply(self, message: SchemaSync) -> SchemaReport:
        """Apply the migrations that are not applied yet; with ``dry_run`` only say which these are."""
        if message.dry_run:
            current = await schema.schema_version(self._engine)
            lacking = tuple(m.version for m in message.migrations if m.version > current)
            return SchemaReport(schema_version=current, applied=lacking)
        current, applied = await schema.apply(self._engine, message.migrations)
        if applied:
            log.info("schema migrated", version=current, applied=applied)
            self._changed()
        return SchemaReport(schema_version=current, applied=tuple(applied))
