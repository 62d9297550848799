"""A disk that fills up while rows are inserted: a clear error, nothing half-done, and then it works."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.engine.published import versions
from syndb_common.errors import SynDBError
from syndb_common.flight.uploader import upload
from syndb_common.flight.uploads import PublishResult
from tests.syndb_common.flight.uploading import METADATA, WORM, neurons, restarted_engine, rows, target_of

pytestmark = pytest.mark.slow

MEGABYTE = 1024**2


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
async def living(small_disk: Path) -> AsyncIterator[LocalEngine]:
    async with restarted_engine(small_disk) as engine:
        yield engine


def _fill(disk: Path, leave: int) -> Path:
    filler = disk / "filler"
    free = int(
        subprocess.run(["df", "-B1", "--output=avail", str(disk)], capture_output=True, check=True).stdout.split()[1]
    )
    with filler.open("wb") as file:
        for _ in range(max(free - leave, 0) // MEGABYTE):
            file.write(bytes(MEGABYTE))
    return filler


async def _upload(engine: LocalEngine, first: int) -> PublishResult:
    tables = {"neurons": neurons(first, 300_000)}
    return await trio.to_thread.run_sync(lambda: upload(target_of(engine), METADATA, WORM, tables, patience=5))


async def test_a_disk_that_is_full_loses_nothing_and_shows_nothing_half_done(
    living: LocalEngine, small_disk: Path
) -> None:
    first = await _upload(living, 0)
    filler = _fill(small_disk, MEGABYTE)
    with pytest.raises(SynDBError):
        await _upload(living, 1)
    assert [each.content_hash for each in await versions(living)] == [first.content_hash]
    assert await rows(living, "SELECT count() AS n FROM syndb.neurons WHERE version = 1") == [{"n": 300_000}]
    filler.unlink()
    second = await _upload(living, 1)
    assert (second.version, second.unchanged) == (2, False)
    assert await rows(living, "SELECT version, count() AS n FROM syndb.neurons GROUP BY 1 ORDER BY 1") == [
        {"version": 1, "n": 300_000},
        {"version": 2, "n": 300_000},
    ]
