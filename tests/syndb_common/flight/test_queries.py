"""Queries that come by Flight, from plain pyarrow and ADBC: rows in parts, or an error with our code."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

import adbc_driver_manager
import pyarrow as pa
import pytest
import trio
from adbc_driver_flightsql import DatabaseOptions, dbapi
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import flight

from syndb_common.engine.interface import Offer
from syndb_common.engine.offers import Offers
from syndb_common.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    NotSupported,
    SynDBError,
    Unauthenticated,
    UnknownName,
)
from syndb_common.flight import sql
from syndb_common.flight.access import Caller
from syndb_common.flight.client import read_table
from syndb_common.flight.queries import RUN_SECONDS, Queries
from syndb_common.flight.settings import FlightLimits
from syndb_common.flight.stored import PARTS, parts_of
from syndb_common.flight.streams import STRANGERS_BURST, STRANGERS_PER_SECOND
from syndb_common.flight.wire import from_flight
from tests.syndb_common.flight.peer import OURS, UNAUTHENTICATED, Peer
from tests.syndb_common.flight.served import Served, served

ROWS = 1_500_000
CALLS = 400
READER, OTHER, UPLOADER = "reader-secret", "other-secret", "uploader-secret"
RIGHTS = {READER: ["query"], OTHER: ["query"], UPLOADER: ["upload"]}


class _Daemon:
    """Stands for a hub: three users, and queries of which each has its own outcome."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[dict[str, Any]] = []
        self.secrets: list[str] = []
        self.cancelled = threading.Event()
        self.job_id = str(uuid4())
        folder.mkdir()
        for name, rows in (("large", ROWS), ("small", 3), ("empty", 0)):
            self._write(name, pa.table({"n": pa.array(range(rows), pa.int64()), "text": pa.repeat("x" * 12, rows)}))
        _damage(self.folder / "large.arrow", self.folder / "damaged.arrow")

    def _write(self, name: str, table: pa.Table) -> None:
        with pa.ipc.new_file(str(self.folder / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=65_536)

    async def authenticate(self, *, secret: str) -> dict[str, Any]:
        self.secrets.append(secret)
        if secret not in RIGHTS:
            raise Unauthenticated("the token is not valid")
        return {"id": secret.partition("-")[0], "rights": RIGHTS[secret]}

    async def run(self, **facts: Any) -> dict[str, Any]:
        self.asked.append(facts)
        if facts["query"] == "for ever":
            try:
                await trio.sleep_forever()
            finally:
                self.cancelled.set()
        return self._found(facts["query"])

    async def table(self, **facts: Any) -> dict[str, Any]:
        self.asked.append(facts)
        return self._found("small")

    def _found(self, name: str) -> dict[str, Any]:
        file = self.folder / f"{name}.arrow"
        if not file.exists():
            raise UnknownName(f"unknown table {name}", hint="did you mean neurons?")
        about = {"job_id": self.job_id, "complete": True}
        return {"path": str(file), "rows": -1, "bytes": file.stat().st_size, "about": about}

    async def result(self, *, job_id: str, owner: str) -> dict[str, Any]:
        return self._found("small")

    async def status(self, *, job_id: str, owner: str) -> dict[str, Any]:
        return {"job_id": job_id, "status": "running", "owner": owner}

    async def cancel(self, *, job_id: str, owner: str) -> dict[str, Any]:
        return {"job_id": job_id, "status": "cancelled", "owner": owner}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> _Daemon:
    return _Daemon(tmp_path_factory.mktemp("daemon") / "results")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, daemon: _Daemon) -> Iterator[Served]:
    names = ("authenticate", "run", "table", "result", "status", "cancel")
    answers = {name: getattr(daemon, name) for name in names}
    with served(tmp_path_factory.mktemp("engine"), answers=answers, results=daemon.folder) as found:
        yield found


def _damage(whole: Path, damaged: Path) -> None:
    """A copy of an Arrow file that can be read until the third batch of its second part."""
    content = bytearray(whole.read_bytes())
    reader = pa.ipc.open_file(pa.py_buffer(content))
    third = reader.num_record_batches // PARTS + 2
    messages = [found.start() for found in re.finditer(re.escape(b"\xff\xff\xff\xff"), content)]
    at = messages[1 + third]  # the schema comes first
    content[at : at + 8] = b"damaged!"
    damaged.write_bytes(content)


