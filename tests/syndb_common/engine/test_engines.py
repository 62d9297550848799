"""Every engine as a daemon uses it: answers, streams, inserts, limits, progress, cancellation, errors.

One suite for the embedded engine, for a server played by the test bridge, and for the server at
``SYNDB_TEST_CLICKHOUSE_URL`` (``http://user:password@host:8123``) when there is one; that one must hold no database
``syndb``, which is made and dropped here.
"""

# ruff: noqa: ASYNC110 - other processes change what is waited for; tmp_path is local

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
import trio
import trio.testing

from syndb_common.engine.interface import Answer, Limits, Offer
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.published import versions
from syndb_common.engine.server_backend import ServerBackend
from syndb_common.engine.settings import Server
from syndb_common.errors import (
    InvalidRequest,
    LimitExceeded,
    SynDBError,
    SyQLError,
    UnknownName,
)
from syndb_common.flight.client import fetch
from syndb_common.flight.settings import FlightSettings
from syndb_common.flight.uploader import UploadTarget, delete, upload
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.versions import DatasetMetadata
from tests.syndb_common.engine.bridging import bridged
from tests.syndb_common.engine.shared import SharedEngine, sharing

FOREVER = "SELECT count() AS n FROM numbers(100000000000) WHERE sipHash64(number) = 1"
MILLION = 1_000_000
URL = "SYNDB_TEST_CLICKHOUSE_URL"


