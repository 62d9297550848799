"""Results by ticket: whole or an error, for one reader, once."""

# ruff: noqa: ASYNC110 - another process changes what is waited for

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio
from pyarrow import flight

from syndb_common.engine.interface import Limits, Offer
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import (
    IncompleteResult,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PeerUnavailable,
    Unauthenticated,
)
from syndb_common.flight.client import Reading, connect, fetch, read_table
from syndb_common.flight.settings import FlightSettings
from syndb_common.flight.tls import Certificate, ensure_certificate
from syndb_common.flight.wire import end_record, from_flight, to_flight
from tests.syndb_common.engine.bridging import bridged
from tests.syndb_common.engine.shared import SharedEngine, sharing

MILLION = "SELECT number, number % 140000 AS cell FROM numbers(1000000)"


@pytest.fixture(scope="module", params=["embedded", "server"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedEngine]:
    """Each kind of engine. Tests leave no query behind."""
    folder = tmp_path_factory.mktemp("engine")
    flight = FlightSettings("127.0.0.1", 0, folder / "flight")
    with ExitStack() as stack:
        server = stack.enter_context(bridged(folder / "bridge")) if request.param == "server" else None
        yield stack.enter_context(sharing(LocalEngine(folder, server=server, flight=flight)))


async def _offer(engine: SharedEngine, sql: str = MILLION, **limits: Any) -> Offer:
    offer = await engine.answer(sql, limits=Limits(**limits), query_id="q1")
    assert isinstance(offer, Offer)
    return offer


async def _running(engine: SharedEngine) -> int:
    answer = await engine.query("SELECT count() - 1 AS others FROM system.processes")
    return int(answer.table["others"][0].as_py())


async def _until_nothing_runs(engine: SharedEngine) -> None:
    with trio.fail_after(20):
        while await _running(engine):
            await trio.sleep(0.02)


async def test_a_million_rows_arrive_in_order_and_whole(engine: SharedEngine) -> None:
    table = await fetch(await _offer(engine, f"{MILLION} ORDER BY number"))
    assert table["number"].to_pylist() == list(range(1_000_000))


async def test_a_ticket_is_good_once(engine: SharedEngine) -> None:
    offer = await _offer(engine)
    await fetch(offer)
    with pytest.raises(NotFound, match="used already"):
        await fetch(offer)


async def test_an_invented_ticket_is_refused(engine: SharedEngine) -> None:
    offer = await _offer(engine)
    forged = Offer(bytes(32), offer.location, offer.certificate, offer.expires_seconds)
    with pytest.raises(NotFound):
        await fetch(forged)
    await engine.cancel("q1")


async def test_a_limit_reached_while_streaming_is_an_error(engine: SharedEngine) -> None:
    offer = await _offer(engine, result_bytes=1_000_000)
    with pytest.raises(LimitExceeded, match="larger than 1000000 bytes"):
        await fetch(offer)
    await _until_nothing_runs(engine)


async def test_the_reader_has_a_limit_of_its_own(engine: SharedEngine) -> None:
    offer = await _offer(engine)
    with pytest.raises(LimitExceeded):
        await fetch(offer, max_bytes=1_000_000)
    await _until_nothing_runs(engine)


async def test_another_schema_than_expected_is_refused(engine: SharedEngine) -> None:
    offer = await _offer(engine)
    with pytest.raises(InvalidRequest, match="other columns"):
        await fetch(offer, schema=pa.schema([("other", pa.int8())]))


async def test_a_reader_that_leaves_ends_the_query(engine: SharedEngine) -> None:
    offer = await _offer(engine, "SELECT number FROM numbers(1000000000)", result_rows=10**9)
    batches: Any = Reading(offer, seconds=60, max_bytes=10**10).batches()
    await trio.to_thread.run_sync(next, batches)
    assert await _running(engine)
    await trio.to_thread.run_sync(batches.close)
    await _until_nothing_runs(engine)


async def test_cancelling_fetch_ends_the_query(engine: SharedEngine) -> None:
    offer = await _offer(engine, "SELECT number FROM numbers(1000000000)", result_rows=10**9)
    with trio.move_on_after(0.5) as scope:
        await fetch(offer, max_bytes=10**10)
    assert scope.cancelled_caught
    await _until_nothing_runs(engine)


async def test_cancelling_by_id_ends_an_offer_nobody_reads(engine: SharedEngine) -> None:
    offer = await _offer(engine)
    await engine.cancel("q1")
    await _until_nothing_runs(engine)
    with pytest.raises(NotFound):
        await fetch(offer)


async def test_another_certificate_is_not_trusted(engine: SharedEngine, tmp_path: Path) -> None:
    offer = await _offer(engine)
    other = ensure_certificate(tmp_path / "other").certificate
    with pytest.raises(PeerUnavailable):
        await fetch(Offer(offer.ticket, offer.location, other, 1), seconds=5)
    await engine.cancel("q1")


def _put_nothing(client: flight.FlightClient, options: flight.FlightCallOptions) -> None:
    """A refusal shows in either line, depending on how fast it arrives."""
    writer, _ = client.do_put(flight.FlightDescriptor.for_command(b"{}"), pa.schema([]), options)
    writer.close()


async def test_actions_and_uploads_need_the_token(engine: SharedEngine) -> None:
    with connect(engine.flight_location, engine.flight_certificate) as client:
        for headers in ([], [(b"authorization", b"Bearer wrong")]):
            options = flight.FlightCallOptions(timeout=10, headers=headers)
            with pytest.raises(flight.FlightUnauthenticatedError):
                list(client.do_action(flight.Action("begin", b"{}"), options))
            with pytest.raises(flight.FlightUnauthenticatedError):
                _put_nothing(client, options)
            with pytest.raises(flight.FlightUnauthenticatedError):
                list(client.list_actions(options))


def _beyond_its_data() -> pa.Array:
    """Text one of whose offsets leads far away."""
    offsets = pa.array([0, 10**9, 3], pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abc")])


class _Foreign(flight.FlightServerBase):  # type: ignore[misc]
    """A peer that does not keep the rules of the stream: what it sends is given by the ticket."""

    def __init__(self, certificate: Certificate) -> None:
        super().__init__("grpc+tls://127.0.0.1:0", tls_certificates=[(certificate.certificate, certificate.key)])

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.GeneratorStream:
        schema = pa.schema([("n", pa.int64())])
        batch = pa.record_batch([pa.array([1, 2, 3])], schema=schema)
        if ticket.ticket == b"damaged":
            schema = pa.schema([("n", pa.string())])
            batch = pa.record_batch([_beyond_its_data()], schema=schema)

        def stream() -> Iterator[Any]:
            yield batch
            if ticket.ticket == b"damaged":
                yield pa.RecordBatch.from_pylist([], schema), end_record(batch.num_rows)
            if ticket.ticket == b"short":
                yield batch.slice(0, 0), end_record(4)
            if ticket.ticket == b"broken":
                raise RuntimeError("gone")
            if ticket.ticket == b"foreign end":
                yield batch.slice(0, 0), b"\xff not json"
            if ticket.ticket == b"endless":
                threading.Event().wait(20)

        return flight.GeneratorStream(schema, stream())


@dataclass(frozen=True)
class _Endpoint:
    location: str
    certificate: str
    ticket: bytes | None


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[_Endpoint]:
    certificate = ensure_certificate(tmp_path)
    server = _Foreign(certificate)
    yield _Endpoint(f"grpc+tls://127.0.0.1:{server.port}", certificate.certificate, None)
    server.shutdown()


@pytest.mark.parametrize("fault", [b"cut", b"short", b"broken", b"foreign end", b"damaged"])
def test_a_stream_without_its_proper_end_or_with_damage_is_incomplete(foreign: _Endpoint, fault: bytes) -> None:
    with pytest.raises(IncompleteResult):
        read_table(_Endpoint(foreign.location, foreign.certificate, fault), seconds=10)


def test_an_endpoint_without_a_ticket_offers_nothing(foreign: _Endpoint) -> None:
    with pytest.raises(InvalidRequest):
        read_table(foreign)


def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    certificate = ensure_certificate(tmp_path).certificate
    with pytest.raises(PeerUnavailable):
        read_table(_Endpoint("grpc+tls://127.0.0.1:1", certificate, b"x"), seconds=5)


def test_the_certificate_is_made_once_and_its_key_is_private(tmp_path: Path) -> None:
    first = ensure_certificate(tmp_path)
    assert ensure_certificate(tmp_path) == first
    assert (tmp_path / "flight.key").stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in repr(first)


def test_a_refusal_for_want_of_a_token_is_ours(foreign: _Endpoint) -> None:
    assert isinstance(from_flight(to_flight(Unauthenticated("no"))), Unauthenticated)