@contextmanager
def _breaking(server: Served, size: int) -> Iterator[Served]:
    """The server behind connections that break as soon as so many bytes have come over one."""
    place = urlsplit(server.location)

    def forward(source: socket.socket, sink: socket.socket, left: int) -> None:
        with suppress(OSError):
            while left > 0 and (content := source.recv(65_536)):
                sink.sendall(content)
                left -= len(content)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError), ExitStack() as stack:
            while True:
                near = stack.enter_context(listener.accept()[0])
                far = stack.enter_context(socket.create_connection((place.hostname, place.port)))
                for source, sink, left in ((near, far, 10**12), (far, near, size)):
                    threading.Thread(target=forward, args=(source, sink, left), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        behind = copy(server)
        behind.location = f"grpc+tls://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield behind
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _info(server: Served, command: str | bytes, secret: str = READER, seconds: float = 30) -> flight.FlightInfo:
    with server.client() as client:
        return client.get_flight_info(flight.FlightDescriptor.for_command(command), server.options(secret, seconds))


def _read(server: Served, info: flight.FlightInfo, secret: str = READER) -> pa.Table:
    with server.client() as client:
        parts = [client.do_get(each.ticket, server.options(secret)).read_all() for each in info.endpoints]
    return pa.concat_tables(parts)


def _adbc(server: Served, secret: str = READER, **more: str) -> Any:
    options = {DatabaseOptions.TLS_ROOT_CERTS.value: server.certificate, **more}
    if secret:
        options[DatabaseOptions.AUTHORIZATION_HEADER.value] = f"Bearer {secret}"
    return dbapi.connect(server.location.replace("127.0.0.1", "localhost"), db_kwargs=options, autocommit=True)


def test_a_large_result_comes_in_ordered_parts_that_are_the_whole(server: Served) -> None:
    info = _info(server, "large")
    assert (len(info.endpoints), info.ordered) == (PARTS, True)
    assert json.loads(info.app_metadata)["complete"]
    assert _read(server, info)["n"].to_pylist() == list(range(ROWS))


def test_parts_are_read_side_by_side(server: Served) -> None:
    info = _info(server, "large")
    found: dict[int, pa.Table] = {}
    with server.client() as client:

        def read(index: int) -> None:
            found[index] = client.do_get(info.endpoints[index].ticket, server.options(READER)).read_all()

        threads = [threading.Thread(target=read, args=(index,)) for index in range(PARTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert pa.concat_tables([found[index] for index in range(PARTS)])["n"].to_pylist() == list(range(ROWS))


@pytest.mark.parametrize(("query", "rows"), [("small", 3), ("empty", 0)])
def test_a_small_result_is_one_part_with_its_columns(server: Served, query: str, rows: int) -> None:
    info = _info(server, query)
    assert len(info.endpoints) == 1
    table = _read(server, info)
    assert (table.num_rows, table.column_names) == (rows, ["n", "text"])


def test_each_part_is_for_whoever_asked_and_once(server: Served) -> None:
    info = _info(server, "small")
    for secret in (OTHER, UPLOADER, "unknown"):
        with pytest.raises(flight.FlightError, match="unknown, was used already, is void or is not yours") as caught:
            _read(server, info, secret)
        assert isinstance(from_flight(caught.value), NotFound)
    assert _read(server, info).num_rows == 3
    with pytest.raises(flight.FlightError, match=r"was used already.*\[not_found\]"):
        _read(server, info)


def test_a_query_says_whose_data_it_is_for(server: Served, daemon: _Daemon) -> None:
    cluster = uuid4()
    command = {"query": "small", "scope": "remote", "cluster_ids": [str(cluster)], "require": "all"}
    _info(server, json.dumps(command))
    assert daemon.asked[-1] == {**command, "owner": "reader"}


@pytest.mark.parametrize(
    ("descriptor", "asked"),
    [
        (flight.FlightDescriptor.for_path("worm-a"), ("worm-a", None, None)),
        (flight.FlightDescriptor.for_path("worm-a@2", "neurons"), ("worm-a", 2, "neurons")),
        (flight.FlightDescriptor.for_command('{"dataset": "worm-a", "version": 2}'), ("worm-a", 2, None)),
    ],
)
def test_a_table_of_a_version_is_named_by_a_path_or_a_command(
    server: Served, daemon: _Daemon, descriptor: flight.FlightDescriptor, asked: tuple[Any, ...]
) -> None:
    with server.client() as client:
        info = client.get_flight_info(descriptor, server.options(READER))
    assert daemon.asked[-1] == dict(zip(("dataset", "version", "table"), asked, strict=True), owner="reader")
    assert _read(server, info).num_rows == 3


@pytest.mark.parametrize("path", [["worm-a@x"], ["@2"], ["worm-a", "neurons", "axons"], ["w" * 101]])
def test_a_path_to_nothing_is_refused(server: Served, path: list[str]) -> None:
    with server.client() as client, pytest.raises(flight.FlightError) as caught:
        client.get_flight_info(flight.FlightDescriptor.for_path(*path), server.options(READER))
    assert type(from_flight(caught.value)) is InvalidRequest


def test_a_completed_job_is_read_with_fresh_tickets(server: Served, daemon: _Daemon) -> None:
    assert _read(server, _info(server, json.dumps({"job_id": daemon.job_id}))).num_rows == 3


def test_a_user_has_a_share_of_the_streams_and_gets_it_back(server: Served) -> None:
    share = FlightLimits().streams_per_client
    with Peer(server.location) as peer:
        for _ in range(share + 1):
            peer.call("DoPut", UPLOADER)
        peer.until(ended=1)
        peer.listen(0.2)
        assert list(peer.ended.values()) == [OURS]
        with Peer(server.location) as more:
            more.call("DoPut", UPLOADER)
            more.until(ended=1)
            more.call("DoPut", server.owner)
            more.listen(0.2)
            assert list(more.ended.values()) == [OURS]
    until = time.monotonic() + 60
    while True:
        with Peer(server.location) as later:
            later.call("DoPut", UPLOADER)
            later.listen(1)  # settings of HTTP/2
            later.listen(0.2)
            if not later.ended:
                break
        assert time.monotonic() < until, "streams that have ended are still counted"


@pytest.mark.parametrize(("rights", "owner"), [({"query"}, "reader"), ({"query", "admin"}, None)])
def test_a_result_that_is_checked_waits_as_queries_of_its_caller_do(rights: set[str], owner: str | None) -> None:
    asked: list[dict[str, Any]] = []

    def ask(what: str, seconds: float, **facts: Any) -> dict[str, Any]:
        asked.append({"what": what, "seconds": seconds, "whose": facts["whose"], "owner": facts["owner"]})
        raise NotFound("no such job")

    caller = Caller("reader", frozenset(rights), b"")
    command = flight.FlightDescriptor.for_command(json.dumps({"job_id": str(uuid4())}))
    with pytest.raises(NotFound):
        Queries(ask, Offers(cast("Any", None))).info(caller, command, lambda: False)
    assert asked == [{"what": "result", "seconds": RUN_SECONDS, "whose": "reader", "owner": owner}]


def test_uploads_by_unknown_tokens_ask_the_daemon_seldom_and_shut_nobody_out(server: Served, daemon: _Daemon) -> None:
    daemon.secrets.clear()
    with server.client() as client, Peer(server.location) as flood, Peer(server.location) as known:
        list(client.list_actions(server.options(UPLOADER)))
        began = time.monotonic()
        for n in range(CALLS):
            flood.call("DoPut", f"unknown-{n}")
            flood.until(ended=n + 1)
        allowed = STRANGERS_BURST + STRANGERS_PER_SECOND * (time.monotonic() - began)
        assert 0 < len(daemon.secrets) - 1 <= allowed
        assert set(flood.ended.values()) <= {UNAUTHENTICATED, OURS}
        for _ in range(STRANGERS_BURST + 10):
            known.call("DoPut", UPLOADER)
        known.listen(0.5)
        assert not known.ended


@pytest.mark.parametrize(
    ("command", "secret", "error"),
    [
        ("nonsense", READER, UnknownName),
        ("", READER, InvalidRequest),
        ("x" * 100_001, READER, InvalidRequest),
        (b"\xff", READER, InvalidRequest),
        ("{}", READER, InvalidRequest),
        ('{"query": "small", "limit": 1}', READER, InvalidRequest),
        ('{"query": "small", "dataset": "worm-a"}', READER, InvalidRequest),
        ('{"query": "small", "table": "neurons"}', READER, InvalidRequest),
        ("small", "unknown", Unauthenticated),
        ("small", UPLOADER, Forbidden),
    ],
)
def test_what_is_refused_says_why_with_our_code(
    server: Served, command: str | bytes, secret: str, error: type[Exception]
) -> None:
    with pytest.raises(flight.FlightError) as caught:
        _info(server, command, secret)
    assert type(from_flight(caught.value)) is error
    assert f"[{from_flight(caught.value).code}]" in str(caught.value)


def test_a_client_that_leaves_ends_its_query(server: Served, daemon: _Daemon) -> None:
    daemon.cancelled.clear()
    with pytest.raises(flight.FlightTimedOutError):
        _info(server, "for ever", seconds=1)
    assert daemon.cancelled.wait(10)


def test_status_and_cancel_are_about_the_jobs_of_the_caller(server: Served, daemon: _Daemon) -> None:
    body = json.dumps({"query_id": daemon.job_id}).encode()
    with server.client() as client:
        for name, status in (("status", "running"), ("cancel", "cancelled")):
            (answer,) = client.do_action(flight.Action(name, body), server.options(READER))
            assert json.loads(answer.body.to_pybytes()) == {
                "job_id": daemon.job_id,
                "status": status,
                "owner": "reader",
            }


def test_adbc_runs_a_statement_and_gets_all_parts(server: Served) -> None:
    with _adbc(server) as connection, connection.cursor() as cursor:
        cursor.execute("large")
        table = cursor.fetch_arrow_table()
    assert sorted(table["n"].to_pylist()) == list(range(ROWS))


def _by_our_client(server: Served, name: str) -> None:
    for endpoint in _info(server, name).endpoints:
        read_table(Offer(endpoint.ticket.ticket, server.location, server.certificate, 30), secret=READER)


def _by_adbc(server: Served, name: str) -> None:
    with _adbc(server) as connection, connection.cursor() as cursor:
        cursor.execute(name)
        cursor.fetch_arrow_table()


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (_by_our_client, SynDBError),
        (lambda server, name: _read(server, _info(server, name)), flight.FlightError),
        (_by_adbc, (adbc_driver_manager.Error, OSError)),
    ],
    ids=["ours", "pyarrow", "adbc"],
)
def test_a_result_that_breaks_off_is_an_error_for_every_client(
    server: Served, read: Callable[[Served, str], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        read(server, "damaged")
    with _breaking(server, 5_000_000) as behind, pytest.raises(error):
        read(behind, "large")
    read(server, "large")


def test_adbc_gets_the_columns_of_an_empty_result(server: Served) -> None:
    with _adbc(server) as connection, connection.cursor() as cursor:
        cursor.execute("empty")
        assert cursor.fetch_arrow_table().column_names == ["n", "text"]


def test_adbc_is_told_what_is_wrong_with_a_statement(server: Served) -> None:
    with _adbc(server) as connection, connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.Error, match=r"did you mean neurons\?.*syql_unknown_name"):
            cursor.execute("nonsense")
        cursor.execute("small")
        assert cursor.fetchall() == [(0, "x" * 12), (1, "x" * 12), (2, "x" * 12)]


def test_adbc_knows_the_server_by_name_and_version(server: Served) -> None:
    with _adbc(server) as connection:
        assert connection.adbc_get_info()["vendor_name"] == "SynDB"


def test_a_client_that_knows_only_passwords_gives_the_token_as_one(server: Served) -> None:
    with _adbc(server, "", username="anybody", password=READER) as connection, connection.cursor() as cursor:
        cursor.execute("small")
        assert cursor.fetch_arrow_table().num_rows == 3
    with (
        _adbc(server, "", username="anybody", password="wrong") as connection,
        connection.cursor() as cursor,
        pytest.raises(adbc_driver_manager.Error, match=r"\[unauthenticated\]"),
    ):
        cursor.execute("small")
    with server.client() as client:
        header = client.authenticate_basic_token("anybody", READER)
        assert header == (b"authorization", f"Bearer {READER}".encode())


def test_other_commands_of_flight_sql_are_refused_by_name(server: Served) -> None:
    name = b"type.googleapis.com/arrow.flight.protocol.sql.CommandGetTables"
    any_of = bytes([10, len(name)]) + name + bytes([18, 0])
    with pytest.raises(flight.FlightError, match="CommandGetTables is not understood") as caught:
        _info(server, any_of)
    assert isinstance(from_flight(caught.value), NotSupported)


@given(st.binary(max_size=200))
def test_damaged_flight_sql_is_refused_and_nothing_worse(content: bytes) -> None:
    whole = b"\nCtype.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery\x12"
    try:
        found = sql.parse(whole + content)
    except (InvalidRequest, NotSupported):
        return
    assert isinstance(found, sql.Statement | sql.SqlInfo)


@given(batches=st.integers(0, 40), rows=st.integers(0, 20), least=st.integers(1, 10_000))
def test_parts_of_a_file_are_all_of_it_in_order(batches: int, rows: int, least: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.arrow"
        schema = pa.schema([("n", pa.int64())])
        with pa.ipc.new_file(str(path), schema) as writer:
            for index in range(batches):
                writer.write_batch(pa.record_batch([pa.array([index] * rows, pa.int64())], schema=schema))
        parts = parts_of(path, least_bytes=least)
        found = [batch.column(0)[0].as_py() for part in parts for batch in part.read() if batch.num_rows]
    assert 1 <= len(parts) <= PARTS
    assert found == (list(range(batches)) if rows else [])
