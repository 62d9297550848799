"""Send each holder its part of a plan and collect what comes back, side by side.

A part fails alone: by refusal, by its deadline, or at once when the health monitor sees that its node is gone, so
that a killed node costs a few seconds and not the caller's whole deadline. A part that is kept whole has its deadline.
One that streams has it until its first rows come; it is then moved on as long as rows come. So a result of any size
may take its time, and one that stands still may not.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import pyarrow as pa
import structlog
import trio

from actors.directory import Cluster, Directory
from actors.runtime import ActorRef
from syndb_common.engine.interface import Answer, Engine, Limits, Offer, Scan
from syndb_common.errors import (
    DeadlineExceeded,
    IncompleteResult,
    PeerUnavailable,
    SynDBError,
)
from syndb_common.messages import AnalyticsQuery, AnalyticsResult, CancelQuery, FlightEndpoint
from syndb_common.syql import needs_care, to_clickhouse
from syndb_hub.federation.answers import NodeOutcome
from syndb_hub.federation.gathering import Budget, Gathering, Streamed, Union, Whole
from syndb_hub.federation.readers import Reader, Readers
from syndb_hub.federation.taking import Taken, checkers, damage, read, take, unpack
from syndb_hub.federation.targets import Target
from syndb_hub.federation.ways import AlwaysPull, Delivery, Ways

log = structlog.get_logger(__name__)

LEAST_SECONDS = 0.001
"""What is left of a deadline that has just passed: the enclosing one ends the wait."""
LOOKS_WITHIN_DEADLINE = 8
"""How often within its deadline is looked whether rows of a part came."""
GRACE = 2 / LOOKS_WITHIN_DEADLINE
"""Share of its deadline that a streaming part has more, so that rows that came in time are seen in time."""
MAX_DELIVERY_SECONDS = 86_400.0
"""The longest that a node may be given, as it is the longest query of a job."""
CANCEL_SECONDS = 2.0
"""How long telling a node to stop may take; it notices the closed stream by itself as well."""
ON_THE_WAY = (PeerUnavailable, IncompleteResult, DeadlineExceeded)
"""Errors of a way, not of the part: it may come by another."""
FETCHED = "the part could not be fetched from the node's Flight server"
DELIVERED = "the part was not delivered by the node"


@dataclass(frozen=True, slots=True)
class Part:
    """What one holder contributed, or the outcome that says why that is nothing.

    Attributes:
        table: the rows; None when there are none, or when they went into a union as they came.
    """

    outcome: NodeOutcome
    table: pa.Table | None = None
    error: SynDBError | None = None

    @property
    def answered(self) -> bool:
        """Whether the part is there, complete."""
        return self.outcome.status == "answered"


@dataclass(frozen=True, slots=True)
class _Asking:
    """One question to all holders: what its parts have in common.

    Attributes:
        seconds: how long a part may show no sign of life.
        until: when all of it has to be there, by trio's clock.
        secret: whoever presents it may read the parts; drawn for this question only.
        union: where the rows go as they come; None when parts are kept and merged.
        readers: threads that read its parts, one for each: what waits for a reader loses its ticket.
        waits: the deadlines of parts that stream.
    """

    query_id: UUID
    budget: Budget
    union: Union | None
    seconds: float
    until: float
    readers: trio.CapacityLimiter
    waits: dict[int, tuple[trio.CancelScope, Gathering]] = field(default_factory=dict)
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def reader(self) -> bytes:
        """What nodes are told of the secret."""
        return hashlib.sha256(self.secret.encode()).digest()

    def gathering(self, target: Target, index: int) -> Gathering:
        """Takes the part of a holder."""
        return Whole(target.plan) if self.union is None else Streamed(self.union, index)

    def stream_seconds(self, until: float) -> float:
        """How long a part may take to come, of which the caller waits for the first rows ``until`` then."""
        return _left(until if self.union is None else self.until)

    @contextmanager
    def queueing(self, gathering: Gathering) -> Iterator[None]:
        """A part that streams waits at the hub in the block, which is none of its node's time."""
        scopes = [scope for scope, each in self.waits.values() if each is gathering]
        for scope in scopes:
            scope.deadline = self.until
        yield
        for scope in scopes:
            scope.deadline = min(trio.current_time() + self.seconds * (1 + GRACE), self.until)

    async def move_deadlines(self) -> None:
        """Move on the deadlines of parts whose rows come, or have come and wait; until cancelled."""
        seen: dict[int, int] = {}
        while True:
            await trio.sleep(self.seconds / LOOKS_WITHIN_DEADLINE)
            for index, (scope, gathering) in self.waits.items():
                if gathering.rows != seen.get(index, 0) or gathering.held:
                    seen[index] = gathering.rows
                    scope.deadline = min(trio.current_time() + self.seconds * (1 + GRACE), self.until)

    def check(self) -> None:
        """Nothing, or what ends the whole question.

        Raises:
            LimitExceeded, Unavailable: there is too much, or it cannot be written.
        """
        if self.budget.exceeded:
            raise self.budget.error()
        if self.union is not None and self.union.failure is not None:
            raise self.union.failure

    @property
    def lost(self) -> bool:
        """Whether :meth:`check` raises."""
        return self.budget.exceeded or (self.union is not None and self.union.failure is not None)


