"""Parts of an answer: each comes whole, or fails alone and says why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from actors.analytics_delegate import to_ipc
from actors.directory import NOWHERE, Cluster, Directory, Health, Standing
from syndb_common.engine.interface import Answer, Scan
from syndb_common.errors import (
    EngineUnavailable,
    IncompleteResult,
    LimitExceeded,
    PeerUnavailable,
    PolicyRefused,
    SynDBError,
)
from syndb_common.flight import client as flight
from syndb_common.messages import Acknowledged, AnalyticsQuery, AnalyticsResult, CancelQuery, FlightEndpoint
from syndb_common.syql import Plan, parse, partial_schema, plan
from syndb_hub.federation import fan_out, gathering
from syndb_hub.federation.fan_out import FanOut, Part
from syndb_hub.federation.targets import Target
from syndb_hub.federation.ways import AlwaysPull, Delivery
from tests.actors.federation_parts import ENDPOINTS, Peer, cluster, published

COUNT = plan(parse("SELECT COUNT(*) AS n FROM synapses"), [published("worm")])
SPREAD = plan(parse("SELECT VARIANCE(connection_score) AS v FROM synapses"), [published("worm")])
SECONDS = 30.0


def part(plan: Plan = COUNT, value: Any = 7, **columns: Any) -> pa.Table:
    """One row of what a node sends for a plan; every column not named holds ``value``."""
    wanted = partial_schema(plan)
    return pa.table(
        [pa.array([columns.get(name, value)]).cast(wanted.field(name).type) for name in wanted.names], wanted
    )


def inline(table: pa.Table) -> AnalyticsResult:
    return AnalyticsResult(inline=to_ipc(table), rows=table.num_rows, scanned_rows=10, scanned_bytes=100)


class OwnEngine:
    """The hub's own engine, answering with one table."""

    def __init__(self, table: pa.Table | SynDBError) -> None:
        self._table = table

    async def query(self, sql: str, **options: Any) -> Answer:
        if isinstance(self._table, SynDBError):
            raise self._table
        return Answer(self._table, Scan(5, 50, 0.1))


class Federation:
    """Nodes that answer as told, and the fan-out that asks them."""

    def __init__(self, own: pa.Table | SynDBError | None = None, **nodes: Callable[[AnalyticsQuery], Any]) -> None:
        self.directory = Directory()
        self.nodes = {name: cluster(name, health=Health.HEALTHY, dial=ENDPOINTS) for name in nodes}
        self.directory.publish(self.nodes.values())
        self.peers = {
            name: Peer({AnalyticsQuery: answer, CancelQuery: lambda message: Acknowledged()})
            for name, answer in nodes.items()
        }
        self.suspected: list[UUID] = []
        engine: Any = OwnEngine(part() if own is None else own)
        self.fan_out = FanOut(self.directory, engine, self._peer, 10**9, self.suspected.append)

    def _peer(self, node: Cluster) -> Peer:
        return self.peers[node.record.name]

    async def ask(self, plan: Plan = COUNT, *, seconds: float = SECONDS, own: bool = False) -> dict[str, Part]:
        targets = [Target(node, plan) for node in self.nodes.values()] + ([Target(None, plan)] if own else [])
        parts = await self.fan_out.ask(targets, uuid4(), seconds)
        assert [each.outcome.cluster for each in parts] == [each.name for each in targets]
        return {each.outcome.cluster: each for each in parts}


def fails(error: Exception) -> Callable[[AnalyticsQuery], Any]:
    def answer(message: AnalyticsQuery) -> Any:
        raise error

    return answer


async def never(message: AnalyticsQuery) -> Any:
    await trio.sleep_forever()


async def test_parts_come_with_what_they_cost() -> None:
    parts = await Federation(a=lambda message: inline(part(value=3)), b=lambda message: inline(part(value=4))).ask(
        own=True
    )
    assert [each.table.to_pylist()[0]["__s0"] for each in parts.values()] == [3, 4, 7]  # type: ignore[union-attr]
    outcome = parts["a"].outcome
    assert (outcome.status, outcome.rows, outcome.scanned_rows, outcome.scanned_bytes) == ("answered", 1, 10, 100)
    assert parts["hub"].outcome.scanned_rows == 5


async def test_a_node_that_does_not_answer_costs_its_deadline_and_the_others_nothing(
    autojump_clock: MockClock,
) -> None:
    federation = Federation(a=lambda message: inline(part()), b=never)
    parts = await federation.ask()
    assert trio.current_time() == pytest.approx(SECONDS, abs=0.1)
    assert parts["a"].outcome.status == "answered"
    assert (parts["b"].outcome.status, parts["b"].outcome.code) == ("failed", "deadline_exceeded")
    assert federation.suspected == [federation.nodes["b"].record.id]


