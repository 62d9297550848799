"""The node's analyst: checks a plan against its owner's policy, compiles it, computes it, returns the part.

A small part travels inside the answer, a larger one waits at the Flight server for one reader. A query that nobody
waits for any more is cancelled in ClickHouse.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from uuid import UUID

import pyarrow as pa
import structlog
import trio

from actors.catalogue import Catalogue
from actors.runtime import Actor, handle
from syndb_common import tracing
from syndb_common.engine.interface import Answer, Engine, Limits
from syndb_common.errors import Cancelled, Conflict, NotFound, SynDBError, TooManyRequests
from syndb_common.messages import Acknowledged, AnalyticsQuery, AnalyticsResult, CancelQuery, FlightEndpoint
from syndb_common.metrics import QUERY_SECONDS, SCANNED_BYTES, SCANNED_ROWS, timed
from syndb_common.syql import Plan, to_clickhouse

log = structlog.get_logger(__name__)

LARGE_PLAN = 20_000
"""Characters of a plan as JSON; a smaller one compiles within some ten milliseconds."""
_compiling = trio.CapacityLimiter(2)

Guard = Callable[[Plan], None]
"""The owner's policy: returns, or raises PolicyRefused."""


class Running:
    """The queries under way on this node, for whoever wants to know the load.

    Args:
        at_most: further queries are refused until one ends.
    """

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._scopes: dict[UUID, trio.CancelScope] = {}

    def __len__(self) -> int:
        return len(self._scopes)

    @contextlib.contextmanager
    def query(self, query_id: UUID) -> Iterator[None]:
        """Count a query while the block runs, and let :meth:`cancel` reach it.

        Raises:
            TooManyRequests: as many as allowed are under way.
            Conflict: a query of this id is under way.
            Cancelled: the query was cancelled by name.
        """
        if query_id in self._scopes:
            raise Conflict("a query of this id is under way")
        if len(self._scopes) >= self._at_most:
            raise TooManyRequests(f"this node already computes {self._at_most} queries", hint="Try again in a moment.")
        with trio.CancelScope() as scope:
            self._scopes[query_id] = scope
            try:
                yield
            finally:
                del self._scopes[query_id]
        if scope.cancelled_caught:
            raise Cancelled("the query was cancelled by the hub")

    def cancel(self, query_id: UUID) -> None:
        """Stop a query; nothing happens when it has ended."""
        if query_id in self._scopes:
            self._scopes[query_id].cancel()


class AnalyticsDelegate(Actor):
    """Answers the hub's questions.

    Args:
        engine: where the rows are.
        running: counts what is under way.
        catalogue: what is published; nothing else is ever read.
        guard: the owner's policy.
        limits: the limits of a query whose caller waits so many seconds more.
    """

    expected = (SynDBError,)

    def __init__(
        self,
        *,
        engine: Engine,
        running: Running,
        catalogue: Catalogue,
        guard: Guard,
        limits: Callable[[float], Limits],
    ) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._guard = guard
        self._limits = limits
        self._running = running

    @handle
    async def query(self, message: AnalyticsQuery) -> AnalyticsResult:
        """Compute one part; queries run side by side, up to ``max_delegates``."""
        return self.context.delegate(self._compute, message)

    @handle
    async def cancel(self, message: CancelQuery) -> Acknowledged:
        """Stop a query, also one whose result waits for its reader."""
        self._running.cancel(message.query_id)
        await self._engine.cancel(str(message.query_id))
        return Acknowledged()

    async def _compute(self, message: AnalyticsQuery) -> AnalyticsResult:
        query_id = str(message.query_id)
        with timed(QUERY_SECONDS, "part"), tracing.span("part", query_id=query_id):
            result = await self._part(message)
        SCANNED_ROWS.inc(result.scanned_rows)
        SCANNED_BYTES.inc(result.scanned_bytes)
        log.info("part computed", query_id=query_id, rows=result.rows, inline=result.inline is not None)
        return result

    async def _part(self, message: AnalyticsQuery) -> AnalyticsResult:
        await self._check_published(message.plan)
        self._guard(message.plan)
        with self._running.query(message.query_id):
            part = await self._engine.answer(
                await _compile(message.plan),
                limits=self._limits(message.seconds),
                query_id=str(message.query_id),
            )
        if isinstance(part, Answer):
            return AnalyticsResult(
                inline=to_ipc(part.table),
                rows=part.table.num_rows,
                scanned_rows=part.scan.rows,
                scanned_bytes=part.scan.bytes,
                seconds=part.scan.seconds,
            )
        endpoint = FlightEndpoint(location=part.location, certificate=part.certificate, ticket=part.ticket)
        return AnalyticsResult(endpoint=endpoint)

    async def _check_published(self, plan: Plan) -> None:
        wanted = {(dataset.dataset_id, dataset.version) for dataset in plan.datasets}
        if not wanted <= self._published():
            await self._catalogue.refresh()
        missing = wanted - self._published()
        if missing:
            dataset_id, version = sorted(missing)[0]
            raise NotFound(f"version {version} of data set {dataset_id} is not published on this node")

    def _published(self) -> set[tuple[UUID, int]]:
        return {(version.dataset_id, version.version) for version in self._catalogue.versions}


async def _compile(plan: Plan) -> str:
    """The node's statement. A large plan takes a second or more: then in a thread, so that pings are answered."""
    if len(plan.model_dump_json()) <= LARGE_PLAN:
        return to_clickhouse(plan, "node")
    return await trio.to_thread.run_sync(to_clickhouse, plan, "node", limiter=_compiling)


def to_ipc(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
