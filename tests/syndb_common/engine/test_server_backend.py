"""What only a ClickHouse server can do to its client: break off, fall silent, go away, ask who we are, be a cluster."""

# ruff: noqa: ASYNC110 - other processes change what is waited for

import io
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from syndb_common.engine.backend import Setting
from syndb_common.engine.clusters import on_cluster
from syndb_common.engine.interface import Limits
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.server_backend import ServerBackend, ServerConnection, ServerStream
from syndb_common.engine.settings import EngineSettings, Server
from syndb_common.engine.work import Keeper, Work
from syndb_common.errors import (
    Cancelled,
    ConfigError,
    DataError,
    EngineUnavailable,
    IncompleteResult,
    LimitExceeded,
    SynDBError,
    SyQLError,
)
from syndb_common.settings import validate
from tests.syndb_common.engine.bridging import bridged

TABLE = pa.table({"n": list(range(1000)), "text": ["a", None] * 500})
SAID = "Code: 395. DB::Exception: Value passed to 'throwIf' function is non-zero. (FUNCTION_THROW_IF_VALUE_IS_NON_ZERO)"


def arrow(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    return sink.getvalue()


class Response(io.BytesIO):
    """A response whose body ends as bodies do."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self.headers: dict[str, str] = {}

    def release_conn(self) -> None:
        """There is no pool."""


def read_all(body: bytes) -> pa.Table:
    stream: Any = ServerStream(Response(body))
    chunk = stream.read()
    schema, batches = chunk.schema, []
    while chunk.batches:
        batches += chunk.batches
        chunk = stream.read()
    return pa.Table.from_batches(batches, schema)


def test_a_whole_stream_is_a_result() -> None:
    assert read_all(arrow(TABLE)).equals(TABLE)


def test_a_stream_without_rows_is_a_result_with_columns() -> None:
    assert read_all(arrow(TABLE.slice(0, 0))).schema == TABLE.schema


@given(at=st.integers(0, len(arrow(TABLE)) - 1))
def test_a_stream_that_is_cut_anywhere_is_no_result(at: int) -> None:
    with pytest.raises(IncompleteResult):
        read_all(arrow(TABLE)[:at])


@given(at=st.integers(0, len(arrow(TABLE)) - 1), tag=st.sampled_from(["", "\r\n__exception__\r\nx7Qb\r\n"]))
def test_an_exception_in_the_body_is_the_error_wherever_it_stands(at: int, tag: str) -> None:
    with pytest.raises(SyQLError, match="throwIf"):
        read_all(arrow(TABLE)[:at] + f"{tag}{SAID}".encode())


@given(rest=st.binary(min_size=1, max_size=100))
def test_nothing_follows_the_end_mark_of_a_result(rest: bytes) -> None:
    with pytest.raises(IncompleteResult):
        read_all(arrow(TABLE) + rest)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with bridged(tmp_path_factory.mktemp("bridge")) as server:
        yield server


@pytest.fixture(scope="module")
def keeper(server: Server) -> Keeper:
    return Keeper(ServerBackend(server))


def test_a_connection_that_breaks_off_leaves_no_result(keeper: Keeper) -> None:
    with keeper.working(readonly=True) as work, pytest.raises(IncompleteResult):
        work.read_all("SELECT number /* break off */ FROM numbers(5000000)")


def test_an_insert_whose_rows_fail_on_the_way_writes_none_of_them(keeper: Keeper) -> None:
    def rows() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"n": [1, 2, 3]})
        raise DataError("damaged")

    with keeper.working() as work:
        work.run("CREATE OR REPLACE TABLE t (n Int64) ENGINE = MergeTree ORDER BY n")
        with pytest.raises(DataError, match="damaged"):
            work.insert("t", pa.schema({"n": pa.int64()}), rows())
        assert work.read_all("SELECT count() AS n FROM t").to_pylist() == [{"n": 0}]


def test_cancelling_an_insert_that_waits_for_rows_writes_none_of_them(keeper: Keeper) -> None:
    waiting = threading.Event()

    def rows() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"n": [1, 2, 3]})
        waiting.set()
        keeper.cancel(query_id="q1")
        yield pa.record_batch({"n": [4]})

    with keeper.working() as work:
        work.run("CREATE OR REPLACE TABLE t (n Int64) ENGINE = MergeTree ORDER BY n")
    insert = keeper.new(Limits(), query_id="q1")
    insert.open(readonly=False)
    with pytest.raises(Cancelled):
        insert.insert("t", pa.schema({"n": pa.int64()}), rows())
    insert.close()
    assert waiting.is_set()
    with keeper.working() as work:
        assert work.read_all("SELECT count() AS n FROM t").to_pylist() == [{"n": 0}]


def _exhaust(work: Work) -> None:
    while work.read():
        pass


def test_two_keepers_on_one_server_leave_each_other_alone(keeper: Keeper, server: Server) -> None:
    other = Keeper(ServerBackend(server))
    work, foreign = keeper.new(query_id="q1"), other.new(query_id="q1")
    for started in (work, foreign):
        started.open(readonly=True)
        started.start("SELECT number FROM numbers(100000000000)")
    keeper.cancel(query_id="q1")
    with pytest.raises(Cancelled):
        _exhaust(work)
    assert foreign.read()
    work.close()
    foreign.close()


class Failing(ServerBackend):
    """A server whose first answer to our own questions is one that nobody expects."""

    asked = 0

    def connect(self, settings: Mapping[str, Setting], *, seconds: float, session: bool = False) -> ServerConnection:
        if "log_comment" not in settings:
            self.asked += 1
            if self.asked == 1:
                raise ValueError("not what anybody expects")
        return super().connect(settings, seconds=seconds, session=session)


def test_work_is_ended_whatever_went_wrong_before(server: Server) -> None:
    backend = Failing(server)
    keeper = Keeper(backend)
    work = keeper.new(Limits(seconds=20), query_id="q1")
    work.open(readonly=True)
    threading.Timer(0.2, keeper.cancel, kwargs={"query_id": "q1"}).start()
    with pytest.raises(Cancelled):
        work.read_all(FOREVER)
    work.close()
    assert backend.asked > 1


def test_a_wrong_password_is_an_error_of_configuration(server: Server) -> None:
    with pytest.raises(ConfigError, match="Authentication failed") as caught:
        ServerBackend(Server(server.url, server.user, "wrong"))
    assert "password_file" in caught.value.hint


def test_a_server_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    with bridged(tmp_path) as server:
        backend = ServerBackend(server)
    with pytest.raises(EngineUnavailable, match="refused"), Keeper(backend).working() as work:
        work.run("SELECT 1")
    with pytest.raises(EngineUnavailable):
        ServerBackend.found(server, 0.5)


@pytest.mark.parametrize("silence", ["say nothing", "fall silent"])
def test_a_server_that_falls_silent_ends_a_query_with_its_time_and_no_other(keeper: Keeper, silence: str) -> None:
    with keeper.working(Limits(seconds=0.5), readonly=True) as work, pytest.raises(LimitExceeded, match="took longer"):
        work.read_all(f"SELECT number /* {silence} */ FROM numbers(5000000)")
    with keeper.working(readonly=True) as work:
        assert work.read_all("SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_a_result_that_was_cancelled_waits_for_no_server_that_fell_silent(keeper: Keeper) -> None:
    work = keeper.new(Limits(seconds=600), query_id="q1")
    work.open(readonly=True)
    work.start("SELECT number /* fall silent */ FROM numbers(5000000)")
    threading.Timer(0.2, keeper.cancel, kwargs={"query_id": "q1"}).start()
    with pytest.raises(Cancelled):
        _exhaust(work)
    work.close()


FOREVER = "SELECT count() AS n FROM numbers(100000000000) WHERE sipHash64(number) = 1"


def _running(keeper: Keeper, tag: str) -> int:
    """How many endless queries run under tags that begin so."""
    with keeper.working(readonly=True) as work:
        sql = f"SELECT count() AS n FROM system.processes WHERE query LIKE '{FOREVER}%' AND Settings['log_comment'] "
        return int(work.read_all(f"{sql} LIKE '{tag}%'")["n"][0].as_py())


@pytest.mark.slow
async def test_what_a_killed_engine_left_running_is_ended_and_nothing_else(
    nursery: trio.Nursery, tmp_path: Path, keeper: Keeper, server: Server
) -> None:
    running = partial(trio.to_thread.run_sync, _running, keeper)

    def ask_as_somebody_else() -> None:
        connection = ServerBackend(server).connect({"log_comment": "report"}, seconds=60)
        with suppress(SynDBError):
            connection.start(FOREVER)

    nursery.start_soon(partial(trio.to_thread.run_sync, ask_as_somebody_else, abandon_on_cancel=True))
    former = LocalEngine(tmp_path, server=server)
    async with trio.open_nursery() as inner:
        await inner.start(run_until_it_dies, former)
        inner.start_soon(ask_until_it_dies, former, FOREVER)
        with trio.fail_after(60):
            while await running("syndb-") + await running("report") < 2:
                await trio.sleep(0.05)
        assert former.pid is not None
        os.kill(former.pid, signal.SIGKILL)
    assert await running("syndb-") == 1
    await nursery.start(LocalEngine(tmp_path, server=server).run)
    with trio.fail_after(60):
        while await running("syndb-"):
            await trio.sleep(0.05)
    assert await running("report") == 1
    with keeper.working() as work:
        work.run("KILL QUERY WHERE Settings['log_comment'] = 'report' ASYNC")
    nursery.cancel_scope.cancel()


async def run_until_it_dies(
    engine: LocalEngine, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with suppress(EngineUnavailable):
        await engine.run(task_status=task_status)


async def ask_until_it_dies(engine: LocalEngine, sql: str) -> None:
    with suppress(EngineUnavailable):
        await engine.query(sql, limits=Limits(seconds=600))


@pytest.mark.slow
async def test_an_engine_outlives_its_server(nursery: trio.Nursery, tmp_path: Path) -> None:
    with bridged(tmp_path) as server:
        engine = LocalEngine(tmp_path / "node", server=server)
        await nursery.start(engine.run)
        pid = engine.pid
        assert (await engine.query("SELECT 1 AS one")).table.to_pylist() == [{"one": 1}]
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        await engine.query("SELECT 1 AS one")
    with bridged(tmp_path, port=server.port):
        assert (await engine.query("SELECT 1 AS one")).table.to_pylist() == [{"one": 1}]
    assert engine.pid == pid
    nursery.cancel_scope.cancel()


def test_https_trusts_the_authority_that_is_named_and_no_other(tmp_path: Path) -> None:
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    _write_certificate(certificate, key)
    with bridged(tmp_path, certificate, key) as server:
        named = Server(server.url, server.user, server.password, ca_file=str(certificate))
        with Keeper(ServerBackend(named)).working(readonly=True) as work:
            assert work.read_all("SELECT 1 AS one").to_pylist() == [{"one": 1}]
        with pytest.raises(EngineUnavailable, match="certificate"):
            ServerBackend(server)


def _write_certificate(certificate: Path, key: Path) -> None:
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "clickhouse")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(secret, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE DATABASE IF NOT EXISTS syndb", "CREATE DATABASE IF NOT EXISTS syndb ON CLUSTER `c`"),
        ("DROP DATABASE IF EXISTS a SYNC", "DROP DATABASE IF EXISTS a ON CLUSTER `c` SYNC"),
        (
            "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = MergeTree ORDER BY a",
            "CREATE TABLE IF NOT EXISTS syndb.t ON CLUSTER `c` (a UInt8) ENGINE = ReplicatedMergeTree ORDER BY a",
        ),
        (
            "CREATE TABLE t (a UInt8) ENGINE=ReplacingMergeTree(a) ORDER BY a",
            "CREATE TABLE t ON CLUSTER `c` (a UInt8) ENGINE = ReplicatedReplacingMergeTree(a) ORDER BY a",
        ),
        ("CREATE TABLE a.t AS b.t", "CREATE TABLE a.t ON CLUSTER `c` AS b.t"),
        ("ALTER TABLE `a`.`t x` DROP PARTITION ID 'p'", "ALTER TABLE `a`.`t x` ON CLUSTER `c` DROP PARTITION ID 'p'"),
        ("KILL QUERY WHERE query_id = 'x' ASYNC", "KILL QUERY ON CLUSTER `c` WHERE query_id = 'x' ASYNC"),
        ("CREATE TEMPORARY TABLE t (a UInt8)", "CREATE TEMPORARY TABLE t (a UInt8)"),
        ("SELECT 'DROP TABLE t'", "SELECT 'DROP TABLE t'"),
        ("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1)"),
    ],
)
def test_statements_about_tables_go_to_the_whole_cluster(sql: str, expected: str) -> None:
    assert on_cluster(sql, "c") == expected


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "server"},
        {"url": "http://server:8123"},
        {"kind": "server", "url": "server:8123"},
        {"kind": "server", "url": "clickhouse://server"},
        {"kind": "server", "url": "http://user:secret@server"},
        {"kind": "server", "url": "http://server/?readonly=0"},
        {"kind": "server", "url": "http://server:99999"},
        {"kind": "server", "url": "http://server", "cluster": "c` SYNC"},
        {"kind": "elsewhere"},
    ],
)
def test_settings_that_name_no_server_are_refused(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        validate(EngineSettings, values, "settings")


def test_the_password_comes_from_its_file_and_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    values = {"kind": "server", "url": "https://server", "user": "me", "password_file": str(tmp_path / "password")}
    server = validate(EngineSettings, values, "settings").server()
    assert server == Server("https://server", "me", "secret")
    assert (server.scheme, server.host, server.port) == ("https", "server", 8443)
    assert "secret" not in repr(server)


def test_a_password_file_that_is_missing_is_an_error_of_configuration(tmp_path: Path) -> None:
    values = {"kind": "server", "url": "http://server", "password_file": str(tmp_path / "nowhere")}
    with pytest.raises(ConfigError, match="cannot be read"):
        validate(EngineSettings, values, "settings").server()


def test_the_embedded_engine_needs_no_settings() -> None:
    assert EngineSettings().server() is None
