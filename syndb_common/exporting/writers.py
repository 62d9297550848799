"""Rows as an Arrow file, a Parquet file or CSV, batch by batch.

| format | ids | categories | missing values | header |
|---|---|---|---|---|
| arrow | as they come | text | null | the schema |
| parquet | as they come | as they come | null | the schema |
| csv | text | text | nothing between the commas; an empty text is ``""`` | names of the columns |
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from syndb_common.exporting.text import as_text, decode, decoded, textual

ROWS_PER_BATCH = 65_536
"""Rows of a record batch or row group in a file: what a writer and a reader have to hold at a time."""


Writable = IO[bytes] | io.RawIOBase


class FileFormat(StrEnum):
    """How rows can be written to a file; the value is how its name ends."""

    ARROW = "arrow"
    CSV = "csv"
    PARQUET = "parquet"


MEDIA_TYPES = {
    FileFormat.ARROW: "application/vnd.apache.arrow.file",
    FileFormat.CSV: "text/csv; charset=utf-8",
    FileFormat.PARQUET: "application/vnd.apache.parquet",
}


def write_rows(form: FileFormat, sink: Writable, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write a stream of batches of this schema as one file; returns the number of its rows. Blocks."""
    batches = map(decode, batches)
    return _WRITERS[form](sink, decoded(schema), _even(decoded(schema), batches))


def read_batches(path: Path, first: int = 0) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema and the batches of an Arrow file, from batch number ``first`` on; batches read are not kept.

    Where reading was interrupted after ``n`` batches, ``first=n`` gives exactly the rest. The file is read and not
    mapped: pages of a mapped one would count as memory of this process for as long as the reader takes.
    """
    with pa.OSFile(str(path)) as source:
        schema = pa.ipc.open_file(source).schema
    return schema, _read(path, first)


def _read(path: Path, first: int) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for index in range(first, reader.num_record_batches):
            yield reader.get_batch(index)


def _even(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of one size; only the last one is smaller."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        at = 0
        while rows + batch.num_rows - at >= ROWS_PER_BATCH:
            piece = batch.slice(at, ROWS_PER_BATCH - rows)
            at += piece.num_rows
            yield _joined(schema, [*held, piece])
            held, rows = [], 0
        if at < batch.num_rows:
            held.append(batch.slice(at))
            rows += batch.num_rows - at
    if rows:
        yield _joined(schema, held)


def _joined(schema: pa.Schema, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches, schema).combine_chunks().to_batches()[0]


def _arrow(sink: Writable, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> int:
    rows = 0
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _parquet(sink: Writable, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> int:
    rows = 0
    with pa.parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _csv(sink: Writable, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> int:
    rows = 0
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(schema.names)  # pyarrow would quote every name
    sink.write(header.getvalue().encode())
    options = pa.csv.WriteOptions(include_header=False)
    with pa.csv.CSVWriter(sink, textual(schema, nested=True), write_options=options) as writer:
        for batch in batches:
            writer.write_batch(as_text(batch, nested=True))
            rows += batch.num_rows
    return rows


_WRITERS: dict[FileFormat, Callable[[Writable, pa.Schema, Iterator[pa.RecordBatch]], int]] = {
    FileFormat.ARROW: _arrow,
    FileFormat.CSV: _csv,
    FileFormat.PARQUET: _parquet,
}
