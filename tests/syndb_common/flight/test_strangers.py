"""Who shows no credential costs a Flight server next to nothing, and who shows one no more than its share."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pyarrow import flight

from syndb_common.errors import InvalidRequest, Unauthenticated
from syndb_common.flight import sql
from syndb_common.flight.guests import ALL_STRANGE_BYTES, STRANGE_BYTES, Guests
from syndb_common.flight.settings import FlightLimits
from syndb_common.flight.sockets import Address, Connection, allow_many, connected
from syndb_common.flight.streams import AWAITED_SECONDS, LEAST_BYTES, Streams
from syndb_common.flight.wire import from_flight
from tests.syndb_common.flight.peer import OURS, UNAUTHENTICATED, UNIMPLEMENTED, Peer
from tests.syndb_common.flight.served import Served, served

LIMITS = FlightLimits(stall_seconds=1.0, streams=8, streams_per_client=4)
CALLS = 200
THREADS = 60
"""Threads that the server may start for many calls that are refused at once: gRPC keeps some."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("engine"), limits=LIMITS) as found:
        yield found


def _process(server: Served) -> Path:
    return Path(f"/proc/{server.engine.pid}")


def _threads(server: Served) -> int:
    return len(list((_process(server) / "task").iterdir()))


def _peak_bytes(server: Served) -> int:
    lines = (_process(server) / "status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _until(happened: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < until, otherwise
        time.sleep(0.05)


def _answers(server: Served) -> bool:
    with server.client() as client:
        return bool(list(client.list_actions(server.options())))


@pytest.mark.parametrize(("method", "code"), [("DoPut", UNAUTHENTICATED), ("DoExchange", UNIMPLEMENTED)])
def test_calls_without_a_credential_hold_no_threads(server: Served, method: str, code: str) -> None:
    before = _threads(server)
    with Peer(server.location) as peer:
        for _ in range(CALLS):
            peer.call(method)
        peer.until(ended=CALLS)
        assert set(peer.ended.values()) == {code}
        assert _threads(server) < before + THREADS


def test_calls_that_never_send_are_counted_and_their_connection_ends(server: Served) -> None:
    before = _threads(server)
    with Peer(server.location) as peer:
        for _ in range(CALLS):
            peer.call("DoPut", server.owner)
        peer.until(ended=CALLS - LIMITS.streams_per_client)
        assert set(peer.ended.values()) == {OURS}
        assert _threads(server) < before + THREADS
        peer.until_closed()
    _until(lambda: _takes_calls(server), "calls that have ended are still counted")


def _takes_calls(server: Served) -> bool:
    """Whether the server takes as many calls of one credential at once as it may have."""
    with Peer(server.location) as peer:
        for _ in range(LIMITS.streams_per_client):
            peer.call("DoPut", server.owner)
        peer.listen(0.5)
        return not peer.ended


def test_a_ticket_for_a_delivery_lets_in_one_call(server: Served) -> None:
    delivery = server.call(server.engine.expect, 30.0)
    with Peer(server.location) as peer:
        for _ in range(5):
            peer.call("DoPut", delivery.ticket.decode())
        peer.until(ended=4)
        assert not peer.closed


def test_a_message_without_a_credential_ends_the_connection(server: Served) -> None:
    size, before = 2_000_000_000, _peak_bytes(server)
    with Peer(server.location) as peer:
        assert peer.pour(peer.call("DoGet"), size) < size
        assert peer.closed
    assert _peak_bytes(server) - before < 500_000_000
    assert _answers(server)


def _connections(received: dict[str, int]) -> dict[Address, Connection]:
    """Connections by ``host:port``, with what has come over each."""
    addresses = {name: (name.partition(":")[0], int(name.partition(":")[2])) for name in received}
    return {address: Connection(7, address, received[name]) for name, address in addresses.items()}


def test_what_all_strangers_send_together_is_bounded() -> None:
    guests = Guests(FlightLimits())
    half, count = STRANGE_BYTES // 2, 40
    unwanted = guests.unwanted(_connections({f"10.0.0.{n}:1": half + n for n in range(count)}))
    kept = count - len(unwanted)
    assert unwanted == {(f"10.0.0.{n}", 1) for n in range(kept, count)}  # those who have sent most
    assert ALL_STRANGE_BYTES - STRANGE_BYTES < kept * half <= ALL_STRANGE_BYTES


def test_a_connection_that_showed_a_credential_may_bring_anything_and_stay_a_while() -> None:
    now = 0.0
    guests = Guests(FlightLimits(stall_seconds=10.0), clock=lambda: now)
    leave = guests.enter("ipv4:10.0.0.1:1")
    found = _connections({"10.0.0.1:1": 10**9, "10.0.0.2:1": STRANGE_BYTES, "10.0.0.3:1": STRANGE_BYTES + 1})
    assert guests.unwanted(found) == {("10.0.0.3", 1)}
    now = 100.0
    assert ("10.0.0.1", 1) not in guests.unwanted(found)
    leave()
    assert ("10.0.0.1", 1) not in guests.unwanted(found)
    now = 200.0
    assert ("10.0.0.1", 1) not in guests.unwanted(found)
    now = 201.0
    assert guests.unwanted(found) == set(found)


def test_whoever_is_known_may_take_long_for_the_last_bytes_of_a_call_that_has_ended() -> None:
    now = 0.0
    guests = Guests(FlightLimits(stall_seconds=1.0), clock=lambda: now)
    known, strange = ("10.0.0.1", 1), ("10.0.0.2", 1)
    guests.enter("ipv4:10.0.0.1:1")()
    for second in range(100):
        now, taken = float(second), second * LEAST_BYTES
        found = {each: Connection(7, each, acknowledged=taken) for each in (known, strange)}
        assert known not in guests.unwanted(found)
    assert guests.unwanted(found) == {strange}
    now += 11
    assert guests.unwanted(found) == {known, strange}


def test_an_upload_may_bring_much_before_it_is_told_over_which_connection() -> None:
    now = 0.0
    streams, guests = Streams(LIMITS, clock=lambda: now), Guests(FlightLimits(), clock=lambda: now)
    found = _connections({f"10.0.0.{n}:1": ALL_STRANGE_BYTES for n in range(2)})
    streams.open("uploader")
    assert guests.unwanted(found, awaited=streams.awaited()) == set()
    now = AWAITED_SECONDS  # whoever has a credential does not open the door for strangers by saying nothing
    assert guests.unwanted(found, awaited=streams.awaited()) == set(found)
    streams.open("another").address = ("10.0.0.0", 1)
    assert guests.unwanted(found, awaited=streams.awaited()) == set(found)


def test_a_crowd_gives_way_before_whoever_is_known_and_whoever_is_alone() -> None:
    limits = FlightLimits(streams=1)
    guests = Guests(limits)
    guests.enter("ipv4:10.0.0.1:1")()  # known, and idle now
    guests.enter("ipv4:10.0.0.2:1")  # at work
    modest = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]
    crowd = [f"10.0.0.9:{port}" for port in range(1, 6)]
    assert limits.connections == 4
    unwanted = guests.unwanted(_connections(dict.fromkeys([*modest, *crowd], 0)))
    assert (len(unwanted), {host for host, _ in unwanted}) == (4, {"10.0.0.9"})