@dataclass(frozen=True, slots=True)
class FanOut:
    """Asks holders for their parts.

    Args:
        directory: whose health ends the wait for a node.
        warehouse: the hub's own engine.
        peer: makes the reference to a node.
        max_bytes: what all parts of one query may have together.
        suspect: told of a node that did not answer, so that its health is checked at once.
        ways: chooses how a node's rows come to the hub; without it they are always fetched.
        own_flight: where this process reaches the warehouse's Flight server; empty while there is none.
        readers: of all questions.
    """

    directory: Directory
    warehouse: Engine
    peer: Callable[[Cluster], ActorRef]
    max_bytes: int
    suspect: Callable[[UUID], None] = lambda cluster_id: None
    ways: Ways = field(default_factory=AlwaysPull)
    own_flight: Callable[[], str] = lambda: ""
    readers: Readers = field(default_factory=Readers)

    async def ask(
        self,
        targets: Sequence[Target],
        query_id: UUID,
        seconds: float,
        union: Union | None = None,
        *,
        at_most: float = math.inf,
    ) -> list[Part]:
        """One part per target, in their order; errors of single parts are in the parts.

        With a ``union`` the rows of complete parts are in it afterwards, and of other parts nothing.

        Args:
            targets: the holders.
            query_id: names the question at all of them.
            seconds: for a part; with a ``union`` for its first rows, and for every pause after them.
            union: where rows go as they come.
            at_most: seconds for all rows of a ``union``.

        Raises:
            LimitExceeded: the parts are too large together. It ends the work at every holder.
            Unavailable: the rows could not be written; likewise.
        """
        parts: dict[int, Part] = {}
        readers = trio.CapacityLimiter(max(len(targets), 1))
        asking = _Asking(query_id, Budget(self.max_bytes), union, seconds, trio.current_time() + at_most, readers)
        if union is not None:
            await trio.to_thread.run_sync(union.open, limiter=checkers)

        async with trio.open_nursery() as minding:
            if union is not None:
                minding.start_soon(asking.move_deadlines)
            async with trio.open_nursery() as nursery:

                async def one(index: int, target: Target) -> None:
                    parts[index] = await self._part(target, index, asking, seconds)
                    if asking.lost:
                        nursery.cancel_scope.cancel()

                for index, target in enumerate(targets):
                    nursery.start_soon(one, index, target)
            minding.cancel_scope.cancel()
        asking.check()
        return [parts[index] for index in range(len(targets))]

    async def _part(self, target: Target, index: int, asking: _Asking, seconds: float) -> Part:
        began = trio.current_time()
        gathering = asking.gathering(target, index)
        try:
            with trio.fail_after(seconds) as wait:
                if asking.union is not None:
                    wait.deadline += seconds * GRACE
                    asking.waits[index] = wait, gathering
                part = await self._ask(target, gathering, asking, seconds)
                if part.table is not None and needs_care(part.table):
                    asking.budget.give_back(part.table.nbytes)
                    careful = Target(target.cluster, target.plan.model_copy(update={"careful": True}))
                    left = max(seconds - (trio.current_time() - began), LEAST_SECONDS)
                    part = await self._ask(careful, asking.gathering(careful, index), asking, left)
                return part
        except trio.TooSlowError:
            what = "no more rows" if gathering.rows else "no answer"
            error: SynDBError = DeadlineExceeded(f"{what} within {seconds:g} s")
        except SynDBError as failed:
            error = failed
        # Also what a reader adds that has not noticed yet that nobody waits for it: the part is closed to it.
        await trio.to_thread.run_sync(gathering.drop, limiter=checkers)
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

    async def _ask(self, target: Target, gathering: Gathering, asking: _Asking, seconds: float) -> Part:
        if target.cluster is None:
            return await self._own(target, gathering, asking, seconds)
        return await self._remote(target, target.cluster, gathering, asking, seconds)

    async def _own(self, target: Target, gathering: Gathering, asking: _Asking, seconds: float) -> Part:
        began = trio.current_time()
        limits = Limits(seconds=seconds, result_bytes=self.max_bytes)
        sql, query_id = to_clickhouse(target.plan, "node"), str(asking.query_id)
        if asking.union is None or not self.own_flight():
            answer: Answer | Offer = await self.warehouse.query(sql, limits=limits, query_id=query_id)
        else:
            answer = await self.warehouse.answer(sql, limits=limits, query_id=query_id, reader=asking.reader)
        if isinstance(answer, Answer):
            asking.budget.spend(answer.table.nbytes)
            table = await take(gathering, answer.table, asking.readers)
            return _answered(target, gathering, table, answer.scan.seconds, answer.scan)
        endpoint = FlightEndpoint(location=self.own_flight(), certificate=answer.certificate, ticket=answer.ticket)
        at_most = asking.stream_seconds(began + seconds)
        reader = Reader(self.readers, None)
        table, scan = await read(endpoint, asking.secret, gathering, asking.budget, reader, asking.readers, at_most)
        return _answered(target, gathering, table, trio.current_time() - began, scan)

    async def _remote(
        self, target: Target, cluster: Cluster, gathering: Gathering, asking: _Asking, seconds: float
    ) -> Part:
        until = trio.current_time() + seconds
        with asking.queueing(gathering):
            delivery = await self.ways.choose(cluster, seconds)
        if asking.union is not None:
            until = trio.current_time() + seconds
        came = await self._by(delivery, target, cluster, gathering, asking, until)
        if isinstance(came, Part):
            return came
        self.ways.failed(cluster, delivery, came)
        another = None if gathering.rows else await self.ways.another(cluster, delivery, _left(until))
        if another is None:
            raise came
        log.info("part asked for by another way", cluster=target.name, way=another.way, cause=came.message)
        try:
            again = await self._by(another, target, cluster, gathering, asking, until)
        except SynDBError as error:
            again = error
        if isinstance(again, Part):
            return again
        raise type(came)(f"{came.message}; then {again.message}", hint=again.hint or came.hint)

    async def _by(
        self,
        delivery: Delivery,
        target: Target,
        cluster: Cluster,
        gathering: Gathering,
        asking: _Asking,
        until: float,
    ) -> Part | SynDBError:
        """The part, or why it did not come this way.

        Raises:
            SynDBError: it comes by no way.
        """
        began = trio.current_time()
        peer = self.peer(cluster)
        stop = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._fail_when_unroutable, cluster)
                question = AnalyticsQuery(
                    query_id=asking.query_id,
                    plan=target.plan,
                    seconds=_left(until),
                    reader=asking.reader,
                    delivery=delivery.way,
                    push_to=delivery.push_to,
                    delivery_seconds=min(asking.stream_seconds(until), MAX_DELIVERY_SECONDS),
                )
                result: AnalyticsResult = await peer.ask(question, timeout=question.seconds)
                with damage():
                    taken = await self._collect(
                        cluster, delivery, result, gathering, asking, asking.stream_seconds(until)
                    )
                if not isinstance(taken, SynDBError):
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
                await _cancel(peer, asking.query_id)
            if delivery.push_to is not None:
                await self._forget(delivery)
        if isinstance(taken, SynDBError):
            return taken
        table, scan = taken
        return _answered(target, gathering, table, trio.current_time() - began, scan)

    async def _collect(
        self,
        cluster: Cluster,
        delivery: Delivery,
        result: AnalyticsResult,
        gathering: Gathering,
        asking: _Asking,
        seconds: float,
    ) -> Taken | SynDBError:
        """The part that an answer is about, or why it did not come."""
        if result.inline is not None:
            asking.budget.spend(len(result.inline))
            table = await take(gathering, unpack(result.inline), asking.readers)
            return table, Scan(result.scanned_rows, result.scanned_bytes)
        try:
            endpoint = await self.ways.claim(delivery, asking.reader) if result.pushed else _at_node(cluster, result)
            reader = Reader(self.readers, cluster.record.id)
            return await read(endpoint, asking.secret, gathering, asking.budget, reader, asking.readers, seconds)
        except ON_THE_WAY as error:
            what = DELIVERED if result.pushed else FETCHED
            return type(error)(f"{what}: {error.message}", hint=error.hint)

    async def _forget(self, delivery: Delivery) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(CANCEL_SECONDS):
            try:
                await self.ways.ended(delivery)
            except SynDBError as error:
                log.debug("could not be forgotten", cause=error.message)

    async def _fail_when_unroutable(self, cluster: Cluster) -> None:
        cause = await self.directory.wait_unroutable(cluster.record.id)
        raise PeerUnavailable(f"the node stopped answering: {cause}")


