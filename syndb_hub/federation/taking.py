"""Taking a part in: out of an answer, or from the Flight server where it waits."""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import trio

from syndb_common.engine.interface import Scan
from syndb_common.errors import DataError, IncompleteResult, SynDBError
from syndb_common.flight import client as flight
from syndb_common.messages import FlightEndpoint
from syndb_hub.federation.gathering import Budget, Gathering, Whole
from syndb_hub.federation.readers import Reader

CHECKED_HERE_BYTES = 1024**2
"""A part up to this size is checked in well under a millisecond; a larger one in a thread."""
MAX_CHECKERS = 2
"""Large parts checked at once; more would not be faster."""
checkers = trio.CapacityLimiter(MAX_CHECKERS)

Taken = tuple[pa.Table | None, Scan]
"""A part that was taken in: its rows if they are kept, and what was read for them."""


async def read(
    endpoint: FlightEndpoint,
    secret: str,
    gathering: Gathering,
    budget: Budget,
    reader: Reader,
    readers: trio.CapacityLimiter,
    seconds: float,
) -> Taken:
    """Take a part from a Flight server, in a thread of ``readers``; at most as fast as it is taken in here.

    Raises:
        PeerUnavailable, DeadlineExceeded, IncompleteResult: it did not come, or not to its end.
        Unavailable: too many parts are being read.
        SynDBError: whatever ended it where it is made.
    """
    reading = flight.Reading(endpoint, seconds=seconds, max_bytes=sys.maxsize, secret=secret)
    try:
        drain = partial(_drain, reading, gathering, budget, reader)
        table = await trio.to_thread.run_sync(drain, abandon_on_cancel=True, limiter=readers)
    except trio.Cancelled:
        reader.give_up()
        reading.cancel()
        raise
    return table, reading.scan


def _drain(reading: flight.Reading, gathering: Gathering, budget: Budget, reader: Reader) -> pa.Table | None:
    """A whole result, every batch counted as it comes; blocks."""
    with reader.reading():
        for batch in reading.batches():
            budget.spend(batch.nbytes)
            gathering.add(batch)
        return gathering.end(reading.schema)


def unpack(inline: bytes) -> pa.Table:
    """The rows of a part that came inside its answer.

    Nodes send them as they are. Compressed ones are refused before they are unpacked: a few kilobytes can become
    gigabytes.

    Raises:
        IncompleteResult: they are compressed, or may be.
        Exception: whatever pyarrow raises over bytes that are no Arrow stream.
    """
    messages = pa.ipc.MessageReader.open_stream(inline)
    with contextlib.suppress(StopIteration):
        while True:
            message = messages.read_next_message()
            if message.type not in ("schema", "record batch") or not _is_plain(message.metadata, message.type):
                raise IncompleteResult("the node sent a part that is packed in a way nodes do not use")
    with pa.ipc.open_stream(inline) as reader:
        return reader.read_all()


def _is_plain(header: pa.Buffer, kind: str) -> bool:
    """Whether a message's buffers are as they were in memory, by its header, which pyarrow has checked.

    Arrow's ``Message.fbs`` says how buffers are compressed in a field of the batch. Before metadata version 5 it was
    said in the message's custom metadata, and Arrow still reads it there.
    """
    data = header.to_pybytes()
    message = struct.unpack_from("<I", data)[0]
    version = _field(data, message, _MESSAGE_VERSION)
    if not version or struct.unpack_from("<h", data, version)[0] != _VERSION_5:
        return False
    if _field(data, message, _MESSAGE_METADATA):
        return False
    if kind == "schema":
        return True
    batch = _field(data, message, _MESSAGE_HEADER)
    return not _field(data, batch + struct.unpack_from("<I", data, batch)[0], _BATCH_COMPRESSION)


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a FlatBuffers table is; 0 if it has its default."""
    fields = table - struct.unpack_from("<i", data, table)[0]
    entry = 4 + 2 * number
    if entry >= struct.unpack_from("<H", data, fields)[0]:
        return 0
    offset: int = struct.unpack_from("<H", data, fields + entry)[0]
    return table + offset if offset else 0


_MESSAGE_VERSION, _MESSAGE_HEADER, _MESSAGE_METADATA, _BATCH_COMPRESSION = 0, 2, 4, 3
"""Numbers of the fields in their tables."""
_VERSION_5 = 4
"""What ``MetadataVersion`` counts from 0."""


async def take(gathering: Gathering, table: pa.Table, readers: trio.CapacityLimiter) -> pa.Table | None:
    """Take in a part that is here. What is large is not for the loop, and what is written may have to wait: in a thread
    of ``readers``."""
    size = table.get_total_buffer_size()  # its nbytes would believe offsets that nobody has checked
    kept = isinstance(gathering, Whole)
    if size <= CHECKED_HERE_BYTES and kept:
        return _add_all(gathering, table)
    limiter = checkers if kept else readers
    return await trio.to_thread.run_sync(_add_all, gathering, table, abandon_on_cancel=True, limiter=limiter)


def _add_all(gathering: Gathering, table: pa.Table) -> pa.Table | None:
    for batch in table.to_batches():
        gathering.add(batch)
    return gathering.end(table.schema)


@contextlib.contextmanager
def damage() -> Iterator[None]:
    """A peer's Arrow is foreign until every offset is checked: whatever pyarrow raises over it is one failed part."""
    try:
        yield
    except DataError as error:
        raise IncompleteResult(f"the node sent a part that cannot be used: {error.message}") from error
    except SynDBError:
        raise
    except Exception as error:
        raise IncompleteResult(f"the node sent a part that cannot be used: {error}") from error
