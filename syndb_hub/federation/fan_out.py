"""Send each holder its part of a plan and collect what comes back, side by side.

A part fails alone: by refusal, by its deadline, or at once when the health monitor sees that its node is gone, so
that a killed node costs a few seconds and not the caller's whole deadline.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import pyarrow as pa
import structlog
import trio

from actors.directory import Cluster, Directory
from actors.runtime import ActorRef
from syndb_common.engine.interface import Engine, Limits
from syndb_common.errors import (
    DataError,
    DeadlineExceeded,
    IncompleteResult,
    LimitExceeded,
    PeerUnavailable,
    SynDBError,
)
from syndb_common.flight import client as flight
from syndb_common.messages import AnalyticsQuery, AnalyticsResult, CancelQuery, FlightEndpoint
from syndb_common.syql import Plan, conform, needs_care, partial_schema, to_clickhouse
from syndb_hub.federation.service import NodeOutcome
from syndb_hub.federation.targets import Target

log = structlog.get_logger(__name__)

LEAST_SECONDS = 0.001
"""What is left of a deadline that has just passed: the enclosing one ends the wait."""
CANCEL_SECONDS = 2.0
"""How long telling a node to stop may take; it notices the closed stream by itself as well."""
CHECKED_HERE_BYTES = 1024**2
"""A part up to this size is checked in well under a millisecond; a larger one in a thread."""
MAX_READERS = 16
"""Parts read at once, over all queries."""
_readers = trio.CapacityLimiter(MAX_READERS)
MAX_CHECKERS = 2
"""Large parts checked at once; more would not be faster."""
_checkers = trio.CapacityLimiter(MAX_CHECKERS)


@dataclass(frozen=True, slots=True)
class Part:
    """What one holder contributed: its table, or the outcome that says why there is none."""

    outcome: NodeOutcome
    table: pa.Table | None = None
    error: SynDBError | None = None


class Budget:
    """Bytes that all parts of one query may have together. May be drawn on from any thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._spent = 0
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """Bytes not yet spent."""
        return max(self._max_bytes - self._spent, 0)

    @property
    def exceeded(self) -> bool:
        """Whether more came than may."""
        return self._spent > self._max_bytes

    def spend(self, size: int) -> None:
        """Count what has come.

        Raises:
            LimitExceeded: it is more than all parts may have together.
        """
        with self._lock:
            self._spent += size
        if self.exceeded:
            raise self.error()

    def give_back(self, size: int) -> None:
        """Count no more what was thrown away."""
        with self._lock:
            self._spent -= size

    def error(self) -> LimitExceeded:
        """What the query is told."""
        return LimitExceeded(
            f"the parts of the answer are larger than {self._max_bytes} bytes together",
            hint="Aggregate, add LIMIT, or select fewer data sets.",
        )


