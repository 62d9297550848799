"""What a ping, or a node's farewell, changes in the hub's picture of the node."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from actors.directory import Cluster, Health
from actors.health import HealthObserved

T = TypeVar("T")

STOPS = "the node stops"
"""Begins the cause of a node that left on purpose, which then stays the cause while it is away."""


def farewell(cluster: Cluster, reason: str) -> HealthObserved:
    """What is seen of a node that says it stops."""
    return HealthObserved(
        cluster.record.id,
        Health.UNREACHABLE,
        STOPS if reason in ("", STOPS) else f"{STOPS}: {reason}",
        cluster.failures,
        flaps=cluster.flaps,
    )


def sighted(cluster: Cluster, seen: HealthObserved) -> Cluster:
    """The node as it is known after this; the same object when it is no news."""
    answered, lost = seen.latency_seconds is not None, cluster.health is Health.UNREACHABLE
    if lost and not answered and seen.health.routable:
        return cluster  # it has said that it stops: a first missed ping says less
    record = cluster.record
    if seen.schema_version is not None and seen.schema_version != record.schema_version:
        record = replace(record, schema_version=seen.schema_version)
    said = lost and not answered and cluster.cause.startswith(STOPS)
    return replace(
        cluster,
        record=record,
        health=seen.health,
        cause=cluster.cause if said else seen.cause,
        since=cluster.since if seen.health is cluster.health else seen.at,
        failures=seen.failures,
        flaps=seen.flaps,
        latency_seconds=seen.latency_seconds,
        clock_skew_seconds=_latest(seen.clock_skew_seconds, cluster.clock_skew_seconds),
        last_seen=seen.at if answered else cluster.last_seen,
        ontology_revision=_latest(seen.ontology_revision, cluster.ontology_revision),
    )


def _latest(seen: T | None, before: T | None) -> T | None:
    return before if seen is None else seen
