"""The node's analyst: checks a plan against its owner's policy, compiles it, computes it, returns the part.

A small part travels inside the answer. A larger one waits at the Flight server for one reader, or is delivered to the
hub's, or, for a hub that neither reaches nor is reached, travels inside the answer up to a size of its own. A query
that nobody waits for any more is cancelled in ClickHouse.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from uuid import UUID

import pyarrow as pa
import structlog
import trio

from actors.catalogue import Catalogue
from actors.delivering import Deliverer, Taker
from actors.runtime import Actor, handle
from syndb_common import tracing
from syndb_common.engine.interface import INLINE_BYTES, Answer, Engine, Limits
from syndb_common.errors import (
    Cancelled,
    Conflict,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    SynDBError,
    TooManyRequests,
)
from syndb_common.messages import Acknowledged, AnalyticsQuery, AnalyticsResult, CancelQuery, FlightEndpoint
from syndb_common.metrics import QUERY_SECONDS, SCANNED_BYTES, SCANNED_ROWS, timed
from syndb_common.syql import Plan, to_clickhouse

log = structlog.get_logger(__name__)

FRAME_BYTES = 512 * 1024
"""Of a part that has to travel inside an answer: half of what one frame may be. A relay carries it beside the pings of
all its nodes, at some MB per second."""

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
        deliverer: brings parts to a hub that cannot fetch them.
        frame_bytes: the largest part that travels inside an answer when it can come in no other way.
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
        deliverer: Deliverer | None = None,
        frame_bytes: int = FRAME_BYTES,
    ) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._guard = guard
        self._limits = limits
        self._running = running
        self._deliverer = deliverer
        self._frame_bytes = frame_bytes

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
        log.debug("part asked for", query_id=query_id)
        with timed(QUERY_SECONDS, "part"), tracing.span("part", query_id=query_id):
            result = await self._part(message)
        SCANNED_ROWS.inc(result.scanned_rows)
        SCANNED_BYTES.inc(result.scanned_bytes)
        log.info("part computed", query_id=query_id, rows=result.rows, inline=result.inline is not None)
        return result

    async def _part(self, message: AnalyticsQuery) -> AnalyticsResult:
        await self._check_published(message.plan)
        self._guard(message.plan)
        query_id, frames = str(message.query_id), message.delivery == "frames"
        taker = Taker() if message.delivery == "push" else None
        with self._running.query(message.query_id):
            part = await self._engine.answer(
                await _compile(message.plan),
                limits=self._limits(message.seconds),
                query_id=query_id,
                inline_bytes=self._frame_bytes if frames else INLINE_BYTES,
                reader=message.reader if taker is None else taker.reader,
            )
        if isinstance(part, Answer):
            inline = to_ipc(part.table)
            if frames and len(inline) > self._frame_bytes + INLINE_BYTES:
                raise self._too_large_for_frames()
            return AnalyticsResult(
                inline=inline,
                rows=part.table.num_rows,
                scanned_rows=part.scan.rows,
                scanned_bytes=part.scan.bytes,
                seconds=part.scan.seconds,
            )
        if frames:
            await self._engine.cancel(query_id)
            raise self._too_large_for_frames()
        if taker is not None:
            if self._deliverer is None or message.push_to is None or message.push_to.ticket is None:
                await self._engine.cancel(query_id)
                raise InvalidRequest("the part cannot be delivered: the question does not say where to")
            try:
                seconds = message.delivery_seconds
                self._deliverer.start(part, taker, message.push_to, seconds=seconds, query_id=query_id)
            except SynDBError:
                await self._engine.cancel(query_id)
                raise
            return AnalyticsResult(pushed=True)
        endpoint = FlightEndpoint(location=part.location, certificate=part.certificate, ticket=part.ticket)
        return AnalyticsResult(endpoint=endpoint)

    def _too_large_for_frames(self) -> LimitExceeded:
        return LimitExceeded(
            f"the part is larger than {self._frame_bytes} bytes and can come only inside an answer: the hub does not "
            "reach this node's Flight server, nor this node the hub's",
            hint="Aggregate or add LIMIT; or have the node's operator make its Flight port reachable.",
            limit=self._frame_bytes,
        )

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
