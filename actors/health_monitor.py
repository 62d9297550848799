"""The hub's health monitor: one loop per node, so that a slow node never delays another.

A ping brings the node's engine state, schema version and catalogue revision. A node behind in its schema is sent
the migrations, a changed catalogue is fetched; what fails is tried again after a while. What was seen goes to the
registry as :class:`HealthObserved`.

| before | fast, engine ok, schema current | slow or partly failing | failed, fewer than N in a row | N-th failure |
|---|---|---|---|---|
| unknown | healthy | degraded | unknown | unreachable |
| healthy | healthy | degraded | healthy | unreachable |
| degraded | healthy | degraded | degraded | unreachable |
| unreachable | healthy | degraded | unreachable | unreachable |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog
import trio

from actors.directory import Cluster, Directory, Health
from actors.health import HealthObserved, Watch
from actors.runtime import Actor, ActorError, ActorRef, handle
from actors.schema_sync import APPLY_SECONDS, SyncCluster
from syndb_common.errors import PeerUnavailable, SynDBError, Unavailable
from syndb_common.messages import CatalogAnnouncement, DatasetCatalogRequest, HealthPing, HealthReport

log = structlog.get_logger(__name__)

CATALOGUE_SECONDS = 10.0
"""A catalogue fits one frame of the RPC; ten seconds suffice on the slowest line."""


CAUSE_CHARACTERS = 300
AGAIN_SECONDS = 30.0
"""After a catalogue or a schema sync failed, the same is not tried again before this: mostly only a person can help."""


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """When a node counts as slow or gone. Seconds.

    After a failed ping the next one comes after ``retry``: a node that is gone is known to be within
    ``unreachable_after * (timeout + retry)``.
    """

    interval: float = 2.0
    timeout: float = 2.0
    retry: float = 0.5
    degraded_latency: float = 1.0
    unreachable_after: int = 3


@dataclass(slots=True)
class _Failed:
    """What did not work at a node, why, and when it may be tried again."""

    what: int
    cause: str
    until: float


def assess(
    now: Cluster,
    outcome: HealthReport | SynDBError,
    latency: float,
    *,
    policy: HealthPolicy,
    schema_version: int,
    trouble: Sequence[str] = (),
) -> HealthObserved:
    """The state of a node after one ping: the table above as a pure function.

    ``trouble`` is what else went wrong with a node that answers.
    """
    if isinstance(outcome, SynDBError):
        failures = now.failures + 1
        health = Health.UNREACHABLE if failures >= policy.unreachable_after else now.health
        return HealthObserved(now.record.id, health, f"{failures} pings failed: {outcome.message}", failures)
    causes = []
    if outcome.engine != "ok":
        causes.append(f"engine: {outcome.engine}")
    if latency > policy.degraded_latency:
        causes.append(f"answers take {latency:.1f} s")
    if outcome.schema_version != schema_version:
        causes.append(f"schema version {outcome.schema_version}, the hub has {schema_version}")
    causes.extend(trouble)
    health = Health.DEGRADED if causes else Health.HEALTHY
    return HealthObserved(now.record.id, health, "; ".join(causes), 0, latency, outcome.schema_version)


class HealthMonitor(Actor):
    """Pings every active node of the directory, tells the registry, and has the schema publisher update the node.

    Args:
        directory: whom to ping.
        peer: makes the reference to a node.
    """

    expected = (SynDBError,)

    def __init__(
        self,
        *,
        directory: Directory,
        peer: Callable[[Cluster], ActorRef],
        policy: HealthPolicy,
        schema_version: int,
    ) -> None:
        self._directory = directory
        self._peer = peer
        self._policy = policy
        self._schema_version = schema_version
        self._wake: dict[UUID, trio.Event] = {}
        self._no_catalogue: dict[UUID, _Failed] = {}
        self._no_sync: dict[UUID, _Failed] = {}

    async def on_start(self) -> None:
        """Watch all nodes that are known."""
        for cluster in self._directory.clusters.values():
            self._start(cluster.record.id)

    @handle
    async def watch(self, message: Watch) -> None:
        """Begin to watch a node, or ping it at once when it is watched already."""
        self._start(message.cluster_id)

    @property
    def _registry(self) -> ActorRef:
        return self.context.find("registry")

    def _start(self, cluster_id: UUID) -> None:
        if cluster_id in self._wake:
            self._wake[cluster_id].set()
        else:
            self._wake[cluster_id] = trio.Event()
            self.context.start_soon(self._look_after, cluster_id)

    async def _look_after(self, cluster_id: UUID) -> None:
        try:
            while (cluster := self._directory.clusters.get(cluster_id)) is not None and cluster.record.is_active:
                observed = await self._check(cluster)
                pause = self._policy.interval if observed.failures == 0 else self._policy.retry
                with trio.move_on_after(pause):
                    await self._wake[cluster_id].wait()
                self._wake[cluster_id] = trio.Event()
        finally:
            for remembered in (self._wake, self._no_catalogue, self._no_sync):
                remembered.pop(cluster_id, None)

    async def _check(self, cluster: Cluster) -> HealthObserved:
        peer = self._peer(cluster)
        began = trio.current_time()
        outcome: HealthReport | SynDBError
        try:
            report: HealthReport = await peer.ask(HealthPing(clock=time.time()), timeout=self._policy.timeout)
            latency = trio.current_time() - began
            if report.engine == "ok" and report.schema_version < self._schema_version:
                report = await self._update_schema(cluster, report)
            outcome = report
        except SynDBError as error:
            outcome, latency = error, 0.0
        except ActorError as error:
            outcome, latency = Unavailable(f"the hub could not check it: {error}"), 0.0
        trouble = await self._update_catalogue(cluster, peer, outcome) if isinstance(outcome, HealthReport) else []
        observed = assess(
            cluster, outcome, latency, policy=self._policy, schema_version=self._schema_version, trouble=trouble
        )
        try:
            await self._registry.ask(observed, timeout=self._policy.timeout)
        except (SynDBError, ActorError) as error:
            log.warning("observation lost", cluster=cluster.record.name, cause=str(error))
        return observed

    async def _update_schema(self, cluster: Cluster, report: HealthReport) -> HealthReport:
        """Have the node brought up to date. It answered, so a failure here leaves it degraded and not gone."""
        cluster_id = cluster.record.id
        if _too_early(self._no_sync.get(cluster_id), report.schema_version):
            return report
        pending = SyncCluster(cluster_id, report.schema_version)
        try:
            synced = await self.context.find("schema_publisher").ask(pending, timeout=APPLY_SECONDS)
        except (SynDBError, ActorError) as error:
            log.warning("schema not synced", cluster=cluster.record.name, cause=str(error))
            self._no_sync[cluster_id] = _failed(report.schema_version, error)
            return report
        return report.model_copy(update={"schema_version": synced.schema_version})

    async def _update_catalogue(self, cluster: Cluster, peer: ActorRef, report: HealthReport) -> list[str]:
        """Fetch the catalogue if it changed; returns why it is not known."""
        if report.engine not in ("ok", "busy"):
            return []  # it has nothing to read it from, and says so already
        cluster_id, revision = cluster.record.id, report.catalogue_revision
        failed = self._no_catalogue.get(cluster_id)
        if revision == cluster.catalogue_revision:
            failed = None
        elif not _too_early(failed, revision):
            failed = await self._fetch_catalogue(cluster, peer, revision)
        if failed is None:
            self._no_catalogue.pop(cluster_id, None)
            return []
        self._no_catalogue[cluster_id] = failed
        return [f"catalogue: {failed.cause}"]

    async def _fetch_catalogue(self, cluster: Cluster, peer: ActorRef, revision: int) -> _Failed | None:
        try:
            announced: CatalogAnnouncement = await peer.ask(DatasetCatalogRequest(), timeout=CATALOGUE_SECONDS)
            await self._registry.ask(announced, timeout=CATALOGUE_SECONDS, sender=cluster.record.peer_id)
        except (SynDBError, ActorError) as error:
            log.warning("no catalogue", cluster=cluster.record.name, cause=str(error))
            return _failed(revision, error)
        return None


def _failed(what: int, error: Exception) -> _Failed:
    # A node lost on the way is pinged anyway; what it misses is tried again as soon as it answers.
    pause = 0.0 if isinstance(error, PeerUnavailable) else AGAIN_SECONDS
    return _Failed(what, str(error)[:CAUSE_CHARACTERS], trio.current_time() + pause)


def _too_early(failed: _Failed | None, what: int) -> bool:
    return failed is not None and failed.what == what and trio.current_time() < failed.until