@dataclass(frozen=True, slots=True)
class FanOut:
    """Asks holders for their parts.

    Args:
        directory: whose health ends the wait for a node.
        warehouse: the hub's own engine.
        peer: makes the reference to a node.
        max_bytes: what all parts of one query may have together.
        suspect: told of a node that did not answer, so that its health is checked at once.
    """

    directory: Directory
    warehouse: Engine
    peer: Callable[[Cluster], ActorRef]
    max_bytes: int
    suspect: Callable[[UUID], None] = lambda cluster_id: None

    async def ask(self, targets: Sequence[Target], query_id: UUID, seconds: float) -> list[Part]:
        """One part per target, in their order; errors of single parts are in the parts.

        Raises:
            LimitExceeded: the parts are too large together. It ends the work at every holder.
        """
        parts: dict[int, Part] = {}
        budget = Budget(self.max_bytes)

        async with trio.open_nursery() as nursery:

            async def one(index: int, target: Target) -> None:
                parts[index] = await self._part(target, query_id, seconds, budget)
                if budget.exceeded:
                    nursery.cancel_scope.cancel()

            for index, target in enumerate(targets):
                nursery.start_soon(one, index, target)
        if budget.exceeded:
            raise budget.error()
        return [parts[index] for index in range(len(targets))]

    async def _part(self, target: Target, query_id: UUID, seconds: float, budget: Budget) -> Part:
        began = trio.current_time()
        try:
            with trio.fail_after(seconds):
                part = await self._ask(target, query_id, seconds, budget)
                if part.table is not None and needs_care(part.table):
                    budget.give_back(part.table.nbytes)
                    careful = Target(target.cluster, target.plan.model_copy(update={"careful": True}))
                    left = max(seconds - (trio.current_time() - began), LEAST_SECONDS)
                    part = await self._ask(careful, query_id, left, budget)
                return part
        except trio.TooSlowError:
            error: SynDBError = DeadlineExceeded(f"no answer within {seconds:g} s")
        except SynDBError as failed:
            error = failed
        log.warning("no part", cluster=target.name, code=error.code, cause=error.message)
        if target.cluster is not None and isinstance(error, PeerUnavailable | DeadlineExceeded):
            self.suspect(target.cluster.record.id)
        outcome = NodeOutcome(
            cluster=target.name,
            status="failed",
            cause=error.message,
            code=error.code,
            seconds=trio.current_time() - began,
        )
        return Part(outcome, error=error)

    async def _ask(self, target: Target, query_id: UUID, seconds: float, budget: Budget) -> Part:
        if target.cluster is None:
            return await self._own(target, query_id, seconds, budget)
        return await self._remote(target, target.cluster, query_id, seconds, budget)

    async def _own(self, target: Target, query_id: UUID, seconds: float, budget: Budget) -> Part:
        limits = Limits(seconds=seconds, result_bytes=self.max_bytes)
        answer = await self.warehouse.query(to_clickhouse(target.plan, "node"), limits=limits, query_id=str(query_id))
        budget.spend(answer.table.nbytes)
        table = await _checked(target.plan, answer.table)
        return _answered(target, table, answer.scan.seconds, answer.scan.rows, answer.scan.bytes)

    async def _remote(self, target: Target, cluster: Cluster, query_id: UUID, seconds: float, budget: Budget) -> Part:
        began = trio.current_time()
        peer = self.peer(cluster)
        stop = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._fail_when_unroutable, cluster)
                question = AnalyticsQuery(query_id=query_id, plan=target.plan, seconds=seconds)
                result: AnalyticsResult = await peer.ask(question, timeout=seconds)
                left = max(seconds - (trio.current_time() - began), LEAST_SECONDS)
                with _damage():
                    table = await _checked(target.plan, await self._fetch(cluster, result, left, budget))
                stop = False
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            error = _single(group)
            # Who is gone cannot be told to stop, and trying would cost the query its time; a closed stream ends the
            # work at the node as well.
            stop = not isinstance(error, PeerUnavailable)
            raise error from None
        finally:
            if stop:
                await _cancel(peer, query_id)
        spent = trio.current_time() - began
        return _answered(target, table, spent, result.scanned_rows, result.scanned_bytes)

    async def _fetch(self, cluster: Cluster, result: AnalyticsResult, seconds: float, budget: Budget) -> pa.Table:
        if result.inline is not None:
            budget.spend(len(result.inline))
            with pa.ipc.open_stream(result.inline) as reader:
                return reader.read_all()
        if result.endpoint is None or result.endpoint.ticket is None:
            raise IncompleteResult("the node sent neither a result nor a ticket")
        # The hub dials only what the node registered and somebody approved, whatever an answer says.
        if not cluster.dial.flight:
            raise PeerUnavailable(no_flight(cluster))
        endpoint = FlightEndpoint(
            location=cluster.dial.flight,
            certificate=cluster.dial.flight_certificate,
            ticket=result.endpoint.ticket,
        )
        reading = flight.Reading(endpoint, seconds=seconds, max_bytes=sys.maxsize)  # the budget counts
        try:
            read = partial(_read, reading, budget)
            return await trio.to_thread.run_sync(read, abandon_on_cancel=True, limiter=_readers)
        except trio.Cancelled:
            reading.cancel()
            raise

    async def _fail_when_unroutable(self, cluster: Cluster) -> None:
        cause = await self.directory.wait_unroutable(cluster.record.id)
        raise PeerUnavailable(f"the node stopped answering: {cause}")


def no_flight(cluster: Cluster) -> str:
    """Why the hub has no address of a node's Flight server."""
    announced = cluster.record.endpoints.flight
    if not announced:
        return "the node has announced no Flight server; it does when its engine has started"
    refused = [text for text in cluster.refused_addresses if text.startswith(f"{announced}: ")]
    where = refused[0] if refused else f"{announced}, an address nobody approved"
    return (
        f"the hub does not dial the node's Flight server at {where}: "
        f"`syndb federation clusters approve-hosts {cluster.record.name} HOST`, or correct the node's flight.advertise"
    )


def _read(reading: flight.Reading, budget: Budget) -> pa.Table:
    """A whole result, every batch counted as it comes; blocks."""
    batches = []
    for batch in reading.batches():
        budget.spend(batch.nbytes)
        batches.append(batch)
    return pa.Table.from_batches(batches, schema=reading.schema)


async def _checked(plan: Plan, table: pa.Table) -> pa.Table:
    """The part, if it is sound and what was asked for (:func:`syndb_common.syql.conform`)."""
    check = partial(conform, partial_schema(plan), table)
    if table.nbytes <= CHECKED_HERE_BYTES:
        return check()
    return await trio.to_thread.run_sync(check, abandon_on_cancel=True, limiter=_checkers)


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """A peer's Arrow is foreign until every offset is checked: whatever pyarrow raises over it is one failed part."""
    try:
        yield
    except (DataError, pa.ArrowException, OSError, ValueError, LookupError, NotImplementedError) as error:
        raise IncompleteResult(f"the node sent a part that cannot be used: {error}") from error


async def _cancel(peer: ActorRef, query_id: UUID) -> None:
    with trio.CancelScope(shield=True), trio.move_on_after(CANCEL_SECONDS):
        try:
            await peer.ask(CancelQuery(query_id=query_id), timeout=CANCEL_SECONDS)
        except SynDBError as error:
            log.debug("could not cancel", cause=error.message)


def _answered(target: Target, table: pa.Table, seconds: float, scanned_rows: int, scanned_bytes: int) -> Part:
    outcome = NodeOutcome(
        cluster=target.name,
        status="answered",
        rows=table.num_rows,
        seconds=seconds,
        scanned_rows=scanned_rows,
        scanned_bytes=scanned_bytes,
        bytes=table.nbytes,
    )
    return Part(outcome, table)


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that explains a group: ours before others, and a cancellation only when there is nothing else."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    return min(leaves, key=lambda e: (not isinstance(e, SynDBError), isinstance(e, trio.Cancelled)))
