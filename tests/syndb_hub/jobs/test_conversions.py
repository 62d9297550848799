"""Results in other formats, where the disk is full and where a hub was killed while it made them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest
import trio

from syndb_common.errors import SynDBError, Unavailable
from syndb_common.exporting import ExportFormat
from syndb_hub.jobs.conversions import Conversions
from syndb_hub.jobs.results import ResultFiles
from syndb_hub.store.jobs import Job, JobStatus, StoredResult
from tests.small_disk import enlarge, small_disk


def job() -> Job:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Job(uuid4(), "somebody", JobStatus.COMPLETED, "SELECT n FROM t", None, None, "any", now, finished_at=now)


ROWS = pa.table({"text": [f"{number * 7919:016x}" for number in range(20_000)]})


async def kept(results: ResultFiles, of: Job, rows: pa.Table = ROWS) -> StoredResult:
    await results.prepare([])
    async with results.writing(of.id) as writer:
        await writer.write(rows)
        return await results.keep(of.id, writer)


@pytest.mark.parametrize("form", [ExportFormat.CSV, ExportFormat.PARQUET, ExportFormat.ARCHIVE])
async def test_a_full_disk_is_said_leaves_nothing_and_then_it_works(tmp_path: Path, form: ExportFormat) -> None:
    results, one = ResultFiles(tmp_path / "results", max_result_bytes=10**8), job()
    stored = await kept(results, one)
    with small_disk(tmp_path / "disk", 40) as disk:
        conversions = Conversions(disk / "converted", results, max_bytes=10**9)
        async with trio.open_nursery() as nursery:
            await nursery.start(conversions.run, [one.id])
            with pytest.raises(Unavailable, match="No space left on device"):
                await conversions.get(one, stored, form)
            assert list((disk / "converted").iterdir()) == []
            enlarge(disk, 5000)
            exported = await conversions.get(one, stored, form)
            assert [exported.path] == list((disk / "converted").iterdir())
            nursery.cancel_scope.cancel()


async def test_values_that_a_format_has_no_word_for_cost_nobody_else_his_result(tmp_path: Path) -> None:
    results, one = ResultFiles(tmp_path / "results", max_result_bytes=10**8), job()
    stored = await kept(results, one, pa.table({"age": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}))
    conversions = Conversions(tmp_path / "converted", results, max_bytes=10**9)
    async with trio.open_nursery() as nursery:
        await nursery.start(conversions.run, [one.id])
        with pytest.raises(SynDBError, match="cannot be made csv"):
            await conversions.get(one, stored, ExportFormat.CSV)
        assert (await conversions.get(one, stored, ExportFormat.ARROW)).sha256 == stored.sha256
        nursery.cancel_scope.cancel()


async def test_what_a_killed_hub_had_begun_is_gone_and_made_again(tmp_path: Path) -> None:
    results, one = ResultFiles(tmp_path / "results", max_result_bytes=10**8), job()
    stored = await kept(results, one)
    folder = tmp_path / "converted"
    folder.mkdir()
    for name in ("csv.converting.part", "csv.converting", "tar.xz.converting.part", "rows.parquet.converting"):
        (folder / f"{one.id}.{name}").write_text("half")
    (folder / f"{uuid4()}.{'0' * 64}.csv").write_text("of a result that is not kept any more")
    conversions = Conversions(folder, results, max_bytes=10**9)
    async with trio.open_nursery() as nursery:
        await nursery.start(conversions.run, [one.id])
        assert list(folder.iterdir()) == []
        exported = await conversions.get(one, stored, ExportFormat.CSV)
        assert len(exported.path.read_text().splitlines()) == 20_001
        nursery.cancel_scope.cancel()
