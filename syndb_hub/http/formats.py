"""The formats of a result, and rows as JSON, made batch by batch in threads: memory stays bounded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import trio

from syndb_common import exporting
from syndb_common.exporting import ExportFormat
from syndb_common.exporting.text import as_text


class Format(StrEnum):
    """How rows can be downloaded."""

    ARROW = "arrow"
    CSV = "csv"
    PARQUET = "parquet"
    ARCHIVE = "tar.xz"
    JSON = "json"


MEDIA_TYPES = {
    **{Format(form.value): form.media_type for form in ExportFormat},
    Format.JSON: "application/json",
}

EXACT_INTEGER = 2**53 - 1
"""Beyond it, up and down, JSON readers that know only doubles, as browsers do, take one integer for another."""

_converting = trio.CapacityLimiter(4)


async def json_stream(file: Path) -> AsyncIterator[bytes]:
    """The rows of an Arrow IPC file as JSON, chunk by chunk."""
    chunks = _json(file)
    while (chunk := await trio.to_thread.run_sync(next, chunks, None, limiter=_converting)) is not None:
        if chunk:
            yield chunk


def _json(file: Path) -> Iterator[bytes]:
    schema, batches = exporting.read_batches(file)
    columns = [{"name": field.name, "type": str(field.type)} for field in schema]
    too_large = _too_large(file)
    yield b'{"columns":%s,"rows":[' % json.dumps(columns).encode()
    separator = b""
    for batch in batches:
        if batch.num_rows:
            texts = [
                column.cast(pa.string()) if index in too_large else _finite(column)
                for index, column in enumerate(as_text(batch, nested=False).columns)
            ]
            rows = list(zip(*(column.to_pylist() for column in texts), strict=True))
            yield separator + json.dumps(rows, default=str, ensure_ascii=False)[1:-1].encode()
            separator = b","
    yield b"]}"


def _too_large(file: Path) -> set[int]:
    """Indexes of the columns with integers that JSON readers may round: all their values go as strings."""
    schema, batches = exporting.read_batches(file)
    wide = [index for index, field in enumerate(schema) if field.type in (pa.int64(), pa.uint64())]
    found = set()
    for batch in batches if wide else ():
        for index in wide:
            ends = pc.min_max(batch.column(index)).as_py()
            if ends["max"] is not None and max(ends["max"], -ends["min"]) > EXACT_INTEGER:
                found.add(index)
    return found


def _finite(column: pa.Array) -> pa.Array:
    """JSON has neither NaN nor infinity: they become null, as missing values are."""
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_finite(column), column, None)
