"""Result files in the formats users ask for, converted batch by batch in threads: memory stays bounded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Iterator
from enum import StrEnum
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import trio


class Format(StrEnum):
    """How rows can be downloaded."""

    ARROW = "arrow"
    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"


MEDIA_TYPES = {
    Format.ARROW: "application/vnd.apache.arrow.file",
    Format.CSV: "text/csv; charset=utf-8",
    Format.PARQUET: "application/vnd.apache.parquet",
    Format.JSON: "application/json",
}

EXACT_INTEGER = 2**53 - 1
"""Beyond it, up and down, JSON readers that know only doubles, as browsers do, take one integer for another."""

_converting = trio.CapacityLimiter(4)


async def stream(file: Path, format: Format) -> AsyncIterator[bytes]:
    """The rows of an Arrow IPC file in another format, chunk by chunk."""
    chunks = {Format.CSV: _csv, Format.PARQUET: _parquet, Format.JSON: _json}[format](file)
    while (chunk := await trio.to_thread.run_sync(next, chunks, None, limiter=_converting)) is not None:
        if chunk:
            yield chunk


class _Sink(io.RawIOBase):
    """A file that can be written only, and emptied while it is."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        self._written += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._written

    def take(self) -> bytes:
        """What was written since the last call."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def _batches(reader: pa.ipc.RecordBatchFileReader) -> Iterator[pa.RecordBatch]:
    return (reader.get_batch(index) for index in range(reader.num_record_batches))


def _csv(file: Path) -> Iterator[bytes]:
    with pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        sink = _Sink()
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(reader.schema.names)  # pyarrow would quote every name
        yield header.getvalue().encode()
        schema = _textual(reader.schema.empty_table(), nested=True).schema
        with pa.csv.CSVWriter(sink, schema, write_options=pa.csv.WriteOptions(include_header=False)) as writer:
            for batch in _batches(reader):
                writer.write_table(_textual(pa.Table.from_batches([batch]), nested=True))
                yield sink.take()
        yield sink.take()


def _parquet(file: Path) -> Iterator[bytes]:
    with pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        sink = _Sink()
        with pa.parquet.ParquetWriter(sink, reader.schema, compression="zstd") as writer:
            for batch in _batches(reader):
                writer.write_batch(batch)
                yield sink.take()
        yield sink.take()


def _json(file: Path) -> Iterator[bytes]:
    with pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        columns = [{"name": field.name, "type": str(field.type)} for field in reader.schema]
        too_large = _too_large(reader)
        yield b'{"columns":%s,"rows":[' % json.dumps(columns).encode()
        separator = b""
        for batch in _batches(reader):
            if batch.num_rows:
                table = _textual(pa.Table.from_batches([batch]), nested=False)
                for index in too_large:
                    table = table.set_column(index, table.field(index).name, table.column(index).cast(pa.string()))
                rows = list(zip(*(_finite(column).to_pylist() for column in table.columns), strict=True))
                yield separator + json.dumps(rows, default=str, ensure_ascii=False)[1:-1].encode()
                separator = b","
        yield b"]}"


def _too_large(reader: pa.ipc.RecordBatchFileReader) -> set[int]:
    """Indexes of the columns with integers that JSON readers may round: all their values go as strings."""
    found = set()
    wide = [index for index, field in enumerate(reader.schema) if field.type in (pa.int64(), pa.uint64())]
    for batch in _batches(reader) if wide else ():
        for index in wide:
            ends = pc.min_max(batch.column(index)).as_py()
            if ends["max"] is not None and max(ends["max"], -ends["min"]) > EXACT_INTEGER:
                found.add(index)
    return found


def _finite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """JSON has neither NaN nor infinity: they become null, as missing values are."""
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_finite(column), column, None)


def _textual(table: pa.Table, *, nested: bool) -> pa.Table:
    """The table with ids and bytes as text, dictionaries decoded and, for CSV, nested values as JSON."""
    for index, field in enumerate(table.schema):
        column = table.column(index)
        if pa.types.is_dictionary(field.type):
            column = column.cast(field.type.value_type)
        if pa.types.is_fixed_size_binary(column.type) and column.type.byte_width == 16:
            column = _as_text(column, lambda value: str(UUID(bytes=value)))
        elif pa.types.is_binary(column.type) or pa.types.is_fixed_size_binary(column.type):
            column = _as_text(column, bytes.hex)
        elif nested and pa.types.is_nested(column.type):
            column = _as_text(column, lambda value: json.dumps(value, default=str))
        if column is not table.column(index):
            table = table.set_column(index, field.name, column)
    return table


def _as_text(column: pa.ChunkedArray, convert: object) -> pa.ChunkedArray:
    assert callable(convert)
    values = [None if value is None else convert(value) for value in column.to_pylist()]
    return pa.chunked_array([pa.array(values, pa.string())])
