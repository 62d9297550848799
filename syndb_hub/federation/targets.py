"""Who is asked: which data-set versions a query may see, and which holder computes each.

The catalogue decides locality. A node that holds a matching data set and cannot be asked now, or takes no part, is
named with its cause; a node that holds none is not bothered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from actors.directory import HUB, Cluster, Directory, Key, Standing, is_replica, owned
from syndb_common.errors import Conflict, NotFound
from syndb_common.syql.plan import Plan, Scope
from syndb_common.tables.versions import PublishedVersion
from syndb_hub.federation.answers import NodeOutcome

TAKES_NO_PART = {
    Standing.PENDING: "has not joined",
    Standing.WAITING: "waits for approval",
    Standing.INACTIVE: "deactivated by the hub's operator",
}
"""Why a node is not asked that is not active."""


@dataclass(frozen=True, slots=True)
class Holding:
    """One published version, as its owner describes it, and who holds it; None for the hub's own warehouse."""

    version: PublishedVersion
    cluster: Cluster | None

    @property
    def key(self) -> Key:
        """Data set and version."""
        return self.version.dataset_id, self.version.version

    @property
    def holder(self) -> str:
        """Name of the holder."""
        return HUB if self.cluster is None else self.cluster.record.name

    @property
    def seniority(self) -> tuple[Any, ...]:
        """The least is the owner's among those who hold a version; see :func:`actors.directory.owned`."""
        return () if self.cluster is None else (self.cluster.record.registered_at, self.cluster.record.id)

    @property
    def takes_part(self) -> bool:
        """Whether the holder may be asked at all."""
        return self.cluster is None or self.cluster.record.is_active


@dataclass(frozen=True, slots=True)
class Target:
    """One holder and its part of the plan."""

    cluster: Cluster | None
    plan: Plan

    @property
    def name(self) -> str:
        """Name of the holder."""
        return HUB if self.cluster is None else self.cluster.record.name


@dataclass(frozen=True, slots=True)
class Targets:
    """The outcome of targeting: who is asked what, who cannot be asked, and which holding serves each version."""

    asked: tuple[Target, ...]
    skipped: tuple[NodeOutcome, ...]
    holdings: tuple[Holding, ...]


def visible(
    directory: Directory, own: Iterable[PublishedVersion], scope: Scope, cluster_ids: Sequence[UUID] | None
) -> list[Holding]:
    """Every version that a query of this scope may see, once for each of its holders.

    What a node claims of a data set that is another's is not seen (:func:`actors.directory.owned`).

    Raises:
        NotFound: ``cluster_ids`` names a node that is not registered.
    """
    for cluster_id in cluster_ids or ():
        if cluster_id not in directory.clusters:
            raise NotFound(f"no cluster {cluster_id}", hint="`syndb federation clusters` lists them with their ids.")
    own = tuple(own)
    counted = owned(directory.clusters.values(), own)
    holdings: list[Holding] = []
    if scope is not Scope.REMOTE:
        holdings.extend(Holding(version, None) for version in own)
    if scope is not Scope.LOCAL:
        for cluster in directory.clusters.values():
            if cluster.record.is_active and (cluster_ids is None or cluster.record.id in cluster_ids):
                holdings.extend(
                    Holding(counted[version.dataset_id, version.version], cluster)
                    for version in cluster.versions
                    if is_replica(version, counted)
                )
    return holdings


def lost(
    directory: Directory,
    own: Iterable[PublishedVersion],
    cluster_ids: Sequence[UUID] | None,
    seen: Iterable[Holding],
) -> list[Holding]:
    """What nodes that take no part last announced and a query would see if they did; nobody it sees (``seen``) has it.

    An owner that is active decides what counts as a version: another content under one of its numbers is not missed.
    """
    away = [
        cluster
        for cluster in directory.clusters.values()
        if not cluster.record.is_active
        and cluster.versions
        and (cluster_ids is None or cluster.record.id in cluster_ids)
    ]
    if not away:
        return []
    own = tuple(own)
    present = {cluster.record.id: cluster for cluster in directory.clusters.values()}
    present |= {cluster.record.id: _as_if_active(cluster) for cluster in away}
    counted = owned(present.values(), own) | owned(directory.clusters.values(), own)
    held = {holding.key for holding in seen}
    return [
        Holding(counted[version.dataset_id, version.version], cluster)
        for cluster in away
        for version in cluster.versions
        if is_replica(version, counted) and (version.dataset_id, version.version) not in held
    ]


