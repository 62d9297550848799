"""How much clients may have going on, and what becomes of those that stand still."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from pyarrow import flight

from syndb_common.engine.interface import Limits, Offer
from syndb_common.errors import LimitExceeded, SynDBError, TooManyRequests
from syndb_common.flight.client import Reading, read_table
from syndb_common.flight.settings import FlightLimits
from syndb_common.flight.sockets import Address, Connection, address_of
from syndb_common.flight.streams import Stream, Streams
from syndb_common.flight.wire import from_flight
from syndb_common.tables.identity import dataset_id
from tests.syndb_common.flight.served import Served, served

ENDLESS = "SELECT number, number + 1 AS next, number + 2 AS after FROM numbers(10000000000)"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that has little patience and takes small batches."""
    limits = FlightLimits(stall_seconds=1.0, message_bytes=1_000_000, streams_per_client=2)
    with served(tmp_path_factory.mktemp("strict"), limits=limits) as found:
        yield found


def _offer(server: Served, sql: str) -> Offer:
    async def ask() -> Any:
        return await server.engine.answer(sql, limits=Limits(result_rows=10**11, result_bytes=10**13))

    offer = server.call(ask)
    assert isinstance(offer, Offer)
    return offer


def _running(server: Served) -> int:
    async def ask() -> int:
        answer = await server.engine.query("SELECT count() - 1 AS others FROM system.processes")
        return int(answer.table["others"][0].as_py())

    return int(server.call(ask))


def _until_nothing_runs(server: Served) -> None:
    until = time.monotonic() + 30
    while _running(server):
        assert time.monotonic() < until, "a query still runs"
        time.sleep(0.05)


def _begin(server: Served, client: flight.FlightClient, name: str) -> bytes:
    body = {"dataset_id": str(dataset_id(name)), "metadata": {"dataset": name}, "tables": ["neurons"]}
    (answer,) = client.do_action(flight.Action("begin", json.dumps(body).encode()), server.options())
    upload_id = json.loads(answer.body.to_pybytes())["upload_id"]
    return json.dumps({"upload_id": upload_id, "table": "neurons"}).encode()


def _last(writer: Any, answers: Any) -> None:
    """Wait for the server's last word."""
    answers.read()
    writer.close()


def test_a_reader_that_stands_still_is_cut_off_and_holds_no_other(strict: Served) -> None:
    still: Any = Reading(_offer(strict, ENDLESS), seconds=60, max_bytes=10**12).batches()
    next(still)
    assert _running(strict)
    assert read_table(_offer(strict, "SELECT number FROM numbers(1000000)")).num_rows == 1_000_000
    _until_nothing_runs(strict)
    with pytest.raises(Exception, match=r"broke off|cannot be reached"):
        for _ in still:
            pass


def test_a_slow_reader_that_goes_on_gets_everything(strict: Served) -> None:
    rows = 0
    for count, batch in enumerate(
        Reading(_offer(strict, "SELECT number FROM numbers(2000000)"), seconds=60, max_bytes=10**9).batches()
    ):
        rows += batch.num_rows
        if count < 6:
            time.sleep(0.3)
    assert rows == 2_000_000


@pytest.mark.parametrize("stream", [None, str(UUID(int=1))], ids=["whole", "numbered"])
def test_a_writer_that_stands_still_is_cut_off(strict: Served, stream: str | None) -> None:
    rows = pa.table({"source_id": ["a"]})
    with strict.client() as client:
        put = {**json.loads(_begin(strict, client, f"still-{stream}".lower())), "stream": stream}
        descriptor = flight.FlightDescriptor.for_command(json.dumps(put).encode())
        writer, answers = client.do_put(descriptor, rows.schema, strict.options(seconds=60))
        writer.write_with_metadata(rows.to_batches()[0], b'{"seq": 0}')
        if stream is not None:
            assert answers.read() is not None
        with pytest.raises(flight.FlightError) as caught:
            _last(writer, answers)  # when the server gives up: this end sends nothing more
        assert not isinstance(caught.value, flight.FlightTimedOutError)
        with suppress(flight.FlightError):
            writer.close()


def test_a_batch_beyond_the_limit_is_refused(strict: Served) -> None:
    rows = pa.table({"source_id": ["x" * 1000] * 2000})
    with strict.client() as client:
        descriptor = flight.FlightDescriptor.for_command(_begin(strict, client, "large"))
        writer, answers = client.do_put(descriptor, rows.schema, strict.options())
        with suppress(flight.FlightError):  # the refusal may come before all is sent
            writer.write_table(rows)
            writer.done_writing()
        with pytest.raises(flight.FlightError) as caught:
            _last(writer, answers)
        assert isinstance(from_flight(caught.value), LimitExceeded)


def test_parts_that_the_federation_reads_are_not_counted_by_who_reads_them(strict: Served) -> None:
    offers = [_offer(strict, ENDLESS) for _ in range(3)]
    readings: list[Any] = [Reading(offer, seconds=60, max_bytes=10**12, secret="s").batches() for offer in offers]
    for reading in readings:
        next(reading)
    for reading in readings:
        reading.close()
    _until_nothing_runs(strict)


