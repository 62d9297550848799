"""A disk that fills up at any moment of an upload: an error that says so, nothing half-done, and then it goes on."""

# ruff: noqa: ASYNC110 - other processes change what is waited for

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.engine.published import versions
from syndb_common.errors import DataError, EngineUnavailable
from syndb_common.flight.uploader import delete, upload
from syndb_common.flight.uploads import Abort, PublishResult, Put
from tests.syndb_common.flight.dying import STAGES, harm, mortal_interpreter, stopped
from tests.syndb_common.flight.uploading import (
    METADATA,
    WORM,
    RawClient,
    content_hash_of,
    kill,
    neurons,
    restarted_engine,
    rows,
    tables_of,
    target_of,
)

pytestmark = pytest.mark.slow

MEGABYTE = 1024**2
ROWS = 100_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount a small file system: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
async def living(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalEngine]:
    monkeypatch.setattr(sys, "executable", str(mortal_interpreter(tmp_path)))
    async with restarted_engine(small_disk) as engine:
        yield engine


def _fill(disk: Path) -> None:
    """Use all of the disk, to the last byte."""
    with (disk / "filler").open("wb", buffering=0) as file:
        piece = bytes(MEGABYTE)
        try:
            while True:
                file.write(piece)
        except OSError:
            return


def _make_room(disk: Path) -> None:
    (disk / "filler").unlink()


Told = Callable[[str, int, int], None]


async def _upload(
    engine: LocalEngine, what: int | Mapping[str, pa.Table], key: UUID, told: Told | None = None
) -> PublishResult:
    tables = {"neurons": neurons(what, ROWS)} if isinstance(what, int) else what
    patience = 1 if isinstance(what, int) else 0
    return await trio.to_thread.run_sync(
        lambda: upload(target_of(engine), METADATA, WORM, tables, told, key=key, patience=patience)
    )


async def test_a_full_disk_is_told_and_the_same_upload_goes_on_when_there_is_room(
    living: LocalEngine, small_disk: Path
) -> None:
    published = [await _upload(living, 1, uuid4())]
    sent: list[int] = []

    def fill_at(full: int) -> Told:
        def told(table: str, done: int, total: int) -> None:
            sent.append(done)
            if done >= full:
                _fill(small_disk)

        return told

    _fill(small_disk)
    with pytest.raises(EngineUnavailable, match="disk of the engine is full") as caught:  # before it begins
        await _upload(living, 2, key := uuid4())
    assert "make room" in caught.value.hint
    _make_room(small_disk)
    published.append(await _upload(living, 2, key))

    with pytest.raises(EngineUnavailable, match="disk of the engine is full"):  # before it is published
        await _upload(living, 3, key := uuid4(), fill_at(ROWS))
    assert [each.version for each in await versions(living)] == [1, 2]
    assert await rows(living, "SELECT count() AS n FROM syndb.neurons WHERE version = 3") == [{"n": 0}]
    await kill(living)
    _make_room(small_disk)
    sent.clear()
    published.append(await _upload(living, 3, key, fill_at(10 * ROWS)))
    assert sent == []  # all rows had been kept

    with RawClient(target_of(living)) as client:  # between two batches
        put = Put(upload_id=client.begin("neurons"), table="neurons", stream=uuid4())
        client.put(put, [(0, neurons(0, 10))])
        _fill(small_disk)
        with pytest.raises(EngineUnavailable, match="disk of the engine is full"):
            client.put(put, [(1, neurons(10, 10))])
        _make_room(small_disk)
        assert client.put(put, [(1, neurons(10, 10))]) == [(1, 10)]
        _fill(small_disk)
        client.act(Abort(upload_id=put.upload_id))  # which gives room back
        _make_room(small_disk)
    assert await rows(living, "SELECT name FROM system.tables WHERE database = 'syndb_staging'") == []
    assert [each.content_hash for each in published] == [
        await content_hash_of(living, WORM, version) for version in (1, 2, 3)
    ]


async def test_a_disk_that_another_program_fills_while_rows_are_written_damages_nothing(
    living: LocalEngine, small_disk: Path
) -> None:
    published = [await _upload(living, 1, uuid4())]
    for number, delay in enumerate((0.0, 0.05, 0.1), start=2):

        def told(table: str, done: int, total: int, delay: float = delay) -> None:
            if done < total:
                time.sleep(delay)
                _fill(small_disk)

        with pytest.raises((EngineUnavailable, DataError), match=r"disk of the engine is full|damaged"):
            await _upload(living, number, key := uuid4(), told)
        _make_room(small_disk)
        published.append(await _upload(living, number, key))
    assert [(each.version, each.content_hash) for each in published] == [
        (version, await content_hash_of(living, WORM, version)) for version in range(1, 5)
    ]


AT = ("hashing", "marks half off", "half in place", "in place", "commit row", "committed")


async def test_a_disk_that_fills_up_while_a_version_is_put_in_place_loses_nothing_and_says_so(
    living: LocalEngine, small_disk: Path
) -> None:
    published: list[PublishResult] = []

    async def refused(number: int, key: UUID) -> None:
        with pytest.raises((EngineUnavailable, DataError), match=r"disk of the engine is full|damaged"):
            await _upload(living, tables_of(number), key)

    for number, name in enumerate(AT, start=1):
        key, pid = uuid4(), living.pid
        assert living.path is not None
        assert pid is not None
        harm(living.path, STAGES[name], signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused, number, key)
            with trio.fail_after(60):
                while not stopped(pid):
                    await trio.sleep(0.02)
            _fill(small_disk)
            os.kill(pid, signal.SIGCONT)
        made = number if name == "committed" else number - 1  # what is there stays, also before its publisher hears
        assert [each.version for each in await versions(living)] == list(range(1, made + 1))
        _make_room(small_disk)
        published.append(await _upload(living, tables_of(number), key))
    await kill(living)
    assert [(each.version, each.content_hash) for each in published] == [
        (version, await content_hash_of(living, WORM, version)) for version in range(1, len(AT) + 1)
    ]
    assert [each.version for each in await versions(living)] == list(range(1, len(AT) + 1))
    audit = await rows(living, "SELECT version FROM syndb_records.changes WHERE what = 'published' ORDER BY version")
    assert [entry["version"] for entry in audit] == list(range(1, len(AT) + 1))


async def test_a_deletion_on_a_full_disk_is_refused_or_finished_when_there_is_room(
    living: LocalEngine, small_disk: Path
) -> None:
    for number in (1, 2):
        await _upload(living, number, uuid4())
    _fill(small_disk)
    await kill(living)
    assert [each.version for each in await versions(living)] == [1, 2]
    with pytest.raises(EngineUnavailable, match="disk of the engine is full"):
        await trio.to_thread.run_sync(lambda: delete(target_of(living), WORM, 2))
    await kill(living)
    _make_room(small_disk)
    assert (await trio.to_thread.run_sync(lambda: delete(target_of(living), WORM, 2))).versions == (2,)
    assert [each.version for each in await versions(living)] == [1]
    assert await rows(living, "SELECT DISTINCT version FROM syndb.neurons") == [{"version": 1}]