def _as_if_active(cluster: Cluster) -> Cluster:
    return replace(cluster, record=replace(cluster.record, standing=Standing.ACTIVE))


def versions(holdings: Iterable[Holding]) -> list[PublishedVersion]:
    """What is held, each version once: all its holders hold the same."""
    return list({holding.key: holding.version for holding in holdings}.values())


def check_names(holdings: Iterable[Holding]) -> None:
    """Check that no two of these data sets share their short name: their rows would be taken for one data set's.

    Raises:
        Conflict: two do; it names their ids and holders.
    """
    by_name: dict[str, Holding] = {}
    for holding in holdings:
        name = holding.version.metadata.dataset
        other = by_name.setdefault(name, holding)
        if other.version.dataset_id != holding.version.dataset_id:
            raise Conflict(
                f"{name} names two data sets: {other.version.dataset_id} at {other.holder} and "
                f"{holding.version.dataset_id} at {holding.holder}",
                hint="Select one with `WHERE dataset_id = '...'`, or name the nodes to ask with cluster_ids.",
            )


def assign(plan: Plan, holdings: Sequence[Holding], in_scope: Iterable[Cluster]) -> Targets:
    """Split a plan over the holders of its versions; of several the one that is most able to answer it.

    ``in_scope`` are the nodes the query is about: those whose catalogue is unknown are reported, since they may hold
    what is asked for.
    """
    best: dict[Key, Holding] = {}
    for holding in sorted(holdings, key=lambda holding: _preference(holding, plan)):
        best.setdefault(holding.key, holding)
    used = [best[dataset.dataset_id, dataset.version] for dataset in plan.datasets]
    groups: dict[str, list[Holding]] = {}
    for holding in used:
        groups.setdefault(holding.holder, []).append(holding)
    asked, skipped = [], []
    for name, group in groups.items():
        cluster = group[0].cluster
        if cluster is not None and not (cluster.record.is_active and cluster.health.routable):
            skipped.append(_skipped(cluster))
        elif cluster is not None and not _fits(cluster, plan):
            cause = schema_too_old(cluster.record.schema_version, plan.minimum_schema)
            skipped.append(NodeOutcome(cluster=name, status="skipped", cause=cause, code="schema"))
        else:
            asked.append(Target(cluster, plan.for_datasets(frozenset(holding.key for holding in group))))
    skipped.extend(
        _skipped(cluster)
        for cluster in in_scope
        if cluster.record.name not in groups and cluster.catalogue_revision is None
    )
    return Targets(tuple(asked), tuple(skipped), tuple(used))


def with_missing(targets: Targets, missing: Sequence[Holding]) -> Targets:
    """The same, and versions that only nodes hold which take no part."""
    named = {outcome.cluster for outcome in targets.skipped}
    clusters = {holding.holder: holding.cluster for holding in missing if holding.holder not in named}
    skipped = tuple(_skipped(cluster) for cluster in clusters.values() if cluster is not None)
    return replace(targets, skipped=(*targets.skipped, *skipped), holdings=(*targets.holdings, *missing))


def schema_too_old(version: int, needed: int) -> str:
    """Why a node is not asked whose tables lack something that a question needs."""
    return (
        f"schema version {version}, this question needs {needed}: `syndb federation sync-schema` brings it up to date"
    )


def _skipped(cluster: Cluster) -> NodeOutcome:
    if not cluster.record.is_active:
        cause, code = TAKES_NO_PART[cluster.record.standing], "standing"
    elif cluster.health.routable:
        cause, code = "the hub does not know its catalogue yet", "catalogue"
    else:
        cause, code = f"{cluster.health}: {cluster.cause}" if cluster.cause else str(cluster.health), "health"
    return NodeOutcome(cluster=cluster.record.name, status="skipped", cause=cause, code=code)


def _fits(cluster: Cluster, plan: Plan) -> bool:
    return cluster.record.schema_version >= plan.minimum_schema


def _preference(holding: Holding, plan: Plan) -> tuple[bool, int, str]:
    """The hub itself; then nodes that can be asked, the healthiest first; then those that are named as missing."""
    if (cluster := holding.cluster) is None:
        return False, 0, ""
    order = ["healthy", "degraded", "unknown", "unreachable"]
    return not (cluster.health.routable and _fits(cluster, plan)), 1 + order.index(cluster.health), holding.holder
