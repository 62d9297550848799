"""The batches of an upload as they come: whom the server waits for, and that it stops reading when it is done."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from syndb_common.errors import InvalidRequest
from syndb_common.flight.incoming import Incoming
from syndb_common.flight.settings import FlightLimits
from syndb_common.flight.streams import Stream, Streams

BATCH = pa.record_batch({"source_id": ["a"]})


class _Chunk:
    def __init__(self, seq: int, data: pa.RecordBatch | None) -> None:
        self.data = data
        self.app_metadata = pa.py_buffer(b'{"seq": %d}' % seq)


class _Call:
    """The reader and the writer of a call whose client sends what is put into ``sent``; None ends it."""

    def __init__(self) -> None:
        self.sent: queue.Queue[int | None] = queue.Queue()
        self.rows: pa.RecordBatch | None = BATCH
        self.said: list[bytes] = []

    def read_chunk(self) -> _Chunk:
        seq = self.sent.get(timeout=60)
        if seq is None:
            raise StopIteration
        return _Chunk(seq, self.rows)

    def write(self, said: bytes) -> None:
        self.said.append(said)


@pytest.fixture
def call() -> Iterator[_Call]:
    found = _Call()
    yield found
    found.sent.put(None)


@pytest.fixture
def stream() -> Stream:
    return Streams(FlightLimits()).open("a")


def _incoming(call: _Call, stream: Stream) -> Incoming:
    return Incoming(call, call, stream, 10**6, numbered=True)


def _reading(incoming: Incoming) -> threading.Thread:
    def read() -> None:
        for _ in incoming:
            pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _until(found: Callable[[], Any]) -> None:
    until = time.monotonic() + 60
    while not found():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_a_client_is_not_waited_for_while_its_batches_are_being_stored(call: _Call, stream: Stream) -> None:
    incoming = _incoming(call, stream)
    call.sent.put(0)
    with incoming:
        assert next(incoming)[0] == 0
        thread = _reading(incoming)
        _until(lambda: incoming._reading.locked())
        time.sleep(0.05)
        assert stream.waits_since is None
        incoming.stored(0, 1)
        assert stream.waits_since is not None  # it has been told, and is silent
        call.sent.put(1)
        _until(lambda: stream.waits_since is None)
        call.sent.put(None)
        thread.join(60)
    assert call.said == [b'{"seq":0,"rows":1}']


def test_a_silent_client_is_waited_for_when_nothing_is_stored_any_more(call: _Call, stream: Stream) -> None:
    incoming = _incoming(call, stream)
    call.sent.put(0)
    assert next(incoming)[0] == 0
    _reading(incoming)
    _until(lambda: incoming._reading.locked())
    leaving = threading.Thread(target=incoming.__exit__, args=(None, None, None), daemon=True)
    leaving.start()
    _until(lambda: stream.waits_since is not None)
    call.sent.put(1)
    leaving.join(60)
    assert not leaving.is_alive()


def test_who_reads_on_after_the_call_has_ended_finds_the_end(call: _Call, stream: Stream) -> None:
    with _incoming(call, stream) as incoming:
        pass
    thread = _reading(incoming)
    thread.join(60)
    assert not thread.is_alive()


def test_a_message_without_rows_is_refused(call: _Call, stream: Stream) -> None:
    call.rows = None
    call.sent.put(0)
    with pytest.raises(InvalidRequest, match="a message without rows"), _incoming(call, stream) as incoming:
        next(incoming)
