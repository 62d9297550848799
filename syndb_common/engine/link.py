"""The daemon's end of the channel to one engine process: requests out, replies back to whoever waits."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import trio

from syndb_common.engine import channel
from syndb_common.errors import EngineUnavailable, ErrorBody, SynDBError

MAX_IN_FLIGHT: Final = 80
"""Calls under way; further ones wait. More than the 64 queries a node may admit: its own reads go on beside them."""


@dataclass(slots=True)
class Pending:
    """One request under way: settled with a header and a body, or with an error."""

    done: trio.Event = field(default_factory=trio.Event)
    header: dict[str, Any] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    error: SynDBError | None = None


class Link:
    """The channel to one child: requests out, replies back to whoever waits."""

    def __init__(self, ours: socket.socket, slots: trio.Semaphore) -> None:
        self.pid = 0
        self.location = ""
        self.location_here = ""
        self.certificate = ""
        self._socket = trio.socket.from_stdlib_socket(ours)
        self._slots = slots
        self._outgoing, self._to_send = trio.open_memory_channel[list[memoryview]](MAX_IN_FLIGHT)
        self._pending: dict[int, Pending] = {}
        self._number = 0

    async def request(self, header: dict[str, Any], body: pa.Buffer | bytes) -> Pending:
        """Send one request, whose slot the caller has taken, and wait for its reply."""
        self._number += 1
        number = self._number
        pending = self._pending[number] = Pending()
        try:
            frame = channel.pack({"id": number, **header}, body)
            await self._outgoing.send(frame)
        except BaseException as error:
            if self._pending.pop(number, None) is not None:
                self._slots.release()
            if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError):
                raise EngineUnavailable("the engine process has ended", hint="repeat the query") from None
            raise
        try:
            await pending.done.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await self.send({"id": 0, "op": "cancel", "request": number})
            raise
        if pending.error is not None:
            raise pending.error
        return pending

    async def send(self, header: dict[str, Any]) -> None:
        """Send a request that has no reply; nothing happens when the child is gone."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._outgoing.send(channel.pack(header))

    async def write(self) -> None:
        """Write frames, each whole, until the child is gone."""
        with suppress(OSError):
            async for frame in self._to_send:
                await self._write_frame(frame)

    async def _write_frame(self, frame: list[memoryview]) -> None:
        for piece in frame:
            view = piece
            while view:
                view = view[await self._socket.send(view) :]

    async def stop(self) -> None:
        """Ask the child to end when its readers are done, instead of at once."""
        with suppress(OSError), trio.move_on_after(1):
            await self._write_frame(channel.pack({"id": 0, "op": "stop"}))

    def close(self) -> None:
        """Close the channel, which ends the child."""
        self._socket.close()

    async def receive(self) -> tuple[dict[str, Any], bytearray] | None:
        """The next frame from the child; None when it has gone."""
        prefix = await self._exactly(channel.HEADER_LENGTH.size)
        header = await self._exactly(channel.header_length(prefix)) if prefix is not None else None
        size = await self._exactly(channel.BODY_LENGTH.size) if header is not None else None
        body = await self._exactly(channel.body_length(size)) if size is not None else None
        if header is None or body is None:
            return None
        return channel.unpack(bytes(header)), body

    async def _exactly(self, size: int) -> bytearray | None:
        buffer = bytearray(size)
        view, filled = memoryview(buffer), 0
        while filled < size:
            try:
                received = await self._socket.recv_into(view[filled:])
            except OSError:
                return None
            if not received:
                return None
            filled += received
        return buffer

    def settle(self, header: dict[str, Any], body: bytearray) -> None:
        """Hand a reply to whoever waits for it, if anybody still does."""
        pending = self._pending.pop(header["id"], None)
        if pending is None:
            return
        self._slots.release()
        pending.header, pending.body = header, body
        if "error" in header:
            pending.error = SynDBError.from_body(ErrorBody.model_validate(header["error"]))
        pending.done.set()

    def fail(self, message: str) -> None:
        """The child is gone: everything under way fails."""
        self._to_send.close()
        for number in list(self._pending):
            pending = self._pending.pop(number)
            self._slots.release()
            pending.error = EngineUnavailable(message, hint="repeat the query")
            pending.done.set()
