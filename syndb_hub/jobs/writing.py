"""Writing one result while it comes in: an Arrow IPC file beside its place, which counts when it is complete.

Parts of a result write their batches into one file side by side, each as it comes. When a part breaks off, or only
some of the rows are wanted, the file is written again without the others: that is rare, and costs no more than a copy.
A result in order is always written again, merged from its parts (:mod:`.merging`): so a part that is slow or breaks off
late spoils nothing and holds nobody up, and a batch of each part is all that is held.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import trio

from syndb_common.errors import Cancelled, DataError, LimitExceeded, Unavailable
from syndb_hub.jobs.live import Live
from syndb_hub.jobs.merging import Order, Place, merged
from syndb_hub.store.jobs import StoredResult

ROWS_PER_BATCH = 65_536
"""Rows of a record batch in a result file: what a reader has to hold at a time."""
ROWS_TO_MERGE = 8_192
"""Rows of a record batch that waits to be merged: what is held of each part, about a megabyte."""


class ResultWriter:
    """The result of one job, being written. Implements :class:`syndb_hub.federation.rows.Rows`.

    Args:
        path: where it is written; not yet its place.
        max_bytes: how large it may become.
        limiter: of the threads that write.
        live: says how far its reader is, when it is read while it is written.
    """

    def __init__(self, path: Path, *, max_bytes: int, limiter: trio.CapacityLimiter, live: Live | None = None) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._limiter = limiter
        self._live = live
        self._file: _Hashed | None = None
        self._writer: Any = None
        self._schema: pa.Schema | None = None
        self._order: Order | None = None
        self._reached: dict[int, Place] = {}
        self._parts: list[int] = []
        self._dropped: set[int] = set()
        self._rows = 0
        self._given_up = False
        self._lock = threading.Lock()

    def open(self, schema: pa.Schema, descending: tuple[bool, ...] = ()) -> None:
        """See the protocol.

        Raises:
            Unavailable: the folder cannot be written.
        """
        with self._lock, _disk():
            self._order = Order(schema, descending) if descending else None
            self._open(self._path, schema)
        if self._live is not None:
            self._live.begin(self._path, schema)

    def add(self, part: int, batch: pa.RecordBatch) -> None:
        """See the protocol.

        Raises:
            Cancelled: the part was dropped, or the result was given up.
            DataError: the rows do not come in the order that was said.
            LimitExceeded: the result is larger than one may be.
            Unavailable: the disk does not take it.
        """
        most = ROWS_PER_BATCH if self._order is None else ROWS_TO_MERGE
        for start in range(0, batch.num_rows, most):
            piece = batch.slice(start, most)
            if self._order is not None:
                self._check_order(self._order, part, piece)
            if self._live is not None:
                self._live.wait(part, piece.nbytes)
            with self._lock, _disk():
                if self._writer is None or part in self._dropped:
                    raise Cancelled("nobody waits for these rows any more")
                self._put(part, piece)

    def drop(self, part: int) -> None:
        """See the protocol."""
        with self._lock:
            self._dropped.add(part)
        if self._live is not None:
            self._live.drop(part)

    def holds(self, part: int) -> bool:
        """See the protocol."""
        return self._live is not None and self._live.holds(part)

    async def select(self, offset: int, limit: int | None) -> int:
        """See the protocol."""
        try:
            return await trio.to_thread.run_sync(
                self._select, offset, limit, abandon_on_cancel=True, limiter=self._limiter
            )
        except trio.Cancelled:
            self._given_up = True
            raise

    async def write(self, table: pa.Table) -> int:
        """See the protocol."""

        def put() -> int:
            if table.nbytes > self._max_bytes:
                raise too_large(table.nbytes, self._max_bytes)
            self.open(table.schema)
            if self._live is not None:
                self._live.end()  # there is nothing ahead to hold back
            for batch in table.to_batches():
                self.add(0, batch)
            return int(table.num_rows)

        return await trio.to_thread.run_sync(put, limiter=self._limiter)

    def finish(self) -> StoredResult:
        """The file is complete and on the disk; blocks.

        Raises:
            LimitExceeded, Unavailable: it is not.
        """
        with self._lock, _disk():
            assert self._file is not None
            self._writer.close()
            self._writer = None
            self._file.sync()
            self._file.close()
            if self._file.size > self._max_bytes:
                raise too_large(self._file.size, self._max_bytes)
            return StoredResult(self._file.size, self._file.digest)

    def abandon(self) -> None:
        """Take no more, and leave no file; blocks. Safe to repeat, also after :meth:`finish`."""
        if self._live is not None:
            self._live.end()
        with self._lock:
            self._close()
            with suppress(OSError):  # what cannot be removed now is when the hub starts
                self._path.unlink(missing_ok=True)

    def _open(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._parts, self._rows = schema, [], 0
        self._file = _Hashed(path)
        self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), schema)

    def _put(self, part: int, batch: pa.RecordBatch) -> None:
        assert self._file is not None
        if self._given_up:
            raise Cancelled("nobody waits for this result any more")
        self._writer.write_batch(batch)
        self._parts.append(part)
        self._rows += batch.num_rows
        if self._file.size > self._max_bytes:
            raise too_large(self._file.size, self._max_bytes)

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError, pa.ArrowException):  # what it still had to write is of no use to anybody
                writer.close()
        if self._file is not None:
            self._file.close()

    def _check_order(self, order: Order, part: int, batch: pa.RecordBatch) -> None:
        """What is foreign is merged only when it is in order: otherwise the answer would not be."""
        reached, first = self._reached.get(part), order.place(batch, 0)
        if (reached is not None and first < reached) or not order.is_sorted(batch):
            raise DataError("its rows are not in the order that was asked for")
        self._reached[part] = order.place(batch, batch.num_rows - 1)

    def _select(self, offset: int, limit: int | None) -> int:
        with self._lock, _disk():
            whole = not self._dropped and not offset and (limit is None or self._rows <= limit)
            if self._order is None and whole:
                return self._rows
            parts, schema = self._parts, self._schema
            self._writer.close()
            self._close()
            everything = self._path.with_suffix(".all.part")
            self._path.replace(everything)
            try:
                self._open(self._path, schema if self._order is None else self._order.answer)
                # Not mapped into memory: pages that were read would count as this process's.
                with pa.OSFile(str(everything)) as source:
                    for batch in _between(self._wanted(pa.ipc.open_file(source), parts), offset, limit):
                        for start in range(0, batch.num_rows, ROWS_PER_BATCH):
                            self._put(0, batch.slice(start, ROWS_PER_BATCH))
            finally:
                everything.unlink()
            return self._rows

    def _wanted(self, reader: Any, parts: list[int]) -> Iterator[pa.RecordBatch]:
        """The batches of the parts that are complete, in order where there is one."""
        places: dict[int, list[int]] = {}
        for place, part in enumerate(parts):
            if part not in self._dropped:
                places.setdefault(part if self._order else 0, []).append(place)
        read = [map(reader.get_batch, found) for found in places.values()]
        if self._order is None:
            return chain.from_iterable(read)
        return map(self._order.without, merged(read, self._order))


def too_large(size: int, most: int) -> LimitExceeded:
    """What the owner of a job is told whose result does not fit."""
    return LimitExceeded(
        f"the result has {size:,} bytes or more; a job may keep {most:,}",
        hint="Select fewer columns or rows, aggregate, or raise jobs.max_result_bytes on the hub.",
        bytes=size,
        limit=most,
    )


class _Hashed:
    """A file that is hashed as it is written."""

    closed = False

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.size += len(view)
        rest = view
        while rest:
            rest = rest[self._file.write(rest) :]
        return len(view)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._file.close()
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def _between(batches: Iterator[pa.RecordBatch], offset: int, limit: int | None) -> Iterator[pa.RecordBatch]:
    """The rows after the first ``offset``, at most ``limit``."""
    left = limit
    for batch in batches:
        skipped = min(offset, batch.num_rows)
        offset -= skipped
        rows = batch.num_rows - skipped if left is None else min(left, batch.num_rows - skipped)
        if rows:
            yield batch.slice(skipped, rows)
        if left is not None:
            left -= rows
            if not left:
                return


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"the result cannot be stored: {error.strerror or error}", hint="Check free space on the hub's disk."
        ) from error
