"""The engine process: its confinement, its lock, and every way it or its daemon can die."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 - other processes change what is waited for; starting one is quick; /proc too

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from syndb_common.engine import landlock
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import ConfigError, EngineUnavailable, SynDBError

FOREVER = "SELECT count() AS n FROM numbers(100000000000) WHERE sipHash64(number) = 1"
confined = pytest.mark.skipif(landlock.abi() < 2, reason="this kernel has no Landlock")


async def _supervise(engine: LocalEngine) -> None:
    while True:
        try:
            await engine.run()
        except EngineUnavailable:
            continue


@asynccontextmanager
async def _supervised(path: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_supervise, engine)
        assert (await engine.query("SELECT 1 AS one")).table.num_rows == 1
        yield engine
        nursery.cancel_scope.cancel()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


async def _until_gone(pid: int) -> None:
    with trio.fail_after(20):
        while _alive(pid):
            await trio.sleep(0.02)


@confined
@pytest.mark.parametrize(
    "source",
    [
        "file('/etc/passwd', 'LineAsString')",
        "url('http://127.0.0.1:9/', 'LineAsString')",
        "remote('127.0.0.1:9', system.one)",
    ],
)
async def test_no_sql_reaches_beyond_the_engines_folder(engine: LocalEngine, source: str) -> None:
    with pytest.raises(SynDBError, match=r"(?i)permission denied|cannot|refused|network"):
        await engine.execute(f"SELECT * FROM {source} SETTINGS http_max_tries = 1")


@confined
async def test_no_sql_writes_beyond_the_engines_folder(engine: LocalEngine, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with pytest.raises(SynDBError):
        await engine.execute(f"INSERT INTO FUNCTION file('{target}', 'CSV', 'a UInt8') SELECT 1")
    with pytest.raises(SynDBError):
        await engine.execute(f"SELECT 1 INTO OUTFILE '{target}'")
    assert not target.exists()


@confined
async def test_the_owners_token_and_key_are_out_of_the_engines_reach(engine: LocalEngine, tmp_path: Path) -> None:
    for secret in (tmp_path / "upload-token", tmp_path / "flight" / "flight.key"):
        assert secret.stat().st_mode & 0o777 == 0o600
        with pytest.raises(SynDBError):
            await engine.execute(f"CREATE TABLE syndb.t ENGINE = Memory AS SELECT * FROM file('{secret}', 'RawBLOB')")


async def test_the_engine_loads_no_library_it_does_not_use(engine: LocalEngine) -> None:
    """pyarrow loads pandas by itself at a start, if it can: that would be a third of the time it takes."""
    assert "/chdb/" in Path(f"/proc/{engine.pid}/maps").read_text()
    assert "/pandas/" not in Path(f"/proc/{engine.pid}/maps").read_text()


async def test_chdb_is_never_loaded_into_the_daemon(engine: LocalEngine) -> None:
    assert not any(name.partition(".")[0] == "chdb" for name in sys.modules)


@pytest.mark.slow
async def test_a_folder_in_use_is_a_clear_error(engine: LocalEngine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is in use by another process") as caught:
        await LocalEngine(tmp_path).run()
    assert str(tmp_path) in caught.value.message


async def test_a_crash_fails_the_query_and_the_next_one_works(tmp_path: Path) -> None:
    async with _supervised(tmp_path) as engine:
        failures: list[str] = []

        async def ask() -> None:
            try:
                await engine.query(FOREVER)
            except EngineUnavailable as error:
                failures.append(error.message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.3)
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGSEGV)

        assert len(failures) == 1
        assert "ended by signal SEGV; it is being restarted" in failures[0]
        assert (await engine.query("SELECT 2 AS two")).table.to_pylist() == [{"two": 2}]


async def test_data_survives_a_crash(tmp_path: Path) -> None:
    async with _supervised(tmp_path) as engine:
        await engine.execute("CREATE DATABASE syndb")
        await engine.execute("CREATE TABLE syndb.t (a UInt8) ENGINE = MergeTree ORDER BY a")
        await engine.execute("INSERT INTO syndb.t VALUES (1), (2)")
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(20):
            while engine.pid == pid:
                await trio.sleep(0.01)
        assert (await engine.query("SELECT sum(a) AS s FROM syndb.t")).table.to_pylist() == [{"s": 3}]


async def test_a_call_without_an_engine_ends_unavailable(tmp_path: Path, autojump_clock: trio.abc.Clock) -> None:
    with pytest.raises(EngineUnavailable, match="not running"):
        await LocalEngine(tmp_path).query("SELECT 1 AS one")


async def test_stopping_ends_the_process(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        pid = engine.pid
        nursery.cancel_scope.cancel()
    assert pid is not None
    assert not _alive(pid)
    assert not engine.ready


DAEMON = """
    import sys, trio
    from pathlib import Path
    from syndb_common.engine.local import LocalEngine

    async def main():
        engine = LocalEngine(Path(sys.argv[1]))
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            nursery.start_soon(engine.query, sys.argv[2])
            await trio.sleep(0.5)
            print(engine.pid, flush=True)

    trio.run(main)
"""


async def test_a_killed_daemon_leaves_no_engine_and_no_lock(tmp_path: Path) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DAEMON), str(tmp_path), FOREVER], stdout=subprocess.PIPE, text=True
    )
    try:
        assert daemon.stdout is not None
        pid = int(await trio.to_thread.run_sync(daemon.stdout.readline))
        assert _alive(pid)
    finally:
        daemon.send_signal(signal.SIGKILL)
        daemon.communicate()

    await _until_gone(pid)
    async with _supervised(tmp_path) as engine:
        assert engine.ready


def test_without_landlock_confinement_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 1)
    assert landlock.confine(tmp_path, None) is False
