"""Rows on their way into ClickHouse, as the bytes of an Arrow stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa


class Content:
    """Batches as the pieces of one Arrow stream.

    Attributes:
        rows: in the pieces so far.
    """

    def __init__(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        self._schema = schema
        self._batches = batches
        self.rows = 0

    def pieces(self) -> Iterator[bytes]:
        """The bytes, as soon as there are any."""
        sink = _Sink()
        with pa.ipc.new_stream(sink, self._schema) as writer:
            for batch in self._batches:
                writer.write_batch(batch)
                self.rows += batch.num_rows
                yield from sink.take()
        yield from sink.take()


class _Sink:
    """The file Arrow writes a stream to; what was written waits to be taken."""

    closed = False

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def take(self) -> list[bytes]:
        written, self._written = self._written, []
        return written

    def write(self, data: Any) -> int:
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """What was written can still be taken."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False
