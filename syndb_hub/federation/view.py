"""The directory as the API shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit
from uuid import UUID

from actors.directory import Cluster, Directory, Health, Key, false_claims, owned
from syndb_common.errors import NotFound
from syndb_common.tables.versions import PublishedVersion
from syndb_hub.federation.service import ClusterView, DatasetView, FederationStatus

MAX_CLAIMS = 5
"""How many ignored data sets of a node are named."""


class DirectoryView:
    """Implements :class:`syndb_hub.federation.service.FederationView`.

    Args:
        directory: the hub's picture of its nodes.
        schema_version: the hub's own.
        secret_of: says what kind of secret a key id stands for (:meth:`actors.admission.Keyring.secret_of`).
    """

    def __init__(
        self, directory: Directory, schema_version: int, secret_of: Callable[[str], str] = lambda key_id: ""
    ) -> None:
        self._directory = directory
        self._schema_version = schema_version
        self._secret_of = secret_of

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

    def clusters(self) -> list[ClusterView]:
        """See the protocol."""
        clusters = self._directory.clusters.values()
        counted = owned(clusters)
        views = (_cluster(cluster, counted, self._secret_of(cluster.record.key_id)) for cluster in clusters)
        return sorted(views, key=lambda view: view.name)

    def cluster(self, cluster_id: UUID) -> ClusterView:
        """See the protocol."""
        clusters = self._directory.clusters
        cluster = clusters.get(cluster_id)
        if cluster is None:
            raise NotFound(f"no cluster {cluster_id}", hint="`syndb federation clusters` lists them with their ids.")
        return _cluster(cluster, owned(clusters.values()), self._secret_of(cluster.record.key_id))


def _cluster(cluster: Cluster, counted: Mapping[Key, PublishedVersion], secret: str) -> ClusterView:
    record = cluster.record
    flight = urlsplit(record.endpoints.flight)
    newest: dict[str, PublishedVersion] = {}
    for version in sorted(cluster.versions, key=lambda version: version.version):
        newest[version.metadata.dataset] = version
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
        health_cause="; ".join(filter(None, (cluster.cause, _claims(cluster, counted)))),
        health_since=cluster.since,
        is_active=record.is_active,
        schema_version=record.schema_version,
        protocol_version=record.protocol_version,
        secret=secret,
        latency_ms=_milliseconds(cluster.latency_seconds),
        clock_skew_ms=_milliseconds(cluster.clock_skew_seconds),
        flaps=cluster.flaps,
        last_seen=cluster.last_seen,
        refused_addresses=cluster.refused_addresses,
        approved_hosts=record.approved_hosts,
        datasets=tuple(_dataset(newest[name], cluster) for name in sorted(newest)),
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _claims(cluster: Cluster, counted: Mapping[Key, PublishedVersion]) -> str:
    if not cluster.record.is_active:
        return ""
    names = sorted({version.metadata.dataset for version in false_claims(cluster, counted)})
    shown = ", ".join(names[:MAX_CLAIMS]) + (", ..." if len(names) > MAX_CLAIMS else "")
    return f"announces versions of data sets that another node owns, which are ignored: {shown}" if names else ""


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
