"""What was measured of real queries; the oldest measurements give way."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from syndb_hub.federation.benchmarks import Benchmark, BenchmarkSummary, QueryType
from syndb_hub.store.database import Store
from syndb_hub.store.schema import benchmarks

MAX_KEPT = 50_000
"""Measurements kept: some weeks of a busy federation in a few megabytes, summed up in a fraction of a second."""


class StoredBenchmarks:
    """Repository of measurements. Implements :class:`syndb_hub.federation.benchmarks.Benchmarks`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, benchmark: Benchmark) -> None:
        """Keep one, in place of the oldest when there are :data:`MAX_KEPT`."""
        newest = sa.select(sa.func.max(benchmarks.c.number)).scalar_subquery()
        surplus = sa.delete(benchmarks).where(benchmarks.c.number <= newest - MAX_KEPT)

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.insert(benchmarks).values(**benchmark.model_dump()))
            connection.execute(surplus)

        await self._store.write(work)

    async def latest(
        self,
        *,
        query_type: QueryType | None = None,
        cluster_id: UUID | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> list[Benchmark]:
        """The latest first."""
        found = sa.select(benchmarks).order_by(benchmarks.c.at.desc(), benchmarks.c.number.desc()).limit(limit)
        if query_type is not None:
            found = found.where(benchmarks.c.query_type == query_type)
        if cluster_id is not None:
            found = found.where(benchmarks.c.cluster_id == cluster_id)
        if since is not None:
            found = found.where(benchmarks.c.at >= since)
        return await self._store.read(lambda c: [Benchmark(**row._mapping) for row in c.execute(found)])

    async def aggregate(self, *, since: datetime | None = None) -> list[BenchmarkSummary]:
        """One summary per query type that occurs. Latencies count whether the query succeeded or not."""
        statement = _summary(since)
        return await self._store.read(lambda c: [BenchmarkSummary(**row._mapping) for row in c.execute(statement)])


def _summary(since: datetime | None) -> sa.Select[Any]:
    kind, latency = benchmarks.c.query_type, benchmarks.c.latency_ms
    counted = sa.select(
        benchmarks,
        sa.func.row_number().over(partition_by=kind, order_by=latency).label("rank"),
        sa.func.count().over(partition_by=kind).label("total"),
    )
    if since is not None:
        counted = counted.where(benchmarks.c.at >= since)
    each = counted.subquery()

    def quantile(percent: int) -> sa.ColumnElement[float]:
        # Nearest rank: the smallest value that so many of a hundred do not exceed.
        rank = (each.c.total * percent + 99) // 100
        return sa.func.max(sa.case((each.c.rank == rank, each.c.latency_ms))).label(f"latency_ms_p{percent}")

    return (
        sa.select(
            each.c.query_type,
            sa.func.count().label("count"),
            sa.func.sum(sa.case((each.c.success, 1), else_=0)).label("successes"),
            sa.func.avg(each.c.latency_ms).label("latency_ms_mean"),
            quantile(50),
            quantile(95),
            quantile(99),
            sa.func.max(each.c.latency_ms).label("latency_ms_max"),
            sa.func.sum(each.c.row_count).label("rows"),
            sa.func.sum(each.c.payload_bytes).label("bytes"),
        )
        .group_by(each.c.query_type)
        .order_by(each.c.query_type)
    )