def test_connections_are_bounded_and_those_of_strangers_end(server: Served) -> None:
    place = urlsplit(server.location)
    with ExitStack() as stack:
        for _ in range(10 * LIMITS.connections):
            stack.enter_context(socket.create_connection((str(place.hostname), int(place.port or 0))))
        _until(lambda: _connected(server) <= LIMITS.connections, "more are connected than may be")
        assert _answers(server)
        _until(lambda: not _connected(server), "strangers are still connected")


def _connected(server: Served) -> int:
    return len(_peers(server))


def _peers(server: Served) -> set[str]:
    """Who has a connection to the server's port that is established, as the kernel lists them."""
    port = f"{urlsplit(server.location).port:04X}"
    files = (_process(server) / "net" / name for name in ("tcp", "tcp6"))
    rows = [line.split() for file in files for line in file.read_text().splitlines()[1:]]
    return {peer for _, local, peer, state, *_ in rows if local.endswith(f":{port}") and state == "01"}


def test_a_client_that_pauses_keeps_its_connection(server: Served) -> None:
    with server.client() as client:
        list(client.list_actions(server.options()))
        before = _peers(server)
        time.sleep(2 * LIMITS.stall_seconds)
        assert list(client.list_actions(server.options()))
        assert _peers(server) == before


def test_a_question_about_flight_sql_needs_a_credential_first(server: Served) -> None:
    url = b"type.googleapis.com/arrow.flight.protocol.sql.CommandGetSqlInfo"
    for damaged in (b"\x0a" + bytes([len(url)]) + url + b"\x12\xff", b"\x0a" + bytes([len(url)]) + url):
        with server.client() as client, pytest.raises(flight.FlightError) as caught:
            client.do_get(flight.Ticket(damaged), server.options("unknown"))
        assert isinstance(from_flight(caught.value), Unauthenticated)


def _packed(number: int) -> bytes:
    found = b""
    while number > 0x7F:
        found, number = found + bytes([number & 0x7F | 0x80]), number >> 7
    return found + bytes([number])


@pytest.mark.parametrize("content", [b"\x0a" + _packed(10**6) + bytes(10**6), b"\x08\x01" * 2000])
def test_a_command_of_flight_sql_that_would_take_long_to_read_is_refused(content: bytes) -> None:
    name = b"type.googleapis.com/arrow.flight.protocol.sql.CommandGetSqlInfo"
    with pytest.raises(InvalidRequest, match=r"more than 4096 bytes|1000 fields"):
        sql.parse(bytes([10, len(name)]) + name + b"\x12" + _packed(len(content)) + content)


def test_a_connection_is_found_and_cut_when_no_file_can_be_opened() -> None:
    with _all_files_taken() as (accepted, peer, address):
        with pytest.raises(OSError, match="Too many open files"):
            os.eventfd(0)
        connected(accepted.getsockname()[1])[address].cut()
        assert peer.recv(1) == b""


@contextmanager
def _all_files_taken() -> Iterator[tuple[socket.socket, socket.socket, Address]]:
    """Both ends of a connection, and the peer's address, in a process that may open no more files."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        peer = stack.enter_context(socket.create_connection(listener.getsockname(), timeout=20))
        accepted = stack.enter_context(listener.accept()[0])
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, usual)
        most = max(map(int, os.listdir("/proc/self/fd"))) + 10
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, usual[1]))
        with suppress(OSError):
            for _ in range(most):
                stack.callback(os.close, os.eventfd(0))
        yield accepted, peer, peer.getsockname()


def test_a_server_may_have_as_many_files_as_it_may_allow_itself() -> None:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual[1] - 1, usual[1]))
    try:
        allow_many()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (usual[1], usual[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