@pytest.fixture(scope="module", params=["embedded", "bridge", "server"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | None]:
    """The ClickHouse server behind the engine; None for the embedded one."""
    if request.param == "embedded":
        yield None
    elif request.param == "bridge":
        with bridged(tmp_path_factory.mktemp("bridge")) as bridge:
            yield bridge
    elif URL not in os.environ:
        pytest.skip(f"{URL} names no ClickHouse server")
    else:
        parts = urlsplit(os.environ[URL])
        plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        server = Server(plain, parts.username or "default", parts.password or "")
        connection = ServerBackend(server).connect({}, seconds=10)
        if connection.start("SELECT name FROM system.databases WHERE startsWith(name, 'syndb')").read().batches:
            pytest.fail(f"the server at {plain} has a database syndb already: these tests would drop it")
        yield server
        for database in ("syndb", "syndb_staging", "syndb_records"):
            connection.run(f"DROP DATABASE IF EXISTS {database} SYNC")


@pytest.fixture(scope="module")
def folder(server: Server | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the engine process has on this machine."""
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def engine(folder: Path, server: Server | None) -> Iterator[SharedEngine]:
    flight = FlightSettings("127.0.0.1", 0, folder / "flight")
    with sharing(LocalEngine(folder, server=server, flight=flight)) as shared:
        yield shared


async def _running(engine: SharedEngine) -> int:
    ours = "startsWith(Settings['log_comment'], 'syndb-')"  # a person's server may have other users
    answer = await engine.query(f"SELECT count() - 1 AS others FROM system.processes WHERE {ours}")
    return int(answer.table["others"][0].as_py())


async def _until_nothing_runs(engine: SharedEngine) -> None:
    with trio.fail_after(20):
        while await _running(engine):
            await trio.sleep(0.02)


async def _until_something_runs(engine: SharedEngine) -> None:
    with trio.fail_after(20):
        while not await _running(engine):
            await trio.sleep(0.02)


async def test_a_query_returns_the_whole_table(engine: SharedEngine) -> None:
    answer = await engine.query("SELECT number, toString(number) AS text FROM numbers(200000)")
    assert answer.table.num_rows == 200_000
    assert answer.table["number"].to_pylist()[::50_000] == [0, 50_000, 100_000, 150_000]


async def test_an_answer_says_what_was_read_for_it(engine: SharedEngine) -> None:
    answer = await engine.query("SELECT sum(number) AS s FROM numbers(200000)")
    assert answer.scan.rows == 200_000
    assert answer.scan.bytes == 1_600_000
    assert answer.scan.seconds > 0


async def test_an_empty_result_has_its_columns(engine: SharedEngine) -> None:
    answer = await engine.query("SELECT cid, gaba FROM syndb.neurons")
    assert answer.table.num_rows == 0
    assert answer.table.schema.names == ["cid", "gaba"]
    assert answer.table.schema.field("gaba").type == pa.float64()


async def test_queries_run_side_by_side(engine: SharedEngine) -> None:
    results: dict[int, int] = {}

    async def ask(n: int) -> None:
        answer = await engine.query(f"SELECT sum(number) AS s FROM numbers({n})")
        results[n] = answer.table["s"][0].as_py()

    async with trio.open_nursery() as nursery:
        for n in range(1, 101):
            nursery.start_soon(ask, n)

    assert results == {n: n * (n - 1) // 2 for n in range(1, 101)}


async def test_long_queries_never_keep_the_daemon_from_its_own_reads(engine: SharedEngine) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(64):  # as many as a node may admit
            nursery.start_soon(partial(engine.query, FOREVER, query_id=str(n)))
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(20):
            assert (await engine.query("SELECT 1 AS one")).table.to_pylist() == [{"one": 1}]
        nursery.cancel_scope.cancel()
    await _until_nothing_runs(engine)


async def test_a_small_answer_comes_inline(engine: SharedEngine) -> None:
    answer = await engine.answer("SELECT 1 AS one")
    assert isinstance(answer, Answer)
    assert answer.table.to_pylist() == [{"one": 1}]


async def test_a_large_answer_becomes_an_offer(engine: SharedEngine) -> None:
    offer = await engine.answer("SELECT number FROM numbers(1000000)")
    assert isinstance(offer, Offer)
    table = await fetch(offer)
    assert table["number"].to_pylist() == list(range(1_000_000))


async def test_inline_bytes_decides_between_answer_and_offer(engine: SharedEngine) -> None:
    offer = await engine.answer("SELECT 1 AS one", inline_bytes=0)
    assert isinstance(offer, Offer)
    assert (await fetch(offer)).to_pylist() == [{"one": 1}]
    assert isinstance(await engine.answer("SELECT number FROM numbers(1000)", inline_bytes=10_000), Answer)


@pytest.mark.parametrize(
    ("limits", "sql", "message"),
    [
        (Limits(result_rows=10), "SELECT number FROM numbers(11)", "Limit for result exceeded"),
        (Limits(result_rows=100_000), "SELECT number FROM numbers(1000000)", "Limit for result exceeded"),
        (Limits(result_bytes=1000), "SELECT number FROM numbers(1000)", "larger than 1000 bytes"),
        (Limits(seconds=0.3), FOREVER, "took"),
        (Limits(memory_bytes=20_000_000), "SELECT groupArray(number) AS a FROM numbers(100000000)", "memory"),
    ],
)
async def test_a_limit_that_is_reached_is_an_error_and_the_engine_goes_on(
    engine: SharedEngine, limits: Limits, sql: str, message: str
) -> None:
    with pytest.raises(LimitExceeded, match=message):
        await engine.query(sql, limits=limits)
    assert (await engine.query("SELECT 1 AS one")).table.num_rows == 1
    await _until_nothing_runs(engine)


async def test_an_answer_that_computes_too_long_is_an_error(engine: SharedEngine) -> None:
    with pytest.raises(LimitExceeded, match=r"longer than 0\.3 seconds"):
        await engine.answer(FOREVER, limits=Limits(seconds=0.3))
    await _until_nothing_runs(engine)


async def test_cancelling_the_call_stops_the_query(engine: SharedEngine) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.query, FOREVER)
        await _until_something_runs(engine)
        nursery.cancel_scope.cancel()
    await _until_nothing_runs(engine)


async def test_cancelling_by_id_fails_the_query_as_cancelled(engine: SharedEngine) -> None:
    failures: list[str] = []

    async def ask() -> None:
        try:
            await engine.query(FOREVER, query_id="q1")
        except SynDBError as error:
            failures.append(error.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await _until_something_runs(engine)
        await engine.cancel("another")
        assert await _running(engine) == 1
        await engine.cancel("q1")
    assert failures == ["cancelled"]
    await _until_nothing_runs(engine)


async def test_cancelling_a_query_that_is_not_there_does_nothing(engine: SharedEngine) -> None:
    await engine.cancel("nothing")
    assert (await engine.query("SELECT 1 AS one")).table.num_rows == 1


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        (f"SELECT throwIf(number = {2 * MILLION}) AS x FROM numbers({3 * MILLION})", SyQLError),  # after the first rows
        ("SELEC 1", SyQLError),
        ("SELECT mesh_volum FROM syndb.neurons", UnknownName),
        ("SELECT * FROM syndb.nowhere", UnknownName),
        ("SELECT toUInt8('a') AS x", SyQLError),
        ("SELECT name + 1 AS x FROM syndb.neurons", SyQLError),
    ],
)
async def test_errors_of_clickhouse_become_ours_in_one_line(
    engine: SharedEngine, sql: str, kind: type[SynDBError]
) -> None:
    with pytest.raises(kind) as caught:
        await engine.query(sql)
    assert type(caught.value) is kind
    assert "DB::Exception" not in caught.value.message
    assert "\n" not in caught.value.message
    assert "Stack trace" not in caught.value.message


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO syndb.neurons (source_id) VALUES ('x')",
        "DROP TABLE syndb.neurons",
        "CREATE TABLE syndb.t (a UInt8) ENGINE = Memory",
        "SET max_result_rows = 0",
    ],
)
async def test_a_query_can_only_read(engine: SharedEngine, sql: str) -> None:
    with pytest.raises(SyQLError):
        await engine.query(sql)
    assert (await engine.query("SELECT count() AS n FROM syndb.neurons")).table["n"].to_pylist() == [0]


async def test_merge_sees_the_partials_of_its_own_call_only(engine: SharedEngine) -> None:
    results: dict[int, int] = {}

    async def merge(n: int) -> None:
        answer = await engine.merge("SELECT sum(n) AS s FROM partials", pa.table({"n": [n, n]}))
        results[n] = answer.table["s"][0].as_py()

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(merge, n)

    assert results == {n: 2 * n for n in range(20)}
    with pytest.raises(UnknownName):
        await engine.query("SELECT * FROM partials")


async def test_merge_keeps_types_and_nulls(engine: SharedEngine) -> None:
    uuid = bytes(range(16))
    partials = pa.table(
        {
            "text": pa.array(["a", None]),
            "id": pa.array([uuid, None], pa.uuid()),
            "whole": pa.array([2**63 + 1, None], pa.uint64()),
            "real": pa.array([1e-300, None], pa.float64()),
            "flag": pa.array([True, None]),
        }
    )
    answer = await engine.merge("SELECT * FROM partials ORDER BY text NULLS LAST", partials)
    assert answer.table.to_pylist() == partials.to_pylist()


async def test_merge_of_no_rows_has_columns(engine: SharedEngine) -> None:
    empty = pa.table({"n": pa.array([], pa.int64())})
    answer = await engine.merge("SELECT n, count() AS c FROM partials GROUP BY n", empty)
    assert answer.table.num_rows == 0
    assert answer.table.schema.names == ["n", "c"]


async def test_merge_refuses_types_no_partial_result_has(engine: SharedEngine) -> None:
    with pytest.raises(InvalidRequest, match="cannot hold"):
        await engine.merge("SELECT 1 AS one FROM partials", pa.table({"n": [[1], [2]]}))


async def test_merge_may_only_read(engine: SharedEngine) -> None:
    with pytest.raises(SyQLError):
        await engine.merge("DROP TABLE syndb.neurons", pa.table({"n": [1]}))


async def test_an_insert_with_an_unknown_column_writes_nothing(engine: SharedEngine) -> None:
    with pytest.raises(UnknownName):
        await engine.insert("schema_migrations", pa.table({"nam": ["x"]}))


async def test_a_statement_larger_than_clickhouse_takes_by_default_is_run(engine: SharedEngine) -> None:
    numbers = ", ".join(str(number) for number in range(50_000))  # 340 kB; by default it takes 256
    answer = await engine.query(f"SELECT count() AS n FROM numbers(10) WHERE number IN ({numbers})")
    assert answer.table.to_pylist() == [{"n": 10}]


async def test_progress_tells_how_far_a_query_is(engine: SharedEngine) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(engine.query, FOREVER, query_id="q1"))
        with trio.fail_after(20):
            while (first := await engine.progress("q1")) is None or not first.rows:
                await trio.sleep(0.02)
            while (second := await engine.progress("q1")) is None or second.rows == first.rows:
                await trio.sleep(0.02)
        assert await engine.progress("another") is None
        nursery.cancel_scope.cancel()
    assert second.rows > first.rows
    assert second.bytes > first.bytes
    assert second.seconds > first.seconds
    assert second.total_rows == 100_000_000_000
    with trio.fail_after(20):
        while await engine.progress("q1") is not None:
            await trio.sleep(0.02)
    await _until_nothing_runs(engine)


async def test_a_result_that_waits_for_its_reader_can_be_asked_about_and_cancelled(engine: SharedEngine) -> None:
    offer = await engine.answer(f"SELECT number FROM numbers({5 * MILLION})", query_id="q1")
    assert isinstance(offer, Offer)
    progress = await engine.progress("q1")
    assert progress is not None
    assert progress.rows > 0
    await engine.cancel("q1")
    await _until_nothing_runs(engine)
    with pytest.raises(SynDBError):
        await fetch(offer)


async def test_a_reader_that_leaves_ends_the_query(engine: SharedEngine) -> None:
    offer = await engine.answer("SELECT number FROM numbers(100000000000)")
    assert isinstance(offer, Offer)
    with trio.move_on_after(0.5):
        await fetch(offer)
    await _until_nothing_runs(engine)


async def test_an_error_after_the_first_rows_ends_the_reading(engine: SharedEngine) -> None:
    offer = await engine.answer(f"SELECT throwIf(number = {2 * MILLION}) AS x FROM numbers({3 * MILLION})")
    assert isinstance(offer, Offer)
    with pytest.raises(SyQLError, match="throwIf"):
        await fetch(offer)
    await _until_nothing_runs(engine)


async def test_many_rows_go_in_and_come_out_again(engine: SharedEngine) -> None:
    await engine.execute("CREATE TABLE syndb.many (n UInt64, text Nullable(String)) ENGINE = MergeTree ORDER BY n")
    try:
        rows = pa.table({"n": pa.array(range(300_000), pa.uint64()), "text": ["a", None, "c"] * 100_000})
        assert await engine.insert("many", rows) == 300_000
        answer = await engine.query("SELECT n, text FROM syndb.many ORDER BY n")
        assert answer.table.equals(rows.cast(answer.table.schema))
    finally:
        await engine.execute("DROP TABLE syndb.many SYNC")


async def test_an_upload_becomes_a_version(engine: SharedEngine, folder: Path) -> None:
    target = UploadTarget.of_folders(engine.flight_location, folder / "flight", folder)
    metadata = DatasetMetadata(dataset="worm", species="Caenorhabditis elegans")
    neurons = pa.table({"source_id": [f"n{n}" for n in range(1000)], "soma_x": [n / 7 for n in range(1000)]})
    send = partial(upload, target, metadata, dataset_id("worm"), {"neurons": neurons})
    result = await trio.to_thread.run_sync(send)
    (version,) = await versions(engine)
    assert version.content_hash == result.content_hash
    answer = await engine.query("SELECT source_id, soma_x FROM syndb.neurons ORDER BY soma_x")
    assert answer.table.to_pylist() == neurons.to_pylist()
    assert (await trio.to_thread.run_sync(send)).unchanged
    await trio.to_thread.run_sync(delete, target, dataset_id("worm"))
    assert await versions(engine) == []
