"""Every format, read back by readers that are not ours."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syndb_common.exporting import ROWS_PER_BATCH, FileFormat, read_batches, write_rows

SCHEMA = pa.schema(
    [
        ("cid", pa.binary(16)),
        ("root_id", pa.uint64()),
        ("cleft_score", pa.int32()),
        ("mesh_volume", pa.float64()),
        ('name, "quoted"\nand broken', pa.string()),
        ("side", pa.string()),
    ]
)
ROWS = st.lists(
    st.tuples(
        st.none() | st.binary(min_size=16, max_size=16),
        st.none() | st.integers(0, 2**64 - 1),
        st.none() | st.integers(-(2**31), 2**31 - 1),
        st.none() | st.floats(allow_nan=False),
        st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        st.sampled_from(["left", "right", ""]),
    ),
    max_size=40,
)
CUTS = st.lists(st.integers(0, 40), max_size=4)


def batches(rows: list[tuple[Any, ...]], cuts: list[int]) -> list[pa.RecordBatch]:
    """The rows in batches that end where told, empty ones among them."""
    ends = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    return [
        pa.RecordBatch.from_arrays(
            [pa.array([row[index] for row in rows[first:last]], field.type) for index, field in enumerate(SCHEMA)],
            schema=SCHEMA,
        )
        for first, last in itertools.pairwise(ends)
    ]


def written(form: FileFormat, rows: list[tuple[Any, ...]], cuts: list[int]) -> bytes:
    sink = io.BytesIO()
    assert write_rows(form, sink, SCHEMA, batches(rows, cuts)) == len(rows)
    return sink.getvalue()


def table_rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@settings(deadline=None, max_examples=60)
@given(ROWS, CUTS)
def test_an_arrow_file_holds_the_rows_however_they_came(rows: list[tuple[Any, ...]], cuts: list[int]) -> None:
    table = pa.ipc.open_file(written(FileFormat.ARROW, rows, cuts)).read_all()
    assert table.schema == SCHEMA
    assert table_rows(table) == rows


@settings(deadline=None, max_examples=60)
@given(ROWS, CUTS)
def test_a_parquet_file_holds_the_rows_however_they_came(rows: list[tuple[Any, ...]], cuts: list[int]) -> None:
    table = pa.parquet.read_table(io.BytesIO(written(FileFormat.PARQUET, rows, cuts)))
    assert table.schema == SCHEMA
    assert table_rows(table) == rows


@settings(deadline=None, max_examples=60)
@given(ROWS, CUTS)
def test_csv_holds_the_rows_as_text_and_missing_values_as_nothing(rows: list[tuple[Any, ...]], cuts: list[int]) -> None:
    text = written(FileFormat.CSV, rows, cuts).decode()
    header, *lines = csv.reader(io.StringIO(text, newline=""))
    assert header == SCHEMA.names
    expected = [
        ["" if value is None else str(UUID(bytes=value)) if isinstance(value, bytes) else value for value in row]
        for row in rows
    ]
    assert [[*line[:3], line[4:]] for line in lines] == [
        [*(str(value) for value in row[:3]), row[4:]] for row in expected
    ]
    assert [line[3] and float(line[3]) for line in lines] == [row[3] for row in expected]


def test_a_missing_text_and_an_empty_one_differ_in_csv() -> None:
    schema = pa.schema([("name", pa.string()), ("n", pa.int8())])
    batch = pa.RecordBatch.from_arrays([pa.array([None, ""]), pa.array([1, None], pa.int8())], schema=schema)
    sink = io.BytesIO()
    write_rows(FileFormat.CSV, sink, schema, [batch])
    assert sink.getvalue() == b'name,n\n,1\n"",\n'


@pytest.mark.parametrize("kind", [pa.binary(16), pa.uuid()])
def test_ids_are_text_in_csv_also_in_a_slice(kind: pa.DataType) -> None:
    ids = [uuid4() for _ in range(5)]
    stored = pa.array([None if n == 3 else id.bytes for n, id in enumerate(ids)], pa.binary(16))
    column = pa.ExtensionArray.from_storage(kind, stored) if kind == pa.uuid() else stored
    batch = pa.RecordBatch.from_arrays([column], names=["cid"]).slice(2, 3)
    sink = io.BytesIO()
    write_rows(FileFormat.CSV, sink, batch.schema, [batch])
    assert sink.getvalue().decode() == f'cid\n"{ids[2]}"\n\n"{ids[4]}"\n'


@pytest.mark.parametrize("form", FileFormat)
def test_categories_whose_dictionaries_differ_are_text(form: FileFormat) -> None:
    pieces = [pa.array(words).dictionary_encode() for words in (["a", "b"], ["c", None], ["b"])]
    schema = pa.schema([("side", pieces[0].type)])
    sink = io.BytesIO()
    write_rows(form, sink, schema, [pa.RecordBatch.from_arrays([each], schema=schema) for each in pieces])
    content = sink.getvalue()
    found = {
        FileFormat.ARROW: lambda: pa.ipc.open_file(content).read_all()["side"].to_pylist(),
        FileFormat.PARQUET: lambda: pa.parquet.read_table(io.BytesIO(content))["side"].to_pylist(),
        FileFormat.CSV: lambda: [line.strip('"') or None for line in content.decode().splitlines()[1:]],
    }[form]()
    assert found == ["a", "b", "c", None, "b"]


@pytest.mark.parametrize("form", FileFormat)
def test_no_rows_make_a_file_that_names_its_columns(form: FileFormat) -> None:
    content = written(form, [], [])
    names = {
        FileFormat.ARROW: lambda: pa.ipc.open_file(content).schema.names,
        FileFormat.PARQUET: lambda: pa.parquet.read_schema(io.BytesIO(content)).names,
        FileFormat.CSV: lambda: next(csv.reader(io.StringIO(content.decode(), newline=""))),
    }[form]()
    assert names == SCHEMA.names


def many(count: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, count, 1000):
        yield pa.RecordBatch.from_pydict({"n": pa.array(range(start, start + 1000), pa.uint64())})


@pytest.mark.parametrize("form", FileFormat)
def test_memory_does_not_grow_with_the_number_of_rows(form: FileFormat) -> None:
    class Nowhere(io.RawIOBase):
        most = 0

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.most = max(self.most, pa.total_allocated_bytes())
            return memoryview(data).nbytes

    def most(rows: int) -> int:
        sink, before = Nowhere(), pa.total_allocated_bytes()
        write_rows(form, sink, pa.schema([("n", pa.uint64())]), many(rows))
        return sink.most - before

    few = most(4 * ROWS_PER_BATCH // 1000 * 1000)
    assert most(40 * ROWS_PER_BATCH // 1000 * 1000) < 2 * few


@pytest.mark.parametrize("read", range(5))
def test_an_interrupted_reader_goes_on_at_the_batch_it_had_reached(tmp_path: Path, read: int) -> None:
    path = tmp_path / "rows.arrow"
    with path.open("wb") as file:
        write_rows(FileFormat.ARROW, file, pa.schema([("n", pa.uint64())]), many(200_000))
    schema, begun = read_batches(path)
    seen = [next(begun) for _ in range(read)]
    _, rest = read_batches(path, read)
    assert pa.Table.from_batches([*seen, *rest], schema)["n"].to_pylist() == list(range(200_000))
