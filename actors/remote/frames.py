"""Messages on a byte stream: a length of four bytes, big-endian, then that many bytes.

Depending on transport and side, a stream ends by an end of file, a reset, a closed connection, an empty read or a
value error. None of these tells whether the other side worked on what it got, so all are one: :class:`StreamEnded`.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import trio

MAX_FRAME_BYTES = 1024 * 1024
"""Largest payload of a frame. Results above 64 KiB take the data plane; what is left is catalogues and plans."""

_LENGTH = struct.Struct(">I")
_READ_BYTES = 64 * 1024

T = TypeVar("T")


class StreamEnded(Exception):
    """The stream is over, in whatever way. Open another; what was in flight may have been executed or not."""


class FrameTooLarge(Exception):
    """A frame announces, or would have, more than ``MAX_FRAME_BYTES``. The stream is of no use any more."""


class Bytes(Protocol):
    """What carries bytes in both directions."""

    async def read(self, n: int | None = None) -> bytes: ...
    async def write(self, data: bytes) -> None: ...


class ByteStream(Bytes, Protocol):
    """What is needed of a libp2p stream."""

    async def close(self) -> None: ...
    async def reset(self) -> None: ...


class FrameStream:
    """Frames over one libp2p stream; one task sends and receives, in turn.

    Args:
        stream: an open libp2p stream.
        peer_id: the peer at the other end, proved by the connection's handshake.
        carrier: what bytes are read from and written to; the stream itself if not given.
        connection: what the stream is on; the stream itself if not given.
        on_over: called when the stream has been closed or reset.

    Attributes:
        limit: says how large a received frame's payload may be now, in bytes.
    """

    def __init__(
        self,
        stream: ByteStream,
        peer_id: str,
        *,
        carrier: Bytes | None = None,
        connection: object = None,
        on_over: Callable[[FrameStream], None] | None = None,
    ) -> None:
        self.peer_id = peer_id
        self.connection = stream if connection is None else connection
        self.limit: Callable[[], int] = lambda: MAX_FRAME_BYTES
        self._on_over = on_over
        self._stream = stream
        self._read = (carrier or stream).read
        self._write = (carrier or stream).write
        self._buffer = bytearray()
        self._scope: trio.CancelScope | None = None
        self._over = False

    @property
    def over(self) -> bool:
        """Whether the stream has ended or failed and cannot carry another frame."""
        return self._over

    async def send(self, payload: bytes, *, timeout: float) -> None:  # noqa: ASYNC109 - ends the stream, not the caller
        """Send one frame in a single write.

        Raises:
            FrameTooLarge: the payload is above the cap; nothing was sent.
            StreamEnded: the stream is over.
            trio.TooSlowError: the other side did not take it within ``timeout`` seconds.
        """
        await self._within(timeout, self._write, _framed(payload))

    async def receive(self, *, timeout: float) -> bytes:  # noqa: ASYNC109 - see above
        """The next frame's payload.

        Raises:
            FrameTooLarge: its announced length is above the cap; nothing of it is kept.
            StreamEnded: the stream is over, also in the middle of a frame.
            trio.TooSlowError: it was not complete within ``timeout`` seconds.
        """
        return await self._within(timeout, self._next_frame)

    async def exchange(self, payload: bytes, *, timeout: float) -> bytes:  # noqa: ASYNC109 - see above
        """Send one frame and return the next one's payload, both within one deadline; raises as these two do."""
        return await self._within(timeout, self._send_and_receive, _framed(payload))

    async def reset(self) -> None:
        """End the stream at once, at both sides; never fails, never waits long, works while being cancelled."""
        await self._finish(self._stream.reset)

    async def close(self) -> None:
        """End the stream after what was sent has been delivered; otherwise like :meth:`reset`."""
        await self._finish(self._stream.close)

    def end(self) -> None:
        """Wake a pending ``send`` or ``receive``: the connection is gone, and libp2p leaves them waiting."""
        self._over = True
        if self._scope is not None:
            self._scope.cancel()

    async def _finish(self, how: Callable[[], Awaitable[None]]) -> None:
        self._over = True
        if self._on_over is not None:
            self._on_over(self)
        with trio.move_on_after(1, shield=True), contextlib.suppress(Exception):
            await how()

    async def _send_and_receive(self, frame: bytes) -> bytes:
        await self._write(frame)
        return await self._next_frame()

    async def _next_frame(self) -> bytes:
        buffer, read = self._buffer, self._read
        end = _LENGTH.size
        while len(buffer) < end or (end := _frame_end(buffer, self.limit())) > len(buffer):
            chunk = await read(_READ_BYTES)
            if not chunk:
                raise StreamEnded
            buffer += chunk
        payload = bytes(buffer[_LENGTH.size : end])
        del buffer[:end]
        return payload

    async def _within(self, timeout: float, operation: Callable[..., Awaitable[T]], *args: Any) -> T:  # noqa: ASYNC109
        """One operation with its deadline; whatever cuts it short, the stream is over."""
        if self._over:
            raise StreamEnded
        self._scope = scope = trio.CancelScope(deadline=trio.current_time() + timeout)
        complete = False
        try:
            with scope:
                result = await operation(*args)
                complete = True
                return result
        except FrameTooLarge:
            raise
        except Exception as error:
            raise StreamEnded from error
        finally:
            self._scope = None
            ended, self._over = self._over, self._over or not complete
        raise StreamEnded if ended else trio.TooSlowError


def _framed(payload: bytes) -> bytes:
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameTooLarge(f"{len(payload)} bytes, at most {MAX_FRAME_BYTES} fit into one message")
    return _LENGTH.pack(len(payload)) + payload


def _frame_end(buffer: bytearray, limit: int) -> int:
    (length,) = _LENGTH.unpack_from(buffer)
    if length > limit:
        raise FrameTooLarge(f"{length} bytes announced, at most {limit} accepted")
    return int(length) + _LENGTH.size
