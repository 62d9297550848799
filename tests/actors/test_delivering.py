"""Parts that a node delivers: whole at the hub's reader, or an error there. Two real engines with Flight servers."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio
from pyarrow import flight

from actors.delivering import MAX_DELIVERIES, Deliverer, Taker
from syndb_common.engine.interface import Limits, Offer
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import EngineUnavailable, IncompleteResult, LimitExceeded, NotFound, SynDBError
from syndb_common.flight.client import connect, fetch
from syndb_common.flight.settings import FlightSettings
from syndb_common.flight.wire import PART
from syndb_common.messages import FlightEndpoint

pytestmark = pytest.mark.slow
ROWS = 300_000
NUMBERS = f"SELECT number AS n FROM numbers({ROWS})"
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
            await trio.to_thread.run_sync(send, to.model_copy(update={"ticket": ticket}), 1, None)


async def test_what_is_not_expected_any_more_is_not_taken(both: Both) -> None:
    to = await both.expect()
    assert to.ticket is not None
    await both.hub.forget(to.ticket)
    with pytest.raises(NotFound):
        await both.read(to)
    with pytest.raises(pa.ArrowException, match="a valid token is needed"):
        await trio.to_thread.run_sync(send, to, 1, None)


async def test_the_reader_is_told_why_a_query_failed_under_way(both: Both) -> None:
    to = await both.expect()
    await both.deliver(to, limits=Limits(result_bytes=1_000_000))
    with pytest.raises(LimitExceeded, match="larger than 1000000 bytes"):
        await both.read(to)


@pytest.mark.parametrize("end", [None, b'{"end": true, "rows": 99}'])
async def test_a_delivery_that_does_not_end_properly_is_an_error_at_its_reader(both: Both, end: bytes | None) -> None:
    to = await both.expect()
    outcome: list[Any] = []

    async def read() -> None:
        try:
            outcome.append(await both.read(to))
        except SynDBError as error:
            outcome.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        with pytest.raises(pa.ArrowException):
            await trio.to_thread.run_sync(send, to, 3, end)
    assert isinstance(outcome[0], IncompleteResult)


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


def send(to: FlightEndpoint, rows: int, end: bytes | None) -> None:
    """What a node sends, as a plain Flight client."""
    schema = pa.schema([("n", pa.int64())])
    headers = [(b"authorization", b"Bearer " + (to.ticket or b""))]
    with connect(to.location, to.certificate) as client:
        options = flight.FlightCallOptions(timeout=20, headers=headers)
        writer, answers = client.do_put(flight.FlightDescriptor.for_command(PART), schema, options)
        writer.write_batch(pa.record_batch([list(range(rows))], schema=schema))
        if end is not None:
            writer.write_with_metadata(pa.record_batch([[]], schema=schema), end)
        writer.done_writing()
        answers.read()
        writer.close()
