"""What was measured of real queries, for whoever watches how the federation performs."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field, RootModel

from syndb_hub.auth.principal import Right
from syndb_hub.federation.benchmarks import Benchmark, BenchmarkSummary, QueryType
from syndb_hub.http.operation import Call, Operations

operations = Operations("federation")


class BenchmarkBody(BaseModel):
    """A measurement made elsewhere, for instance by a monitoring script."""

    model_config = ConfigDict(extra="forbid")

    cluster_id: UUID | None = Field(default=None, description="the node that was asked, if it was one")
    query_type: QueryType
    latency_ms: float = Field(ge=0, le=86_400_000)
    row_count: int = Field(default=0, ge=0, le=2**53)
    cluster_count: int = Field(default=1, ge=0, le=1_000_000)
    payload_bytes: int = Field(default=0, ge=0, le=2**53)
    success: bool = True


class BenchmarksQuery(BaseModel):
    """Which measurements are wanted."""

    model_config = ConfigDict(extra="forbid")

    query_type: QueryType | None = Field(default=None, description="only this type")
    cluster_id: UUID | None = Field(default=None, description="only of this node")
    since: datetime | date | None = Field(default=None, description="only from this moment on; UTC unless it says")
    limit: int = Field(default=100, ge=1, le=1000, description="at most so many, the latest first")


class AggregateQuery(BaseModel):
    """From when on measurements are summed up."""

    model_config = ConfigDict(extra="forbid")

    since: datetime | date | None = Field(default=None, description="only from this moment on; UTC unless it says")


class BenchmarkList(RootModel[list[Benchmark]]):
    """Measurements, the latest first."""


class BenchmarkSummaries(RootModel[list[BenchmarkSummary]]):
    """One summary per query type that occurs."""


@operations.post("/v1/federation/benchmarks", right=Right.ADMIN)
async def add_benchmark(call: Call, body: BenchmarkBody) -> Benchmark:
    """Keep a measurement made elsewhere; the hub adds those of its own queries by itself."""
    benchmark = Benchmark(id=uuid4(), at=datetime.now(UTC), **body.model_dump())
    await call.services.benchmarks.add(benchmark)
    return benchmark


@operations.get("/v1/federation/benchmarks", right=Right.FEDERATION)
async def list_benchmarks(call: Call, query: BenchmarksQuery) -> BenchmarkList:
    """The latest measurements."""
    found = await call.services.benchmarks.latest(
        query_type=query.query_type, cluster_id=query.cluster_id, since=_moment(query.since), limit=query.limit
    )
    return BenchmarkList(found)


@operations.get("/v1/federation/benchmarks/aggregate", right=Right.FEDERATION)
async def aggregate_benchmarks(call: Call, query: AggregateQuery) -> BenchmarkSummaries:
    """Counts and latencies by query type."""
    return BenchmarkSummaries(await call.services.benchmarks.aggregate(since=_moment(query.since)))


def _moment(given: datetime | date | None) -> datetime | None:
    """A day is its beginning; what names no zone is UTC."""
    if given is None:
        return None
    if not isinstance(given, datetime):
        given = datetime.combine(given, time())
    return given if given.tzinfo is not None else given.replace(tzinfo=UTC)
