"""Frames between a daemon and its engine process, over a socket pair.

A frame is ``u32 header length | msgpack header | u64 body length | body``, big-endian. The header of a request has
``id`` and ``op``, that of its reply the same ``id``; the body is an Arrow IPC stream or empty. Both ends are ours,
so a frame beyond the caps is a bug and ends the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import msgpack
import pyarrow as pa

from syndb_common.errors import LimitExceeded

MAX_HEADER = 16 * 1024**2
MAX_BODY = 1024**3
"""Largest body in bytes; larger results go by Flight."""

HEADER_LENGTH = struct.Struct("!I")
BODY_LENGTH = struct.Struct("!Q")


def pack(header: Mapping[str, Any], body: bytes | memoryview | pa.Buffer = b"") -> list[memoryview]:
    """The pieces of one frame, to be written in this order.

    Raises:
        LimitExceeded: header or body is beyond its cap.
    """
    packed = msgpack.packb(dict(header))
    content = memoryview(body).cast("B")
    if len(packed) > MAX_HEADER or len(content) > MAX_BODY:
        raise LimitExceeded(
            f"{max(len(packed), len(content))} bytes are too many for one message between daemon and engine",
            hint="ask for less at a time, or read the result by Flight",
        )
    return [memoryview(HEADER_LENGTH.pack(len(packed)) + packed + BODY_LENGTH.pack(len(content))), content]


def header_length(prefix: bytes | bytearray) -> int:
    """Length of the header announced by the first four bytes of a frame."""
    (length,) = HEADER_LENGTH.unpack(prefix)
    if length > MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    return int(length)


def body_length(prefix: bytes | bytearray) -> int:
    """Length of the body announced by the eight bytes before it."""
    (length,) = BODY_LENGTH.unpack(prefix)
    if length > MAX_BODY:
        raise ValueError(f"a body of {length} bytes")
    return int(length)


def unpack(header: bytes) -> dict[str, Any]:
    """The header's mapping."""
    value = msgpack.unpackb(header)
    if not isinstance(value, dict):
        raise ValueError("a header that is not a mapping")  # noqa: TRY004 - damage, not a caller's mistake
    return value


def table_to_body(table: pa.Table) -> pa.Buffer:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def body_to_table(body: bytes | bytearray | memoryview) -> pa.Table:
    """The table of an Arrow IPC stream, without copying."""
    with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
        return reader.read_all()
