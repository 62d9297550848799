"""What the operator does to nodes, as messages to the hub's actors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from uuid import UUID

import trio

from actors.directory import Cluster, Directory
from actors.health import HealthObserved, Verify
from actors.registry_messages import Activate, ApproveHosts, Deactivate, Enter, Forget, RevokeKey
from actors.runtime import ActorRef
from actors.schema_sync import APPLY_SECONDS, SyncCluster
from syndb_common.errors import Conflict, NotFound, SynDBError
from syndb_common.messages import SchemaReport
from syndb_hub.federation.asking import ask
from syndb_hub.federation.checks import Checks, why_not_asked
from syndb_hub.federation.measuring import Measurements
from syndb_hub.federation.service import (
    Check,
    ClusterEntry,
    ClusterHealth,
    FederationView,
    Health,
    SchemaOutcome,
    TransitionView,
)
from syndb_hub.store.clusters import Clusters

VERIFY_SECONDS = 45.0
"""A ping takes seconds; a schema sync or a catalogue that it shows to be missing takes longer."""
LATEST = 20
"""Changes of health that `verify` shows."""
MAX_SYNCS = 16
"""Nodes that are sent migrations at once."""


class TreeControl:
    """Implements :class:`syndb_hub.federation.service.FederationControl`.

    Args:
        directory: the nodes.
        view: shows them.
        registry: changes their records.
        health_monitor: pings them.
        schema_publisher: sends them migrations.
        checks: the tests of single nodes.
        store: has the history of their health.
        measurements: keep what a ping cost that somebody asked for.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        view: FederationView,
        registry: ActorRef,
        health_monitor: ActorRef,
        schema_publisher: ActorRef,
        checks: Checks,
        store: Clusters,
        measurements: Measurements,
    ) -> None:
        self._directory = directory
        self._view = view
        self._registry = registry
        self._health_monitor = health_monitor
        self._schema_publisher = schema_publisher
        self._checks = checks
        self._store = store
        self._measurements = measurements

    async def sync_schema(self, *, dry_run: bool, cluster_ids: Sequence[UUID] | None = None) -> list[SchemaOutcome]:
        """See the protocol."""
        if cluster_ids is None:
            clusters = [cluster for cluster in self._directory.clusters.values() if cluster.record.is_active]
        else:
            clusters = [self._cluster(cluster_id) for cluster_id in dict.fromkeys(cluster_ids)]
        outcomes: dict[str, SchemaOutcome] = {}
        room = trio.CapacityLimiter(MAX_SYNCS)

        async def one(cluster: Cluster) -> None:
            async with room:
                outcomes[cluster.record.name] = await self._sync(cluster, dry_run)

        async with trio.open_nursery() as nursery:
            for cluster in clusters:
                nursery.start_soon(one, cluster)
        return [outcomes[name] for name in sorted(outcomes)]

    async def _sync(self, cluster: Cluster, dry_run: bool) -> SchemaOutcome:
        record = cluster.record
        cause = why_not_asked(cluster)
        if not cause:
            message = SyncCluster(record.id, record.schema_version, dry_run)
            try:
                report: SchemaReport = await ask(self._schema_publisher, message, seconds=APPLY_SECONDS)
                return SchemaOutcome(
                    cluster=record.name, schema_version=report.schema_version, applied=list(report.applied)
                )
            except SynDBError as error:
                cause = f"{error.message} {error.hint}".strip()
        return SchemaOutcome(cluster=record.name, schema_version=record.schema_version, cause=cause)

    async def enter(self, entry: ClusterEntry) -> UUID:
        """See the protocol."""
        message = Enter(
            name=entry.name,
            host=entry.endpoint,
            port=entry.port,
            institution=entry.institution,
            description=entry.description,
            contact_email=entry.contact_email,
        )
        cluster_id: UUID = await ask(self._registry, message)
        return cluster_id

    async def activate(self, cluster_id: UUID) -> None:
        """See the protocol."""
        await ask(self._registry, Activate(cluster_id))

    async def deactivate(self, cluster_id: UUID) -> None:
        """See the protocol."""
        await ask(self._registry, Deactivate(cluster_id))

    async def forget(self, cluster_id: UUID) -> None:
        """See the protocol."""
        await ask(self._registry, Forget(cluster_id))

    async def revoke_key(self, cluster_id: UUID, cause: str) -> None:
        """See the protocol."""
        await ask(self._registry, RevokeKey(cluster_id, cause))

    async def approve_hosts(self, cluster_id: UUID, hosts: Sequence[str]) -> None:
        """See the protocol."""
        await ask(self._registry, ApproveHosts(cluster_id, tuple(hosts)))

    async def verify(self, cluster_id: UUID) -> ClusterHealth:
        """See the protocol.

        Raises:
            Conflict: the node takes no part, so it is not pinged.
        """
        if cause := why_not_asked(self._cluster(cluster_id)):
            raise Conflict(cause)
        began = trio.current_time()
        seen: HealthObserved = await ask(self._health_monitor, Verify(cluster_id), seconds=VERIFY_SECONDS)
        latency = trio.current_time() - began if seen.latency_seconds is None else seen.latency_seconds
        self._measurements.health_check(cluster_id, latency_ms=latency * 1000, success=seen.latency_seconds is not None)
        return await self.history(cluster_id, limit=LATEST)

    async def history(self, cluster_id: UUID, *, limit: int) -> ClusterHealth:
        """See the protocol."""
        shown = await self._view.cluster(cluster_id)
        changes = tuple(
            TransitionView(
                at=change.at,
                from_state=cast(Health, change.from_state),
                to_state=cast(Health, change.to_state),
                cause=change.cause,
            )
            for change in await self._store.transitions(cluster_id, limit)
        )
        return ClusterHealth(cluster=shown, transitions=changes)

    async def test_connectivity(self, cluster_id: UUID) -> Check:
        """See the protocol."""
        check = await self._checks.connectivity(self._cluster(cluster_id))
        self._measurements.health_check(cluster_id, latency_ms=check.latency_ms, success=check.passed)
        return check

    async def test_schema(self, cluster_id: UUID) -> Check:
        """See the protocol."""
        return await self._checks.schema(self._cluster(cluster_id))

    async def test_query(self, cluster_id: UUID) -> Check:
        """See the protocol."""
        return await self._checks.query(self._cluster(cluster_id))

    def _cluster(self, cluster_id: UUID) -> Cluster:
        cluster = self._directory.get(cluster_id)
        if cluster is None:
            raise NotFound(f"no cluster {cluster_id}", hint="`syndb federation clusters` lists them with their ids.")
        return cluster
