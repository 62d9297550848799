"""Parts in order become one result in order, the one that a single ClickHouse would give."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.errors import DataError
from syndb_hub.jobs import writing
from syndb_hub.jobs.merging import Order
from syndb_hub.jobs.writing import ResultWriter

SCHEMA = pa.schema(
    [("id", pa.int64()), ("number", pa.float64()), ("word", pa.string()), ("count", pa.uint8()), ("flag", pa.bool_())]
)
VALUES: dict[str, list[Any]] = {
    "number": [None, math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -2.5],
    "word": [None, "", "a", "B", "aa", "\u00e9", "z", "\U0001f600"],
    "count": [None, 0, 1, 255],
    "flag": [None, True, False],
}
EXAMPLES = 20


@pytest.fixture
async def clickhouse(nursery: trio.Nursery) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(None, name="reference")
    await nursery.start(engine.run)
    yield engine
    nursery.cancel_scope.cancel()


def writer(folder: Path) -> ResultWriter:
    return ResultWriter(folder / "result.part", max_bytes=10**8, limiter=trio.CapacityLimiter(1))


def written(result: ResultWriter, folder: Path) -> pa.Table:
    result.finish()
    return pa.ipc.open_file(folder / "result.part").read_all()


def some_rows(chance: random.Random, count: int) -> pa.Table:
    rows = [{"id": n, **{name: chance.choice(found) for name, found in VALUES.items()}} for n in range(count)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def with_keys(table: pa.Table, keys: list[str]) -> pa.Table:
    """The rows, and behind them once more what they are ordered by."""
    return pa.table([*table.columns, *(table[key] for key in keys)], [*SCHEMA.names, *(f"__{key}" for key in keys)])


async def test_it_is_what_one_clickhouse_says_of_all_rows_whatever_they_are(
    clickhouse: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ends of numbers, NaN, NULL, text beyond ASCII; both directions; ties across batches and parts."""
    monkeypatch.setattr(writing, "ROWS_TO_MERGE", 3)
    chance = random.Random(4)
    for _ in range(EXAMPLES):
        table = some_rows(chance, chance.choice([0, 1, 20, 60]))
        keys = chance.sample(list(VALUES), chance.randint(1, 3))
        descending = tuple(chance.random() < 0.5 for _ in keys)
        offset, limit = chance.choice([0, 0, 7]), chance.choice([None, None, 0, 9])
        words = ", ".join(f"{key} DESC" if down else key for key, down in zip(keys, descending, strict=True))
        ends = sorted(chance.randint(0, table.num_rows) for _ in range(chance.randint(0, 4)))
        result = writer(tmp_path)
        result.open(with_keys(table, keys).schema, descending)
        for number, (start, end) in enumerate(zip([0, *ends], [*ends, table.num_rows], strict=True)):
            part = (await clickhouse.merge(f"SELECT * FROM partials ORDER BY {words}", table[start:end])).table
            for batch in with_keys(part, keys).combine_chunks().to_batches():
                result.add(number, batch)
        rows = await result.select(offset, limit)
        found = written(result, tmp_path)
        until = "" if limit is None else f" LIMIT {limit}"
        wanted = await clickhouse.merge(f"SELECT * FROM partials ORDER BY {words}{until} OFFSET {offset}", table)
        assert (found.schema, rows) == (SCHEMA, wanted.table.num_rows)
        # Rows that are equal in what they are ordered by may stand either way: compare that, and that each is whole.
        assert ordered_by(found, keys) == ordered_by(wanted.table, keys)
        assert all(repr(row) == repr(table.slice(row["id"], 1).to_pylist()[0]) for row in found.to_pylist())
        assert len(set(found["id"].to_pylist())) == found.num_rows


def ordered_by(table: pa.Table, keys: list[str]) -> list[str]:
    """What rows are ordered by; both zeros are one value."""
    return [repr([0 if value == 0 else value for value in row.values()]) for row in table.select(keys).to_pylist()]


@pytest.mark.parametrize("numbers", [[1, 3, 2], [1, None, 2], [5, 6, 7, 8, 4]])
def test_rows_that_are_not_in_order_are_refused_within_a_batch_and_from_one_to_the_next(
    tmp_path: Path, numbers: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ROWS_TO_MERGE", 4)
    result = writer(tmp_path)
    table = pa.table({"n": pa.array(numbers, pa.int64()), "__n": pa.array(numbers, pa.int64())})
    result.open(table.schema, (False,))
    with pytest.raises(DataError, match="order"):
        result.add(0, table.to_batches()[0])


def test_a_part_that_was_dropped_leaves_no_row_among_the_others(tmp_path: Path) -> None:
    result = writer(tmp_path)
    tables = [pa.table({"n": list(range(part, 30, 3)), "__n": list(range(part, 30, 3))}) for part in range(3)]
    result.open(tables[0].schema, (False,))
    for part, table in enumerate(tables):
        result.add(part, table.to_batches()[0])
    result.drop(1)
    assert trio.run(result.select, 0, None) == 20
    assert written(result, tmp_path)["n"].to_pylist() == [n for n in range(30) if n % 3 != 1]


async def test_whoever_does_not_wait_any_more_ends_it_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(parts: Iterable[Iterator[pa.RecordBatch]], order: Order) -> Iterator[pa.RecordBatch]:
        [part] = parts
        [batch] = part
        while True:
            time.sleep(0.001)
            yield batch

    monkeypatch.setattr(writing, "merged", endless)
    result = writer(tmp_path)
    table = pa.table({"n": [1, 2], "__n": [1, 2]})
    result.open(table.schema, (False,))
    result.add(0, table.to_batches()[0])
    with trio.move_on_after(0.2) as scope:
        await result.select(0, None)
    assert scope.cancelled_caught
    await trio.to_thread.run_sync(result.abandon)  # which waits until the thread has ended
    assert not any(os.scandir(tmp_path))
