"""Send each holder its part of a plan and collect what comes back, side by side.

A part fails alone: by refusal, by its deadline, or at once when the health monitor sees that its node is gone, so
that a killed node costs a few seconds and not the caller's whole deadline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import pyarrow as pa
import structlog
import trio

from actors.directory import Cluster, Directory
from actors.runtime import ActorRef
from syndb_common.engine.interface import Engine, Limits
from syndb_common.errors import DataError, DeadlineExceeded, IncompleteResult, PeerUnavailable, SynDBError
from syndb_common.flight import client as flight
from syndb_common.messages import AnalyticsQuery, AnalyticsResult, CancelQuery, FlightEndpoint
from syndb_common.syql import conform, needs_care, partial_schema, to_clickhouse
from syndb_hub.federation.service import NodeOutcome
from syndb_hub.federation.targets import Target

log = structlog.get_logger(__name__)

LEAST_SECONDS = 0.001
"""What is left of a deadline that has just passed: the enclosing one ends the wait."""
CANCEL_SECONDS = 2.0
"""How long telling a node to stop may take; it notices the closed stream by itself as well."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one holder contributed: its table, or the outcome that says why there is none."""

    outcome: NodeOutcome
    table: pa.Table | None = None
    error: SynDBError | None = None


@dataclass(frozen=True, slots=True)
class FanOut:
    """Asks holders for their parts.

    Args:
        directory: whose health ends the wait for a node.
        warehouse: the hub's own engine.
        peer: makes the reference to a node.
        max_bytes: largest part that is accepted from one holder.
        suspect: told of a node that did not answer, so that its health is checked at once.
    """

    directory: Directory
    warehouse: Engine
    peer: Callable[[Cluster], ActorRef]
    max_bytes: int
    suspect: Callable[[UUID], None] = lambda cluster_id: None

    async def ask(self, targets: Sequence[Target], query_id: UUID, seconds: float) -> list[Part]:
        """One part per target, in their order; errors of single parts are in the parts."""
        parts: dict[int, Part] = {}

        async def one(index: int, target: Target) -> None:
            parts[index] = await self._part(target, query_id, seconds)

        async with trio.open_nursery() as nursery:
            for index, target in enumerate(targets):
                nursery.start_soon(one, index, target)
        return [parts[index] for index in range(len(targets))]

    async def _part(self, target: Target, query_id: UUID, seconds: float) -> Part:
        began = trio.current_time()
        try:
            with trio.fail_after(seconds):
                part = await self._ask(target, query_id, seconds)
                if needs_care(part.table):
                    careful = Target(target.cluster, target.plan.model_copy(update={"careful": True}))
                    left = max(seconds - (trio.current_time() - began), LEAST_SECONDS)
                    part = await self._ask(careful, query_id, left)
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

    async def _ask(self, target: Target, query_id: UUID, seconds: float) -> Part:
        if target.cluster is None:
            return await self._own(target, query_id, seconds)
        return await self._remote(target, target.cluster, query_id, seconds)

    async def _own(self, target: Target, query_id: UUID, seconds: float) -> Part:
        limits = Limits(seconds=seconds, result_bytes=self.max_bytes)
        answer = await self.warehouse.query(to_clickhouse(target.plan, "node"), limits=limits, query_id=str(query_id))
        table = conform(partial_schema(target.plan), answer.table)
        return _answered(target, table, answer.scan.seconds, answer.scan.rows, answer.scan.bytes)

    async def _remote(self, target: Target, cluster: Cluster, query_id: UUID, seconds: float) -> Part:
        began = trio.current_time()
        peer = self.peer(cluster)
        finished = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._fail_when_unroutable, cluster)
                question = AnalyticsQuery(query_id=query_id, plan=target.plan, seconds=seconds)
                result: AnalyticsResult = await peer.ask(question, timeout=seconds)
                left = max(seconds - (trio.current_time() - began), LEAST_SECONDS)
                with _damage():
                    table = conform(partial_schema(target.plan), await self._fetch(cluster, result, left))
                finished = True
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _single(group) from None
        finally:
            if not finished:
                await _cancel(peer, query_id)
        spent = trio.current_time() - began
        return _answered(target, table, spent, result.scanned_rows, result.scanned_bytes)

    async def _fetch(self, cluster: Cluster, result: AnalyticsResult, seconds: float) -> pa.Table:
        if result.inline is not None:
            with pa.ipc.open_stream(result.inline) as reader:
                return reader.read_all()
        if result.endpoint is None or result.endpoint.ticket is None:
            raise IncompleteResult("the node sent neither a result nor a ticket")
        # The hub dials only the address the node registered with, whatever an answer says.
        registered = cluster.record.endpoints
        endpoint = FlightEndpoint(
            location=registered.flight, certificate=registered.flight_certificate, ticket=result.endpoint.ticket
        )
        return await flight.fetch(endpoint, seconds=seconds, max_bytes=self.max_bytes)

    async def _fail_when_unroutable(self, cluster: Cluster) -> None:
        cause = await self.directory.wait_unroutable(cluster.record.id)
        raise PeerUnavailable(f"the node stopped answering: {cause}")


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
