"""The engine process: what it loads, its lock, and every way it or its daemon can die."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 - other processes change what is waited for; starting one is quick; /proc too

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from syndb_common.engine import landlock
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import ConfigError, Conflict, EngineUnavailable
from tests.syndb_common.engine.shared import SharedEngine, sharing

FOREVER = "SELECT count() AS n FROM numbers(100000000000) WHERE sipHash64(number) = 1"


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


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedEngine]:
    """A running engine, which tests leave as it is."""
    with sharing(LocalEngine(tmp_path_factory.mktemp("engine"))) as shared:
        yield shared


async def test_the_engine_loads_no_library_it_does_not_use(engine: SharedEngine) -> None:
    """pyarrow loads pandas by itself at a start, if it can: that would be a third of the time it takes."""
    assert "/chdb/" in Path(f"/proc/{engine.pid}/maps").read_text()
    assert "/pandas/" not in Path(f"/proc/{engine.pid}/maps").read_text()


async def test_chdb_is_never_loaded_into_the_daemon(engine: SharedEngine) -> None:
    assert not any(name.partition(".")[0] == "chdb" for name in sys.modules)


async def test_an_engine_runs_once(engine: SharedEngine) -> None:
    with pytest.raises(Conflict):
        await engine.run()


@pytest.mark.slow
async def test_a_folder_in_use_is_a_clear_error(engine: SharedEngine) -> None:
    with pytest.raises(ConfigError, match="is in use by another process") as caught:
        await LocalEngine(engine.path).run()
    assert str(engine.path) in caught.value.message


@pytest.mark.slow
async def test_a_crash_fails_the_query_and_the_next_one_finds_the_data(tmp_path: Path) -> None:
    async with _supervised(tmp_path) as engine:
        await engine.execute("CREATE DATABASE syndb")
        await engine.execute("CREATE TABLE syndb.t (a UInt8) ENGINE = MergeTree ORDER BY a")
        await engine.execute("INSERT INTO syndb.t VALUES (1), (2)")
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


@pytest.mark.slow
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
