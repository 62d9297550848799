"""Keeping what queries cost, beside them: a measurement that cannot be kept fails and delays nothing.

| query type | what was asked |
|---|---|
| ``remote_single`` | one node and nobody else |
| ``remote_multi`` | several holders, because the caller named the nodes or the scope ``remote`` |
| ``federation_search`` | several holders with scope ``federation``: the rows that fit a condition |
| ``federation_union`` | several holders with scope ``federation``: anything else |
| ``health_check`` | one node, pinged by `verify` or `test/connectivity`; the regular pings are not kept |

A query that no node was asked is not kept. ``success`` means that everybody asked has answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import structlog
import trio

from syndb_common.errors import SynDBError
from syndb_common.syql import Plan, Scope
from syndb_hub.federation.benchmarks import Benchmark, Benchmarks, QueryType
from syndb_hub.federation.fan_out import Part
from syndb_hub.federation.targets import Target

log = structlog.get_logger(__name__)

WAITING = 1000
"""Measurements that may wait to be written; further ones are lost."""


class Measurements:
    """Takes measurements at once and writes them when :meth:`run` gets to it."""

    def __init__(self, benchmarks: Benchmarks) -> None:
        self._benchmarks = benchmarks
        self._put, self._take = trio.open_memory_channel[Benchmark](WAITING)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled."""
        task_status.started()
        async for benchmark in self._take:
            try:
                await self._benchmarks.add(benchmark)
            except SynDBError as error:
                log.warning("benchmark not kept", cause=error.message)

    def query(
        self,
        plan: Plan,
        scope: Scope,
        targets: Sequence[Target],
        parts: Sequence[Part],
        *,
        named: bool,
        seconds: float,
        rows: int | None,
    ) -> None:
        """Keep what a query cost.

        Args:
            named: whether the caller named the nodes.
            parts: what the targets contributed; empty when the query failed as a whole.
            rows: of the answer; None if there is none.
        """
        nodes = [target.cluster.record.id for target in targets if target.cluster is not None]
        if nodes:
            self._keep(
                cluster_id=nodes[0] if len(targets) == 1 else None,
                query_type=query_type(plan, scope, len(targets), named=named),
                latency_ms=seconds * 1000,
                row_count=rows or 0,
                cluster_count=len(nodes),
                payload_bytes=sum(part.outcome.bytes for part in parts),
                success=rows is not None and all(part.answered for part in parts),
            )

    def health_check(self, cluster_id: UUID, *, latency_ms: float, success: bool) -> None:
        """Keep what a ping cost that somebody asked for."""
        self._keep(cluster_id=cluster_id, query_type="health_check", latency_ms=latency_ms, success=success)

    def _keep(self, **facts: object) -> None:
        benchmark = Benchmark.model_validate({"id": uuid4(), "at": datetime.now(UTC), **facts})
        try:
            self._put.send_nowait(benchmark)
        except trio.WouldBlock:
            log.warning("benchmark not kept", cause="too many are waiting")


def query_type(plan: Plan, scope: Scope, holders: int, *, named: bool) -> QueryType:
    """The type of a query by the table above."""
    if holders == 1:
        return "remote_single"
    if named or scope is not Scope.FEDERATION:
        return "remote_multi"
    return "federation_search" if plan.where is not None and not plan.is_aggregate else "federation_union"
