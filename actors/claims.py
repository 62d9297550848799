"""Which nodes announce a data set that belongs to another, told once as long as they do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from uuid import UUID

import structlog

from actors.directory import Cluster, Directory, false_claims, owned

log = structlog.get_logger(__name__)


class Claims:
    """Who announces what, by data set, so that one announcement costs no look at the whole federation."""

    def __init__(self, clusters: Iterable[Cluster]) -> None:
        self._announcers: defaultdict[UUID, set[UUID]] = defaultdict(set)
        self._told: set[tuple[UUID, UUID]] = set()
        for cluster in clusters:
            self._add(cluster)

    def update(self, before: Cluster, after: Cluster, directory: Directory) -> None:
        """A node announces something else than before; ``directory`` holds ``after`` already."""
        for dataset_id in {v.dataset_id for v in before.versions} - {v.dataset_id for v in after.versions}:
            self._announcers[dataset_id].discard(before.record.id)
            self._told.discard((before.record.id, dataset_id))
            if not self._announcers[dataset_id]:
                del self._announcers[dataset_id]
        self._add(after)
        contested = {v.dataset_id for v in after.versions if len(self._announcers[v.dataset_id]) > 1}
        if contested:
            self._tell(contested, directory)

    def _add(self, cluster: Cluster) -> None:
        for version in cluster.versions:
            self._announcers[version.dataset_id].add(cluster.record.id)

    def _tell(self, contested: set[UUID], directory: Directory) -> None:
        holders = set().union(*(self._announcers[dataset_id] for dataset_id in contested))
        clusters = [
            replace(cluster, versions=tuple(v for v in cluster.versions if v.dataset_id in contested))
            for cluster_id in holders
            if (cluster := directory.get(cluster_id)) is not None and cluster.record.is_active
        ]
        counted = owned(clusters)
        for cluster in clusters:
            for version in false_claims(cluster, counted):
                claim = cluster.record.id, version.dataset_id
                if claim not in self._told:
                    self._told.add(claim)
                    log.warning(
                        "announced what another node owns",
                        cluster=cluster.record.name,
                        dataset=version.metadata.dataset,
                        dataset_id=str(version.dataset_id),
                    )