def _left(until: float) -> float:
    return max(until - trio.current_time(), LEAST_SECONDS)


def _at_node(cluster: Cluster, result: AnalyticsResult) -> FlightEndpoint:
    """Where a node's part waits: the hub dials only what the node registered and somebody approved."""
    if result.endpoint is None or result.endpoint.ticket is None:
        raise IncompleteResult("the node sent neither a result nor a ticket")
    if not cluster.dial.flight:
        raise PeerUnavailable(no_flight(cluster))
    return FlightEndpoint(
        location=cluster.dial.flight,
        certificate=cluster.dial.flight_certificate,
        ticket=result.endpoint.ticket,
    )


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


async def _cancel(peer: ActorRef, query_id: UUID) -> None:
    with trio.CancelScope(shield=True), trio.move_on_after(CANCEL_SECONDS):
        try:
            await peer.ask(CancelQuery(query_id=query_id), timeout=CANCEL_SECONDS)
        except SynDBError as error:
            log.debug("could not cancel", cause=error.message)


def _answered(target: Target, gathering: Gathering, table: pa.Table | None, seconds: float, scan: Scan) -> Part:
    outcome = NodeOutcome(
        cluster=target.name,
        status="answered",
        rows=gathering.rows,
        seconds=seconds,
        scanned_rows=scan.rows,
        scanned_bytes=scan.bytes,
        bytes=gathering.bytes,
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
