"""Parts that a node delivers: whole at the hub's reader, or an error there. Two real engines with Flight servers."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
import trio
from pyarrow import flight

from actors.delivering import MAX_DELIVERIES, Deliverer, Taker
from syndb_common.engine.interface import Limits, Offer
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import EngineUnavailable, IncompleteResult, InvalidRequest, LimitExceeded, NotFound, SynDBError
from syndb_common.flight.client import connect, fetch
from syndb_common.flight.server import ACTIONS
from syndb_common.flight.settings import FlightSettings
from syndb_common.flight.wire import PART
from syndb_common.messages import FlightEndpoint

pytestmark = pytest.mark.slow
ROWS = 300_000
NUMBERS = f"SELECT number AS n FROM numbers({ROWS})"
Sent = Literal["no end", "another end", "offsets beyond the data", "a message without rows"]
HOSTILE: dict[Sent, type[SynDBError]] = {
    "no end": IncompleteResult,
    "another end": IncompleteResult,
    "offsets beyond the data": IncompleteResult,
    "a message without rows": InvalidRequest,
}
"""What a node may send, and what its reader gets."""
SECRET = secrets.token_urlsafe(32)
READER = hashlib.sha256(SECRET.encode()).digest()


@dataclass
class Both:
    node: LocalEngine
    hub: LocalEngine
    deliverer: Deliverer

    async def expect(self, seconds: float = 20.0) -> FlightEndpoint:
        expected = await self.hub.expect(seconds)
        assert expected is not None
        return expected

    async def deliver(
        self, to: FlightEndpoint, sql: str = NUMBERS, limits: Limits | None = None, *, seconds: float = 20.0
    ) -> None:
        taker = Taker()
        offer = await self.node.answer(sql, query_id="q", reader=taker.reader, limits=limits)
        assert isinstance(offer, Offer)
        self.deliverer.start(offer, taker, to, seconds=seconds, query_id="q")

    async def read(self, to: FlightEndpoint) -> pa.Table:
        assert to.ticket is not None
        return await fetch(await self.hub.claim(to.ticket, READER), secret=SECRET, seconds=20.0)


@pytest.fixture
async def both(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Both]:
    def engine(name: str) -> LocalEngine:
        served = FlightSettings("127.0.0.1", 0, tmp_path / name / "tls", advertise="localhost")
        return LocalEngine(tmp_path / name, flight=served, name=name)

    node, hub = engine("node"), engine("hub")
    deliverer = Deliverer(lambda: node.flight_here)
    for service in (node.run, hub.run, deliverer.run):
        await nursery.start(service)
    yield Both(node, hub, deliverer)
    nursery.cancel_scope.cancel()


async def test_a_part_that_is_delivered_comes_whole(both: Both) -> None:
    to = await both.expect()
    await both.deliver(to)
    table = await both.read(to)
    assert table.num_rows == ROWS
    assert table["n"].to_pylist()[-1] == ROWS - 1


async def test_a_ticket_is_for_one_delivery_and_nobody_else_has_one(both: Both) -> None:
    to = await both.expect()
    await both.deliver(to)
    await both.read(to)
    for ticket, words in ((to.ticket, "used already"), (b"forged", "a valid token is needed")):
        with pytest.raises(pa.ArrowException, match=words):
            await trio.to_thread.run_sync(send, to.model_copy(update={"ticket": ticket}), 1, "no end")


async def test_what_is_not_expected_any_more_is_not_taken(both: Both) -> None:
    to = await both.expect()
    assert to.ticket is not None
    await both.hub.forget(to.ticket)
    with pytest.raises(NotFound):
        await both.read(to)
    with pytest.raises(pa.ArrowException, match="a valid token is needed"):
        await trio.to_thread.run_sync(send, to, 1, "no end")


async def test_the_reader_is_told_why_a_query_failed_under_way(both: Both) -> None:
    to = await both.expect()
    await both.deliver(to, limits=Limits(result_bytes=1_000_000))
    with pytest.raises(LimitExceeded, match="larger than 1000000 bytes"):
        await both.read(to)


async def outcome_of(both: Both, to: FlightEndpoint, sent: Sent) -> Any:
    """What the reader gets of what a node sends, which the node is told is wrong."""
    outcome: list[Any] = []

    async def read() -> None:
        try:
            outcome.append(await both.read(to))
        except SynDBError as error:
            outcome.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        with pytest.raises(pa.ArrowException):
            await trio.to_thread.run_sync(send, to, 3, sent)
    return outcome[0]


async def test_what_is_no_part_is_an_error_at_its_reader_and_the_hub_goes_on(both: Both) -> None:
    pid = both.hub.pid
    for sent, error in HOSTILE.items():
        found = await outcome_of(both, await both.expect(), sent)
        assert type(found) is error, sent
    to = await both.expect()
    await both.deliver(to)
    assert (await both.read(to)).num_rows == ROWS
    assert both.hub.pid == pid


async def test_a_ticket_for_a_delivery_is_good_for_nothing_else(both: Both) -> None:
    to = await both.expect()
    secret = (to.ticket or b"").decode()

    def try_all() -> None:
        options = flight.FlightCallOptions(timeout=20, headers=[(b"authorization", f"Bearer {secret}".encode())])
        upload = flight.FlightDescriptor.for_command(b'{"upload_id": "", "table": "neurons"}')
        with connect(to.location, to.certificate) as client:
            calls: list[Callable[[], Any]] = [
                lambda: client.get_flight_info(flight.FlightDescriptor.for_command(b"SELECT 1"), options),
                lambda: list(client.list_actions(options)),
                *(
                    partial(lambda name: list(client.do_action(flight.Action(name, b"{}"), options)), name)
                    for name in ACTIONS
                ),
                lambda: client.do_put(upload, pa.schema([]), options)[1].read(),
            ]
            for call in calls:
                with pytest.raises(flight.FlightUnauthenticatedError):
                    call()
            with pytest.raises(pa.ArrowException, match="unknown, was used already"):
                client.do_get(flight.Ticket(to.ticket), options).read_all()

    await trio.to_thread.run_sync(try_all)
    await both.deliver(to)
    assert (await both.read(to)).num_rows == ROWS


async def test_a_delivery_has_the_time_that_the_hub_waits_and_a_margin(both: Both) -> None:
    to = await both.expect()
    await both.deliver(to, seconds=0.001)
    assert (await both.read(to)).num_rows == ROWS


async def test_a_delivery_that_cannot_begin_takes_no_place(nursery: trio.Nursery) -> None:
    def restarting() -> str:
        raise EngineUnavailable("the engine is starting")

    deliverer = Deliverer(restarting)
    await nursery.start(deliverer.run)
    to = FlightEndpoint(location="grpc+tls://hub:1", certificate="pem", ticket=b"ticket")
    for _ in range(MAX_DELIVERIES + 1):
        with pytest.raises(EngineUnavailable):
            deliverer.start(Offer(b"ticket", "", "pem", 30), Taker(), to, seconds=20.0, query_id="q")
    nursery.cancel_scope.cancel()


def send(to: FlightEndpoint, rows: int, sent: Sent) -> None:
    """What a node sends, as a plain Flight client."""
    damaged = sent == "offsets beyond the data"
    schema = pa.schema([("n", pa.string() if damaged else pa.int64())])
    headers = [(b"authorization", b"Bearer " + (to.ticket or b""))]
    with connect(to.location, to.certificate) as client:
        options = flight.FlightCallOptions(timeout=20, headers=headers)
        writer, answers = client.do_put(flight.FlightDescriptor.for_command(PART), schema, options)
        column = beyond_its_data(rows) if damaged else pa.array(range(rows))
        writer.write_batch(pa.record_batch([column], schema=schema))
        if sent == "a message without rows":
            writer.write_metadata(b"{}")
        if sent != "no end":
            end = b'{"end": true, "rows": %d}' % (99 if sent == "another end" else rows)
            writer.write_with_metadata(pa.RecordBatch.from_pylist([], schema), end)
        writer.done_writing()
        answers.read()
        writer.close()


def beyond_its_data(rows: int) -> pa.Array:
    """Text one of whose offsets leads far away."""
    offsets = pa.array([0, 10**9, *[3] * (rows - 1)], pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), rows, [None, offsets, pa.py_buffer(b"abc")])