def test_calls_beyond_the_rate_are_refused_by_the_server_whatever_they_are(tmp_path: Path) -> None:
    with served(tmp_path, limits=FlightLimits(calls_per_second=0.001, burst=3)) as server, server.client() as client:
        for _ in range(3):
            list(client.list_actions(server.options()))
        rows = pa.table({"source_id": ["a"]})
        calls: list[Callable[[], Any]] = [
            lambda: list(client.list_actions(server.options())),
            lambda: list(client.do_action(flight.Action("status", b"{}"), server.options())),
            lambda: client.do_get(flight.Ticket(b"ticket"), server.options()).read_all(),
            lambda: client.get_flight_info(flight.FlightDescriptor.for_command(b"x"), server.options()),
            lambda: _last(*client.do_put(flight.FlightDescriptor.for_command(b"{}"), rows.schema, server.options())),
        ]
        for call in calls:
            with pytest.raises(flight.FlightError) as caught:
                call()
            assert isinstance(from_flight(caught.value), TooManyRequests)


def test_a_stop_waits_neither_for_a_reader_nor_for_a_writer_that_stands_still(tmp_path: Path) -> None:
    rows = pa.table({"source_id": ["a"]})
    with ExitStack() as outlives:
        with served(tmp_path) as server:
            still: Any = Reading(_offer(server, ENDLESS), seconds=60, max_bytes=10**12).batches()
            next(still)
            client = outlives.enter_context(server.client())
            descriptor = flight.FlightDescriptor.for_command(_begin(server, client, "still"))
            writer, answers = client.do_put(descriptor, rows.schema, server.options(seconds=60))
            writer.write_table(rows)
        with pytest.raises(SynDBError, match=r"broke off|cannot be reached"):  # the engine process has gone
            for _ in still:
                pass
        with pytest.raises(flight.FlightUnavailableError):
            _last(writer, answers)


@pytest.mark.parametrize(
    ("one", "same", "another"),
    [
        ("ipv4:10.0.0.1:1", "ipv4:10.0.0.1:2", "ipv4:10.0.0.2:1"),
        ("ipv6:%5B2001:db8::1%5D:1", "ipv6:%5B2001:db8::ffff:2%5D:1", "ipv6:%5B2001:db8:0:1::1%5D:1"),
    ],
)
def test_calls_beyond_the_rate_are_refused_until_time_has_passed(one: str, same: str, another: str) -> None:
    """An IPv6 machine has a whole network of addresses, and counts as one."""
    now = [0.0]
    streams = Streams(FlightLimits(calls_per_second=2.0, burst=3), clock=lambda: now[0])
    for _ in range(3):
        streams.count_call(one)
    with pytest.raises(TooManyRequests) as caught:
        streams.count_call(same)
    assert caught.value.hint == "try again in 0.5 s"
    streams.count_call(another)
    now[0] = 0.5
    streams.count_call(same)


ONE, TWO = ("1.1.1.1", 1), ("2.2.2.2", 2)


class _Watched:
    """Streams of limits of ten seconds, with a clock and a wire that are set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.streams = Streams(FlightLimits(stall_seconds=10.0), clock=lambda: self.now)

    def open(self, address: Address) -> Stream:
        stream = self.streams.open("a")
        stream.address = address
        return stream

    def still_at(self, now: float, moved: int = 0) -> set[Address]:
        self.now = now
        return self.streams.still({address: Connection(7, address, moved) for address in (ONE, TWO)})


def test_only_a_client_all_of_whose_streams_stand_still_is_cut_off() -> None:
    watched = _Watched()
    first, second = watched.open(ONE), watched.open(ONE)
    watched.open(TWO)  # the server is at work for this one
    with first.waiting():
        assert watched.still_at(20) == set()
        with second.waiting():
            assert [watched.still_at(now) for now in (29, 31, 40)] == [set()] * 3
            assert watched.still_at(41) == {ONE}
        assert watched.still_at(60) == set()
        second.close()
        assert [watched.still_at(61), watched.still_at(71)] == [set(), {ONE}]
    assert watched.still_at(100) == set()


def test_a_client_on_a_slow_network_is_not_cut_off() -> None:
    watched = _Watched()
    with watched.open(ONE).waiting():
        assert not any(watched.still_at(now, moved=now * 2000) for now in range(10, 500, 5))
        assert watched.still_at(511, moved=10**6) == set()
        assert watched.still_at(522, moved=10**6 + 100) == {ONE}


def test_users_and_the_federation_take_no_streams_of_one_another_and_one_question_may_have_all() -> None:
    streams = Streams(FlightLimits(streams=6, streams_per_client=4))
    for client in "aaaabb":
        streams.open(client)
    with pytest.raises(TooManyRequests, match="6 streams are open"):
        streams.open("c")
    for part in range(3):
        streams.open(f"delivery {part}", own=True, most=1)
        streams.open("question", own=True)
    with pytest.raises(TooManyRequests, match="6 streams are open"):
        streams.open("delivery 3", own=True, most=1)
    with pytest.raises(TooManyRequests, match="you have 1 streams open"):
        streams.open("delivery 0", own=True, most=1)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:50000", ("127.0.0.1", 50000)),
        ("ipv6:%5B::1%5D:50000", ("::1", 50000)),
        ("ipv6:[::ffff:10.0.0.1]:7", ("10.0.0.1", 7)),
        ("ipv6:%5Bfe80::1%252%5D:7", ("fe80::1", 7)),
        ("unix:/tmp/x", ("", 0)),
        ("", ("", 0)),
    ],
)
def test_the_address_of_a_peer(peer: str, address: tuple[str, int]) -> None:
    assert address_of(peer) == address
