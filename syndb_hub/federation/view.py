"""The directory as the API shows it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit
from uuid import UUID

import trio

from actors.directory import Cluster, ClusterRecord, Directory, Health, false_claims, owned
from syndb_common.errors import NotFound
from syndb_common.messages import DeliveryWay
from syndb_common.tables.versions import PublishedVersion
from syndb_hub.federation.service import ClusterView, DatasetView, FederationStatus, SchemaState

MAX_CLAIMS = 5
"""How many ignored data sets of a node are named."""


@dataclass(frozen=True, slots=True)
class _Claims:
    """What every node announces in vain, and the nodes that this was worked out from."""

    of: Mapping[UUID, tuple[ClusterRecord, tuple[PublishedVersion, ...]]]
    causes: Mapping[UUID, str]


@dataclass(frozen=True, slots=True)
class _Shown:
    """The data sets of one node, and what they were worked out from."""

    versions: tuple[PublishedVersion, ...]
    sharing: Mapping[UUID, str]
    datasets: tuple[DatasetView, ...]


class DirectoryView:
    """Implements :class:`syndb_hub.federation.service.FederationView`.

    Args:
        directory: the hub's picture of its nodes.
        schema_version: the hub's own.
        secret_of: says what kind of secret a key id stands for (:meth:`actors.admission.Keyring.secret_of`).
        way_of: says how large parts of a node come (:mod:`syndb_hub.federation.ways`); asked from the loop only.
    """

    def __init__(
        self,
        directory: Directory,
        schema_version: int,
        secret_of: Callable[[str], str] = lambda key_id: "",
        way_of: Callable[[Cluster], DeliveryWay | None] = lambda cluster: None,
    ) -> None:
        self._directory = directory
        self._schema_version = schema_version
        self._secret_of = secret_of
        self._way_of = way_of
        self._turn = trio.CapacityLimiter(1)
        self._claims = _Claims({}, {})
        self._shown: dict[UUID, _Shown] = {}

    def status(self) -> FederationStatus:
        """See the protocol."""
        clusters = list(self._directory.clusters.values())
        active = [cluster for cluster in clusters if cluster.record.is_active]
        count = {state: sum(cluster.health is state for cluster in active) for state in Health}
        return FederationStatus(
            total_clusters=len(clusters),
            active_clusters=len(active),
            healthy=count[Health.HEALTHY],
            degraded=count[Health.DEGRADED],
            unreachable=count[Health.UNREACHABLE],
            unknown=count[Health.UNKNOWN],
            schema_version=self._schema_version,
        )

    async def clusters(self) -> list[ClusterView]:
        """See the protocol."""
        return await self._show(self._directory.clusters.values())

    async def cluster(self, cluster_id: UUID) -> ClusterView:
        """See the protocol."""
        cluster = self._directory.get(cluster_id)
        if cluster is None:
            raise NotFound(f"no cluster {cluster_id}", hint="`syndb federation clusters` lists them with their ids.")
        [shown] = await self._show([cluster])
        return shown

    async def _show(self, chosen: Collection[Cluster]) -> list[ClusterView]:
        # A federation may hold so many versions that going through them takes longer than a ping may wait. A snapshot
        # never changes, so a thread can; one at a time, which has what is kept to itself.
        everyone = self._directory.clusters
        ways = {cluster.record.id: self._way_of(cluster) or "" for cluster in chosen}
        return await trio.to_thread.run_sync(self._work_out, chosen, everyone, ways, limiter=self._turn)

    def _work_out(
        self,
        chosen: Collection[Cluster],
        everyone: Mapping[UUID, Cluster],
        ways: Mapping[UUID, DeliveryWay | Literal[""]],
    ) -> list[ClusterView]:
        causes = self._causes(everyone)
        for gone in self._shown.keys() - everyone.keys():
            del self._shown[gone]
        views = [
            _cluster(
                cluster,
                causes.get(cluster.record.id, ""),
                self._datasets(cluster),
                self._secret_of(cluster.record.key_id),
                schema_state(cluster.record, self._schema_version),
                ways[cluster.record.id],
            )
            for cluster in chosen
        ]
        return sorted(views, key=lambda view: view.name)

    def _causes(self, everyone: Mapping[UUID, Cluster]) -> Mapping[UUID, str]:
        known = self._claims.of
        if known.keys() != everyone.keys() or any(
            cluster.record is not known[key][0] or cluster.versions is not known[key][1]
            for key, cluster in everyone.items()
        ):
            counted = owned(everyone.values())
            self._claims = _Claims(
                {key: (cluster.record, cluster.versions) for key, cluster in everyone.items()},
                {
                    key: _cause(false_claims(cluster, counted))
                    for key, cluster in everyone.items()
                    if cluster.record.is_active
                },
            )
        return self._claims.causes

    def _datasets(self, cluster: Cluster) -> tuple[DatasetView, ...]:
        shown = self._shown.get(cluster.record.id)
        if shown is None or shown.versions is not cluster.versions or shown.sharing is not cluster.sharing:
            shown = _Shown(cluster.versions, cluster.sharing, _newest(cluster))
            self._shown[cluster.record.id] = shown
        return shown.datasets


def schema_state(record: ClusterRecord, hub: int) -> SchemaState:
    """How a node's schema version stands to the hub's."""
    if record.peer_id is None:
        return "unknown"
    return "current" if record.schema_version == hub else "behind" if record.schema_version < hub else "ahead"


def _cluster(
    cluster: Cluster,
    claims: str,
    datasets: tuple[DatasetView, ...],
    secret: str,
    state: SchemaState,
    way: DeliveryWay | Literal[""],
) -> ClusterView:
    record = cluster.record
    flight = urlsplit(record.endpoints.flight)
    return ClusterView(
        id=record.id,
        name=record.name,
        institution=record.institution,
        description=record.description,
        contact_email=record.contact_email,
        software=record.software,
        endpoint=flight.hostname or "",
        port=flight.port or 0,
        peer_id=record.peer_id or "",
        standing=record.standing.value,
        health=cluster.health.value,
        health_cause="; ".join(filter(None, (cluster.cause, claims))),
        health_since=cluster.since,
        is_active=record.is_active,
        schema_version=record.schema_version,
        schema_state=state,
        protocol_version=record.protocol_version,
        secret=secret,
        delivery=way,
        latency_ms=_milliseconds(cluster.latency_seconds),
        clock_skew_ms=_milliseconds(cluster.clock_skew_seconds),
        flaps=cluster.flaps,
        last_seen=cluster.last_seen,
        refused_addresses=cluster.refused_addresses,
        approved_hosts=record.approved_hosts,
        datasets=datasets,
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _cause(claims: list[PublishedVersion]) -> str:
    names = sorted({version.metadata.dataset for version in claims})
    shown = ", ".join(names[:MAX_CLAIMS]) + (", ..." if len(names) > MAX_CLAIMS else "")
    return f"announces versions of data sets that another node owns, which are ignored: {shown}" if names else ""


def _newest(cluster: Cluster) -> tuple[DatasetView, ...]:
    newest: dict[str, PublishedVersion] = {}
    for version in sorted(cluster.versions, key=lambda version: version.version):
        newest[version.metadata.dataset] = version
    return tuple(_dataset(newest[name], cluster) for name in sorted(newest))


def _dataset(version: PublishedVersion, cluster: Cluster) -> DatasetView:
    metadata = version.metadata
    return DatasetView(
        dataset_id=version.dataset_id,
        dataset=metadata.dataset,
        title=metadata.title,
        version=version.version,
        row_counts=version.row_counts,
        sharing=cluster.sharing.get(version.dataset_id, ""),
        species=metadata.species,
        sex=metadata.sex,
        stage=metadata.stage,
    )
