"""Results while they are written: parts side by side, and nothing of a part that broke off."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from syndb_common.errors import Cancelled, LimitExceeded
from syndb_hub.jobs.writing import ROWS_PER_BATCH, ResultWriter

SCHEMA = pa.schema([("part", pa.int64()), ("n", pa.int64()), ("text", pa.string())])


def batch(part: int, start: int, rows: int) -> pa.RecordBatch:
    numbers = range(start, start + rows)
    return pa.record_batch([[part] * rows, list(numbers), [f"row {n}" for n in numbers]], schema=SCHEMA)


def writer(folder: Path, max_bytes: int = 10**8) -> ResultWriter:
    return ResultWriter(folder / "result.part", max_bytes=max_bytes, limiter=trio.CapacityLimiter(1))


def written(folder: Path) -> pa.Table:
    return pa.ipc.open_file(folder / "result.part").read_all()


@settings(max_examples=40, deadline=None)
@given(
    adds=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=12),
    dropped=st.sets(st.integers(0, 3)),
    offset=st.integers(0, 20),
    limit=st.none() | st.integers(0, 20),
)
def test_what_is_kept_are_the_rows_of_complete_parts_within_offset_and_limit(
    tmp_path_factory: pytest.TempPathFactory,
    adds: list[tuple[int, int]],
    dropped: set[int],
    offset: int,
    limit: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("results")
    result = writer(folder)
    result.open(SCHEMA)
    for number, (part, rows) in enumerate(adds):
        result.add(part, batch(part, 100 * number, rows))
    for part in dropped:
        result.drop(part)
    rows = trio.run(result.select, offset, limit)
    stored = result.finish()
    whole = [
        {"part": part, "n": 100 * number + row, "text": f"row {100 * number + row}"}
        for number, (part, count) in enumerate(adds)
        for row in range(count)
        if part not in dropped
    ]
    expected = whole[offset:] if limit is None else whole[offset : offset + limit]
    assert written(folder).to_pylist() == expected
    assert rows == len(expected)
    content = (folder / "result.part").read_bytes()
    assert (stored.bytes, stored.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert [entry.name for entry in folder.iterdir()] == ["result.part"]


def test_a_part_that_was_dropped_takes_no_more_rows(tmp_path: Path) -> None:
    result = writer(tmp_path)
    result.open(SCHEMA)
    result.drop(1)
    with pytest.raises(Cancelled):
        result.add(1, batch(1, 0, 3))
    result.add(2, batch(2, 0, 3))
    result.abandon()
    with pytest.raises(Cancelled):
        result.add(2, batch(2, 3, 3))
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_becomes_too_large_is_refused_while_it_is_written(tmp_path: Path) -> None:
    result = writer(tmp_path, max_bytes=100_000)
    result.open(SCHEMA)
    result.add(0, batch(0, 0, 1000))
    with pytest.raises(LimitExceeded, match=r"a job may keep 100,000"):
        result.add(0, batch(0, 0, 10_000))
    result.abandon()


def test_readers_never_have_to_hold_more_than_a_stated_number_of_rows(tmp_path: Path) -> None:
    result = writer(tmp_path)
    result.open(SCHEMA)
    result.add(0, batch(0, 0, 2 * ROWS_PER_BATCH + 1))
    result.finish()
    reader = pa.ipc.open_file(tmp_path / "result.part")
    sizes = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
    assert sizes == [ROWS_PER_BATCH, ROWS_PER_BATCH, 1]
