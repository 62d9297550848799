"""What was measured of real queries, as it is kept."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

QueryType = Literal["remote_single", "remote_multi", "federation_union", "federation_search", "health_check"]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Benchmark(_View):
    """One measured query of the federation."""

    id: UUID
    at: datetime
    cluster_id: UUID | None = None
    query_type: QueryType
    latency_ms: float = Field(ge=0)
    row_count: int = Field(default=0, ge=0)
    cluster_count: int = Field(default=1, ge=0)
    payload_bytes: int = Field(default=0, ge=0)
    success: bool = True


class BenchmarkSummary(_View):
    """Benchmarks of one query type. Latencies in milliseconds, quantiles by nearest rank."""

    query_type: QueryType
    count: int
    successes: int
    latency_ms_mean: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    latency_ms_max: float
    rows: int
    bytes: int


class Benchmarks(Protocol):
    """What was measured of real queries; at most some thousands are kept, the oldest give way."""

    async def add(self, benchmark: Benchmark) -> None:
        """Keep one."""
        ...

    async def latest(
        self,
        *,
        query_type: QueryType | None = None,
        cluster_id: UUID | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> list[Benchmark]:
        """The latest first."""
        ...

    async def aggregate(self, *, since: datetime | None = None) -> list[BenchmarkSummary]:
        """One summary per query type that occurs."""
        ...
