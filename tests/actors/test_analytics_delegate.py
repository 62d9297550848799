"""The node's analyst: what it computes, what it refuses, and what it stops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.analytics_delegate import AnalyticsDelegate, Running
from actors.catalogue import Catalogue
from actors.delivering import Taker
from actors.runtime import ActorRef, ChildSpec, MailboxFull, Supervisor, run_tree
from syndb_common.engine.interface import INLINE_BYTES, Answer, Limits, Offer, Scan
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import (
    Cancelled,
    Conflict,
    EngineUnavailable,
    LimitExceeded,
    NotFound,
    PolicyRefused,
    TooManyRequests,
)
from syndb_common.flight import client as flight
from syndb_common.flight.uploader import UploadTarget, upload
from syndb_common.messages import Acknowledged, AnalyticsQuery, AnalyticsResult, CancelQuery, FlightEndpoint
from syndb_common.syql import Plan, conform, parse, partial_schema, plan
from syndb_common.tables import schema
from syndb_common.tables.identity import row_id
from syndb_common.tables.versions import PublishedVersion
from tests.actors.federation_parts import published

WORM = published("worm", 1, synapses=3)
COUNT = plan(parse("SELECT COUNT(*) AS n FROM synapses"), [WORM])
PART = pa.table({"__s0": pa.array([3], pa.uint64())})


@dataclass
class Engine:
    """An engine whose answers come when a test says so; only what timing and failure need."""

    answers: Callable[[], Answer | Offer] = lambda: Answer(PART, Scan(3, 30, 0.5))
    hold: trio.Event = field(default_factory=trio.Event)
    asked: list[tuple[str, Limits | None, str | None]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    inline_bytes: int = 0
    reader: bytes = b""

    async def answer(
        self,
        sql: str,
        *,
        limits: Limits | None = None,
        query_id: str | None = None,
        inline_bytes: int = INLINE_BYTES,
        reader: bytes = b"",
    ) -> Answer | Offer:
        self.inline_bytes, self.reader = inline_bytes, reader
        self.asked.append((sql, limits, query_id))
        try:
            await self.hold.wait()
        except trio.Cancelled:
            self.stopped.append(str(query_id))
            raise
        return self.answers()

    async def cancel(self, query_id: str) -> None:
        self.cancelled.append(query_id)


class Versions:
    """A catalogue as a test sets it; ``later`` is what reading it again finds."""

    def __init__(self, *versions: PublishedVersion, later: tuple[PublishedVersion, ...] | None = None) -> None:
        self.versions = versions
        self._later = versions if later is None else later

    async def refresh(self) -> None:
        await trio.lowlevel.checkpoint()
        self.versions = self._later


def everything(plan: Plan) -> None:
    """A policy that shares everything."""


Start = Callable[..., Awaitable[ActorRef]]


@pytest.fixture
def start(nursery: trio.Nursery) -> Start:
    async def start_analyst(engine: Any, **options: Any) -> ActorRef:
        parts = {
            "running": Running(2),
            "catalogue": Versions(WORM),
            "guard": everything,
            "limits": lambda seconds: Limits(seconds=min(seconds, 30.0), result_rows=5),
            **options,
        }
        spec = ChildSpec("analytics", partial(AnalyticsDelegate, engine=engine, **parts))
        tree = await nursery.start(run_tree, Supervisor("node", [spec]))
        return tree.ref("analytics")

    return start_analyst


def question(plan: Plan = COUNT, *, seconds: float = 20, query_id: UUID | None = None) -> AnalyticsQuery:
    return AnalyticsQuery(query_id=query_id or uuid4(), plan=plan, seconds=seconds)


def ready(**options: Any) -> Engine:
    engine = Engine(**options)
    engine.hold.set()
    return engine


async def test_a_small_part_travels_in_the_answer_with_what_it_cost(start: Start) -> None:
    engine = ready()
    analyst = await start(engine)
    asked = question(seconds=7)
    result: AnalyticsResult = await analyst.ask(asked, timeout=5)
    assert result.inline is not None
    assert pa.ipc.open_stream(result.inline).read_all() == PART
    assert (result.rows, result.scanned_rows, result.scanned_bytes, result.seconds) == (1, 3, 30, 0.5)
    [(sql, limits, query_id)] = engine.asked
    assert (limits, query_id) == (Limits(seconds=7, result_rows=5), str(asked.query_id))
    assert str(WORM.dataset_id) in sql


async def test_a_large_part_is_an_offer_with_its_ticket(start: Start) -> None:
    offer = Offer(b"ticket", "grpc+tls://127.0.0.1:1", "pem", 30.0)
    analyst = await start(ready(answers=lambda: offer))
    result: AnalyticsResult = await analyst.ask(question(), timeout=5)
    assert result.inline is None
    assert result.endpoint is not None
    assert (result.endpoint.ticket, result.endpoint.location) == (b"ticket", "grpc+tls://127.0.0.1:1")


async def test_the_ticket_is_for_the_reader_that_the_hub_names(start: Start) -> None:
    engine = ready()
    asked = question().model_copy(update={"reader": b"r" * 32})
    await (await start(engine)).ask(asked, timeout=5)
    assert (engine.reader, engine.inline_bytes) == (b"r" * 32, INLINE_BYTES)


async def test_through_a_relay_a_part_travels_in_the_answer_up_to_the_size_the_owner_set(start: Start) -> None:
    engine = ready()
    analyst = await start(engine, frame_bytes=300_000)
    asked = question().model_copy(update={"delivery": "frames"})
    assert (await analyst.ask(asked, timeout=5)).inline is not None
    assert engine.inline_bytes == 300_000


async def test_a_part_is_delivered_for_as_long_as_the_hub_waits_for_all_of_it(start: Start) -> None:
    begun: list[tuple[FlightEndpoint, float]] = []

    class Recording:
        def start(self, offer: Offer, taker: Taker, to: FlightEndpoint, *, seconds: float, query_id: str) -> None:
            begun.append((to, seconds))

    engine = ready(answers=lambda: Offer(b"ticket", "grpc+tls://127.0.0.1:1", "pem", 30.0))
    hub = FlightEndpoint(location="grpc+tls://192.0.2.1:1", certificate="pem", ticket=b"delivery")
    asked = question().model_copy(update={"delivery": "push", "push_to": hub, "delivery_seconds": 7200.0})
    assert (await (await start(engine, deliverer=Recording())).ask(asked, timeout=5)).pushed
    assert begun == [(hub, 7200.0)]


async def test_a_larger_part_is_refused_and_its_query_ended(start: Start) -> None:
    engine = ready(answers=lambda: Offer(b"ticket", "grpc+tls://127.0.0.1:1", "pem", 30.0))
    asked = question().model_copy(update={"delivery": "frames"})
    with pytest.raises(LimitExceeded, match="only inside an answer") as refused:
        await (await start(engine, frame_bytes=300_000)).ask(asked, timeout=5)
    assert "300000 bytes" in refused.value.message
    assert engine.cancelled == [str(asked.query_id)]


async def test_what_the_owner_refuses_never_reaches_the_engine(start: Start) -> None:
    def nothing(plan: Plan) -> None:
        raise PolicyRefused("worm is not shared")

    engine = ready()
    analyst = await start(engine, guard=nothing)
    with pytest.raises(PolicyRefused):
        await analyst.ask(question(), timeout=5)
    assert engine.asked == []


async def test_a_version_that_is_not_published_never_reaches_the_engine(start: Start) -> None:
    engine = ready()
    analyst = await start(engine, catalogue=Versions())
    with pytest.raises(NotFound, match="version 1"):
        await analyst.ask(question(), timeout=5)
    assert engine.asked == []


async def test_a_version_published_a_moment_ago_is_found_by_reading_the_catalogue_again(start: Start) -> None:
    analyst = await start(ready(), catalogue=Versions(later=(WORM,)))
    result: AnalyticsResult = await analyst.ask(question(), timeout=5)
    assert result.rows == 1


async def test_more_queries_than_the_owner_allows_are_refused_at_once(start: Start, nursery: trio.Nursery) -> None:
    engine, running = Engine(), Running(2)
    analyst = await start(engine, running=running)
    for _ in range(2):
        nursery.start_soon(partial(analyst.ask, question(), timeout=60))
    await wait_all_tasks_blocked()
    with pytest.raises(TooManyRequests, match="2 queries"):
        await analyst.ask(question(), timeout=5)
    assert len(running) == 2
    engine.hold.set()
    await wait_all_tasks_blocked()
    assert len(running) == 0
    await analyst.ask(question(), timeout=5)


async def test_a_query_is_cancelled_by_its_id_and_no_other(start: Start, nursery: trio.Nursery) -> None:
    engine = Engine()
    analyst = await start(engine)
    mine, other = question(), question()
    outcomes: dict[UUID, object] = {}

    async def ask(message: AnalyticsQuery) -> None:
        try:
            outcomes[message.query_id] = await analyst.ask(message, timeout=60)
        except Cancelled as error:
            outcomes[message.query_id] = error

    nursery.start_soon(ask, mine)
    nursery.start_soon(ask, other)
    await wait_all_tasks_blocked()
    assert isinstance(await analyst.ask(CancelQuery(query_id=mine.query_id), timeout=5), Acknowledged)
    await wait_all_tasks_blocked()
    assert engine.stopped == [str(mine.query_id)]
    assert isinstance(outcomes[mine.query_id], Cancelled)
    engine.hold.set()
    await wait_all_tasks_blocked()
    assert isinstance(outcomes[other.query_id], AnalyticsResult)


async def test_an_asker_that_gives_up_stops_the_engine(start: Start) -> None:
    engine, running = Engine(), Running(2)
    analyst = await start(engine, running=running)
    asked = question()
    with trio.move_on_after(0.01):
        await analyst.ask(asked, timeout=60)
    await wait_all_tasks_blocked()
    assert engine.stopped == [str(asked.query_id)]
    assert len(running) == 0


async def test_cancelling_reaches_a_result_that_waits_for_its_reader(start: Start) -> None:
    engine = ready(answers=lambda: Offer(b"ticket", "grpc+tls://127.0.0.1:1", "pem", 30.0))
    analyst = await start(engine)
    asked = question()
    await analyst.ask(asked, timeout=5)
    await analyst.ask(CancelQuery(query_id=asked.query_id), timeout=5)
    assert engine.cancelled == [str(asked.query_id)]


async def test_cancelling_what_has_ended_does_nothing(start: Start) -> None:
    engine, ended = ready(), question()
    analyst = await start(engine)
    await analyst.ask(ended, timeout=5)
    assert isinstance(await analyst.ask(CancelQuery(query_id=ended.query_id), timeout=5), Acknowledged)
    assert isinstance(await analyst.ask(question(query_id=ended.query_id), timeout=5), AnalyticsResult)
    assert engine.stopped == []


async def test_an_id_stands_for_one_query_at_a_time(start: Start, nursery: trio.Nursery) -> None:
    engine, running = Engine(), Running(5)
    analyst = await start(engine, running=running)
    first = question()
    nursery.start_soon(partial(analyst.ask, first, timeout=60))
    await wait_all_tasks_blocked()
    with pytest.raises(Conflict):
        await analyst.ask(question(query_id=first.query_id), timeout=5)
    await analyst.ask(CancelQuery(query_id=uuid4()), timeout=5)
    engine.hold.set()
    await wait_all_tasks_blocked()
    assert len(running) == 0


async def test_an_engine_that_died_is_the_askers_error_and_the_next_query_works(start: Start) -> None:
    failures = [EngineUnavailable("the engine process ended")]

    def answer() -> Answer:
        if failures:
            raise failures.pop()
        return Answer(PART, Scan())

    analyst = await start(ready(answers=answer))
    with pytest.raises(EngineUnavailable):
        await analyst.ask(question(), timeout=5)
    assert (await analyst.ask(question(), timeout=5)).rows == 1


async def test_more_questions_than_can_wait_are_refused_and_not_kept(start: Start, nursery: trio.Nursery) -> None:
    analyst = await start(Engine(), running=Running(1000))
    for _ in range(AnalyticsDelegate.max_delegates):
        nursery.start_soon(partial(analyst.ask, question(), timeout=60))
    await wait_all_tasks_blocked()
    with pytest.raises(MailboxFull):
        await analyst.ask(question(), timeout=5)
    nursery.cancel_scope.cancel()


async def test_a_real_engine_answers_inline_and_by_ticket(engine: LocalEngine, start: Start, tmp_path: Path) -> None:
    await schema.apply(engine, schema.migrations())
    rows = 20_000
    target = UploadTarget.of_folders(engine.flight_location, tmp_path / "tls", tmp_path / "engine")
    tables = {
        "neurons": pa.table({"source_id": ["a"], "name": ["a"]}),
        "synapses": pa.table(
            {
                "source_id": [str(number) for number in range(rows)],
                "pre_id": [str(row_id(WORM.dataset_id, "neurons", "a"))] * rows,
                "post_id": [str(row_id(WORM.dataset_id, "neurons", "a"))] * rows,
                "synapse_type": ["chemical"] * rows,
                "synapse_count": pa.array(range(rows), pa.uint32()),
            }
        ),
    }
    await trio.to_thread.run_sync(upload, target, WORM.metadata, WORM.dataset_id, tables)
    catalogue = Catalogue(engine, lambda version: "rows")
    await catalogue.refresh()
    analyst = await start(engine, catalogue=catalogue, limits=lambda seconds: Limits(seconds=seconds))

    mean = plan(parse("SELECT AVG(synapse_count) AS mean, COUNT(*) AS n FROM synapses"), catalogue.versions)
    result: AnalyticsResult = await analyst.ask(question(mean), timeout=20)
    assert result.inline is not None
    part = conform(partial_schema(mean), pa.ipc.open_stream(result.inline).read_all())
    assert rows in part.to_pylist()[0].values()
    assert result.scanned_rows >= rows

    all_rows = plan(parse("SELECT cid, synapse_count FROM synapses"), catalogue.versions)
    offered: AnalyticsResult = await analyst.ask(question(all_rows), timeout=20)
    assert offered.endpoint is not None
    table = await flight.fetch(offered.endpoint, seconds=20)
    assert conform(partial_schema(all_rows), table).num_rows == rows