async def test_a_node_that_is_lost_ends_the_wait_at_once_and_says_why(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    federation = Federation(a=never)

    async def lose() -> None:
        await trio.sleep(2)
        lost = replace(federation.nodes["a"], health=Health.UNREACHABLE, cause="3 pings failed")
        federation.directory.publish([lost])

    nursery.start_soon(lose)
    parts = await federation.ask()
    assert trio.current_time() == pytest.approx(2, abs=0.1)
    assert parts["a"].outcome.code == "peer_unavailable"
    assert "3 pings failed" in parts["a"].outcome.cause


async def test_a_node_that_is_deactivated_while_it_answers_is_not_waited_for(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    federation = Federation(a=never)

    async def deactivate() -> None:
        await trio.sleep(2)
        node = federation.nodes["a"]
        federation.directory.publish([replace(node, record=replace(node.record, standing=Standing.INACTIVE))])

    nursery.start_soon(deactivate)
    parts = await federation.ask()
    assert trio.current_time() == pytest.approx(2, abs=0.1)
    assert "left" in parts["a"].outcome.cause


async def test_a_node_that_is_not_waited_for_any_more_is_told_to_stop(autojump_clock: MockClock) -> None:
    federation = Federation(a=never, b=lambda message: inline(part()))
    await federation.ask()
    question, cancel = federation.peers["a"].asked
    assert isinstance(cancel, CancelQuery)
    assert cancel.query_id == question.query_id
    assert len(federation.peers["b"].asked) == 1


async def test_a_node_that_is_gone_is_not_told_to_stop() -> None:
    federation = Federation(a=fails(PeerUnavailable("cannot be reached")))
    await federation.ask()
    assert federation.peers["a"].count(CancelQuery) == 0


async def test_telling_a_dead_node_to_stop_holds_nobody_up(autojump_clock: MockClock) -> None:
    federation = Federation(a=never)
    federation.peers["a"].answers[CancelQuery] = never
    with trio.move_on_after(SECONDS + fan_out.CANCEL_SECONDS + 1):
        parts = await federation.ask()
    assert parts["a"].outcome.status == "failed"


async def test_cancelling_the_question_cancels_it_at_every_node(autojump_clock: MockClock) -> None:
    federation = Federation(a=never, b=never)
    with trio.move_on_after(5):
        await federation.ask()
    assert trio.current_time() == pytest.approx(5, abs=0.1)
    assert [peer.count(CancelQuery) for peer in federation.peers.values()] == [1, 1]


@pytest.mark.parametrize(
    "error", [PolicyRefused("not shared"), EngineUnavailable("is being restarted"), PeerUnavailable("gone")]
)
async def test_a_refusal_keeps_its_code_and_its_words(error: SynDBError) -> None:
    parts = await Federation(a=fails(error), b=lambda message: inline(part())).ask()
    assert (parts["a"].outcome.code, parts["a"].outcome.cause) == (error.code, error.message)
    assert parts["a"].error is error
    assert parts["b"].outcome.status == "answered"


async def test_the_hubs_own_engine_fails_alone_too() -> None:
    parts = await Federation(own=EngineUnavailable("is being restarted"), a=lambda message: inline(part())).ask(
        own=True
    )
    assert {name: each.outcome.status for name, each in parts.items()} == {"a": "answered", "hub": "failed"}


FOREIGN = {
    "other column": pa.table({"x": pa.array([1], pa.uint64())}),
    "other type": pa.table({"__s0": ["7"]}),
    "one more column": part().append_column("more", pa.array([1])),
    "no column": pa.table({}),
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_a_part_with_other_columns_than_asked_for_is_not_used(name: str) -> None:
    parts = await Federation(a=lambda message: inline(FOREIGN[name]), b=lambda message: inline(part())).ask()
    assert (parts["a"].outcome.status, parts["a"].outcome.code) == ("failed", "incomplete_result")
    assert parts["a"].table is None
    assert parts["b"].outcome.status == "answered"


def compressed(table: pa.Table) -> bytes:
    """As no node sends it: of some kilobytes gigabytes could come."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "answer",
    [
        AnalyticsResult(),
        AnalyticsResult(inline=b""),
        AnalyticsResult(inline=b"\xff" * 100),
        AnalyticsResult(inline=to_ipc(part())[:-30]),
        AnalyticsResult(inline=to_ipc(part()).replace(b"__s0", b"\x80_s0")),
        AnalyticsResult(inline=compressed(part())),
        AnalyticsResult(endpoint=FlightEndpoint(location="grpc+tls://127.0.0.1:1", certificate="pem")),
    ],
)
async def test_what_is_no_part_is_a_failed_part(answer: AnalyticsResult) -> None:
    parts = await Federation(a=lambda message: answer).ask()
    assert parts["a"].outcome.code == "incomplete_result"


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_part_is_sound_or_refused_and_nothing_else(damage: list[tuple[int, int]]) -> None:
    spoiled = bytearray(to_ipc(part()))
    for place, value in damage:
        spoiled[place % len(spoiled)] = value
    federation = Federation(a=lambda message: AnalyticsResult(inline=bytes(spoiled)))
    found = trio.run(federation.ask)["a"]
    assert found.error is None or isinstance(found.error, IncompleteResult)


async def test_a_ticket_is_redeemed_only_at_the_address_the_node_registered() -> None:
    elsewhere = FlightEndpoint(location="grpc+tls://192.0.2.1:1", certificate="pem", ticket=b"ticket")
    seen: list[FlightEndpoint] = []

    class Reading:
        schema = part().schema
        scan = Scan(10, 100)

        def __init__(self, endpoint: FlightEndpoint, **options: Any) -> None:
            seen.append(endpoint)

        def batches(self) -> list[pa.RecordBatch]:
            found: list[pa.RecordBatch] = part().to_batches()
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flight, "Reading", Reading)
        federation = Federation(a=lambda message: AnalyticsResult(endpoint=elsewhere))
        parts = await federation.ask()
    registered = federation.nodes["a"].record.endpoints
    assert (seen[0].location, seen[0].ticket) == (registered.flight, b"ticket")
    outcome = parts["a"].outcome
    assert (outcome.status, outcome.scanned_rows, outcome.scanned_bytes) == ("answered", 10, 100)


async def test_a_node_whose_flight_server_says_nothing_is_soon_not_read_from_any_more() -> None:
    thaws = threading.Event()

    class Reading:
        def __init__(self, endpoint: FlightEndpoint, **options: Any) -> None:
            """It can always be connected to."""

        def batches(self) -> list[pa.RecordBatch]:
            thaws.wait()
            raise PeerUnavailable("thawed")

        def cancel(self) -> None:
            """It does not hear."""

    federation = Federation(a=lambda message: OFFER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flight, "Reading", Reading)
        causes: list[str] = []
        while not (causes and "4 of its parts were given up" in causes[-1]):
            assert len(causes) < 100
            causes.append((await federation.ask(seconds=0.05))["a"].outcome.cause)
        thaws.set()
    assert len(causes) > 4


class TwoWays(AlwaysPull):
    """First the hub fetches; when that fails, the part comes as said."""

    def __init__(self, other: Delivery | None) -> None:
        self.other = other
        self.lost: list[str] = []

    def failed(self, cluster: Cluster, delivery: Delivery, error: SynDBError) -> None:
        self.lost.append(delivery.way)

    async def another(self, cluster: Cluster, delivery: Delivery, seconds: float) -> Delivery | None:
        await trio.lowlevel.checkpoint()
        return self.other


def breaks_after(batches: int) -> type:
    """A Flight server whose stream breaks off."""

    class Reading:
        schema = part().schema

        def __init__(self, endpoint: FlightEndpoint, **options: Any) -> None:
            """It can always be connected to."""

        def batches(self) -> Iterator[pa.RecordBatch]:
            yield from part().to_batches() * batches
            raise PeerUnavailable("connection refused")

    return Reading


OFFER = AnalyticsResult(endpoint=FlightEndpoint(location="grpc+tls://192.0.2.1:1", certificate="pem", ticket=b"ticket"))


async def by_two_ways(other: Delivery | None, then: Any, batches: int = 0) -> tuple[Part, Peer, TwoWays]:
    """A part whose pull breaks off after so many batches, and what a node answers when it is asked again."""
    answers = iter([lambda message: OFFER, then])
    federation = Federation(a=lambda message: next(answers)(message))
    ways = TwoWays(other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flight, "Reading", breaks_after(batches))
        targets = [Target(federation.nodes["a"], COUNT)]
        [found] = await replace(federation.fan_out, ways=ways).ask(targets, uuid4(), SECONDS)
    return found, federation.peers["a"], ways


async def test_a_part_that_does_not_come_by_one_way_is_asked_for_by_another_once_the_first_has_ended() -> None:
    found, peer, ways = await by_two_ways(Delivery("frames"), lambda message: inline(part()))
    assert found.outcome.status == "answered"
    first, cancel, second = peer.asked
    assert (first.delivery, type(cancel), second.delivery) == ("pull", CancelQuery, "frames")
    assert second.seconds <= first.seconds
    assert ways.lost == ["pull"]


async def test_a_part_that_comes_by_no_way_fails_and_names_them() -> None:
    found, peer, _ = await by_two_ways(Delivery("frames"), fails(LimitExceeded("larger than 512 KiB")))
    assert found.outcome.code == "peer_unavailable"
    assert found.outcome.cause == (
        "the part could not be fetched from the node's Flight server: connection refused; then larger than 512 KiB"
    )
    assert peer.count(AnalyticsQuery) == 2


@pytest.mark.parametrize(("other", "batches"), [(None, 0), (Delivery("frames"), 1)])
async def test_a_part_is_not_asked_for_again_without_another_way_or_once_something_of_it_has_come(
    other: Delivery | None, batches: int
) -> None:
    found, peer, ways = await by_two_ways(other, lambda message: inline(part()), batches)
    assert "could not be fetched from the node's Flight server" in found.outcome.cause
    assert (peer.count(AnalyticsQuery), ways.lost) == (1, ["pull"])


async def test_a_flight_server_whose_address_nobody_approved_is_not_dialled() -> None:
    elsewhere = FlightEndpoint(location="grpc+tls://192.0.2.1:1", certificate="pem", ticket=b"ticket")
    federation = Federation(a=lambda message: AnalyticsResult(endpoint=elsewhere))
    federation.nodes["a"] = replace(federation.nodes["a"], dial=NOWHERE)
    federation.directory.publish(federation.nodes.values())
    outcome = (await federation.ask())["a"].outcome
    assert (outcome.status, outcome.code) == ("failed", "peer_unavailable")
    assert "grpc+tls://127.0.0.1:50052, an address nobody approved" in outcome.cause
    assert "syndb federation clusters approve-hosts a HOST" in outcome.cause


async def test_parts_that_are_too_large_together_end_the_query_at_every_node(autojump_clock: MockClock) -> None:
    federation = Federation(a=lambda message: inline(part()), b=lambda message: inline(part()), c=never)
    size = len(to_ipc(part()))
    within = replace(federation.fan_out, max_bytes=2 * size)
    targets = [Target(node, COUNT) for node in federation.nodes.values()]
    assert [each.outcome.status for each in await within.ask(targets, uuid4(), SECONDS)][:2] == ["answered"] * 2
    asked = federation.peers["c"].count(CancelQuery)
    began = trio.current_time()
    with pytest.raises(LimitExceeded, match="together") as exceeded:
        await replace(federation.fan_out, max_bytes=2 * size - 1).ask(targets, uuid4(), SECONDS)
    assert "LIMIT" in exceeded.value.hint
    assert trio.current_time() - began < 1
    assert federation.peers["c"].count(CancelQuery) == asked + 1


async def test_a_limit_that_one_node_reached_concerns_its_part_only() -> None:
    federation = Federation(a=fails(LimitExceeded("too many rows")), b=lambda message: inline(part()))
    parts = await federation.ask()
    assert {name: each.outcome.status for name, each in parts.items()} == {"a": "failed", "b": "answered"}


async def test_the_hubs_own_part_counts_too() -> None:
    federation = Federation(a=lambda message: inline(part()))
    targets = [Target(federation.nodes["a"], COUNT), Target(None, COUNT)]
    with pytest.raises(LimitExceeded):
        await replace(federation.fan_out, max_bytes=len(to_ipc(part()))).ask(targets, uuid4(), SECONDS)


@pytest.mark.parametrize(("rows", "elsewhere"), [(1, False), (500_000, True)])
async def test_a_large_part_is_checked_beside_the_loop(
    rows: int, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def conform(expected: pa.Schema, found: pa.Table) -> pa.Table:
        threads.append(threading.current_thread())
        return found

    monkeypatch.setattr(gathering, "conform", conform)
    large = pa.table([pa.array([7] * rows, part().schema.types[0])], part().schema)
    federation = Federation(own=large)
    await federation.ask(own=True)
    assert {thread is not threading.current_thread() for thread in threads} == {elsewhere}


async def test_a_part_that_lost_digits_is_asked_for_again_with_care_and_once() -> None:
    federation = Federation(
        a=lambda message: inline(part(SPREAD, value=1, **{} if message.plan.careful else {"__s1_rough": 1}))
    )
    rough = [name for name in partial_schema(SPREAD).names if name.endswith("_rough")]
    assert rough == ["__s1_rough"]
    parts = await federation.ask(SPREAD)
    questions = [message for message in federation.peers["a"].asked if isinstance(message, AnalyticsQuery)]
    assert [message.plan.careful for message in questions] == [False, True]
    assert questions[1].seconds <= SECONDS
    assert parts["a"].outcome.status == "answered"


async def test_a_node_that_always_says_it_lost_digits_is_not_asked_for_ever() -> None:
    federation = Federation(a=lambda message: inline(part(SPREAD, value=1)))
    await federation.ask(SPREAD)
    assert federation.peers["a"].count(AnalyticsQuery) == 2
