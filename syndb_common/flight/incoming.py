"""The batches of one DoPut as they come, and what its client is told of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any, Self

import pyarrow as pa

from syndb_common.errors import InvalidRequest, LimitExceeded, SynDBError
from syndb_common.flight.requests import parse
from syndb_common.flight.streams import Stream
from syndb_common.flight.uploads import Acknowledged, Mark
from syndb_common.flight.wire import error_record, to_json


class Incoming:
    """Numbers and batches, for one thread to read while another stores them.

    Arrow frees what a call reads from when its handler returns, also under a thread that is still inside it, and that
    ends the process. So the handler uses this in a ``with`` block, which ends when nobody reads any more. Until then a
    silent client may take its time, as long as it may always be silent; it is told why it should end the stream.
    It is not silent while batches of its are being stored: it may wait to hear of them before it sends more.

    Args:
        reader, writer: of the call.
        stream: told when its client is waited for.
        message_bytes: largest batch.
        numbered: whether batches have numbers, and answers; without, each number is None.
    """

    def __init__(self, reader: Any, writer: Any, stream: Stream, message_bytes: int, *, numbered: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._stream = stream
        self._message_bytes = message_bytes
        self._numbered = numbered
        self._reading = threading.Lock()
        self._closed = False
        self._changing = threading.Lock()
        self._reads = False
        self._unstored = 0
        self._waits = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._closed = True
        with self._changing:  # nothing more will be stored
            self._unstored = 0
            self._look()
        if not self._reading.acquire(blocking=False):
            if self._numbered and isinstance(error, SynDBError):
                with suppress(pa.ArrowException, OSError):  # it has gone
                    self._answer(error_record(error))
            self._reading.acquire()
        self._reading.release()  # who comes now sees that it is closed

    def __iter__(self) -> Iterator[tuple[int | None, pa.RecordBatch]]:
        return self

    def __next__(self) -> tuple[int | None, pa.RecordBatch]:
        with self._reading:
            if self._closed:
                raise StopIteration
            chunk = self._read()
        _check_rows(chunk.data, self._message_bytes)  # all else is checked column by column
        if not self._numbered:
            return None, chunk.data
        mark = chunk.app_metadata
        if mark is None:
            raise InvalidRequest("a batch without its number", hint='send {"seq": n} as its application metadata')
        return parse(Mark, mark.to_pybytes()).seq, chunk.data

    def _read(self) -> Any:
        with self._changing:
            self._reads = True
            self._look()
        came = 0
        try:
            chunk = self._reader.read_chunk()
            came = 1
        finally:
            with self._changing:
                self._reads = False
                if not self._closed:
                    self._unstored += came
                self._look()
        return chunk

    def _look(self) -> None:
        """Say anew whether the client is waited for; :attr:`_changing` is held."""
        self._waits.close()
        if self._reads and not self._unstored:
            self._waits.enter_context(self._stream.waiting())

    def stored(self, seq: int | None, rows: int) -> None:
        """A batch is durable: tell the client, if it has a number."""
        if self._numbered and seq is not None:
            self._answer(to_json(Acknowledged(seq=seq, rows=rows)))
        with self._changing:
            self._unstored -= 1
            self._look()

    def _answer(self, said: bytes) -> None:
        with self._stream.waiting():
            self._writer.write(said)


def check_batch(batch: pa.RecordBatch | None, message_bytes: int) -> None:
    """Refuse what is too large, or not what it says it is.

    Raises:
        InvalidRequest: there is no batch.
        LimitExceeded: it has more than ``message_bytes``.
        pa.ArrowInvalid: it is damaged.
    """
    _check_rows(batch, message_bytes).validate(full=True)


def _check_rows(batch: pa.RecordBatch | None, message_bytes: int) -> pa.RecordBatch:
    if batch is None:
        raise InvalidRequest("a message without rows", hint="send what is said of a batch along with it")
    # Its nbytes would believe offsets that nobody has checked.
    if batch.get_total_buffer_size() > message_bytes:
        raise LimitExceeded(f"a batch of more than {message_bytes} bytes", hint="send smaller batches")
    return batch
