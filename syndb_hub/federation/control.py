"""What the operator does to nodes, as messages to the hub's actors."""

from __future__ import annotations

from uuid import UUID

import trio

from actors.directory import Cluster, Directory
from actors.registry_messages import Deactivate
from actors.runtime import ActorError, ActorRef
from actors.schema_sync import APPLY_SECONDS, SyncCluster
from syndb_common.errors import SynDBError
from syndb_hub.federation.service import SchemaOutcome

ASK_SECONDS = 10.0


class TreeControl:
    """Implements :class:`syndb_hub.federation.service.FederationControl`."""

    def __init__(self, directory: Directory, registry: ActorRef, schema_publisher: ActorRef) -> None:
        self._directory = directory
        self._registry = registry
        self._schema_publisher = schema_publisher

    async def sync_schema(self, *, dry_run: bool) -> list[SchemaOutcome]:
        """See the protocol."""
        outcomes: dict[str, SchemaOutcome] = {}

        async def one(cluster: Cluster) -> None:
            outcomes[cluster.record.name] = await self._sync(cluster, dry_run)

        async with trio.open_nursery() as nursery:
            for cluster in self._directory.clusters.values():
                if cluster.record.is_active:
                    nursery.start_soon(one, cluster)
        return [outcomes[name] for name in sorted(outcomes)]

    async def _sync(self, cluster: Cluster, dry_run: bool) -> SchemaOutcome:
        record = cluster.record
        message = SyncCluster(record.id, record.schema_version, dry_run)
        try:
            report = await self._schema_publisher.ask(message, timeout=APPLY_SECONDS)
        except (SynDBError, ActorError) as error:
            return SchemaOutcome(cluster=record.name, schema_version=record.schema_version, cause=str(error))
        return SchemaOutcome(cluster=record.name, schema_version=report.schema_version, applied=list(report.applied))

    async def deactivate(self, cluster_id: UUID) -> None:
        """See the protocol."""
        await self._registry.ask(Deactivate(cluster_id), timeout=ASK_SECONDS)
