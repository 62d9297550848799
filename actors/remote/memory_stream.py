"""The streams of :mod:`actors.remote.memory`: frames between two ends of a connection within one process."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, TypeAlias

import trio

from actors.remote.frames import MAX_FRAME_BYTES, FrameTooLarge, StreamEnded

if TYPE_CHECKING:
    from actors.remote.memory import MemoryHost

WINDOW = 8
"""Frames under way or unread on a stream in one direction; who sends more waits."""


class Side:
    """One end of a connection: its streams, and whether it stands as far as this end knows."""

    __slots__ = ("__weakref__", "_ended", "host", "inbound", "open", "streams", "twin")

    def __init__(self, host: MemoryHost) -> None:
        self.host = host
        self.open = True
        self.inbound = 0
        self.streams: set[MemoryStream] = set()
        self.twin: Side = self
        self._ended: trio.Event | None = None

    async def ended(self) -> None:
        """Wait until this end is closed."""
        if self._ended is None:
            self._ended = trio.Event()
        if self.open:
            await self._ended.wait()

    @staticmethod
    def pair(one: MemoryHost, other: MemoryHost) -> None:
        """Connect two hosts."""
        here, there = Side(one), Side(other)
        here.twin, there.twin = there, here
        one.connections.setdefault(other.peer_id, []).append(here)
        other.connections.setdefault(one.peer_id, []).append(there)

    def close(self, *, tell: bool) -> None:
        """End all streams here, and at the other end if it can be told."""
        if not self.open:
            return
        self.open = False
        peer = self.twin.host
        sides = self.host.connections[peer.peer_id]
        sides.remove(self)
        if not sides:
            del self.host.connections[peer.peer_id]
        if self._ended is not None:
            self._ended.set()
        for stream in tuple(self.streams):
            stream._end()
        if tell and not self.host.network.is_cut(self.host.peer_id, peer.peer_id):
            self.twin.close(tell=False)


_Frame: TypeAlias = tuple[float, int, bytes | None]
"""When it can be read, its number in the stream, the payload; None for the end of the stream."""


class MemoryStream:
    """One end of a stream of frames; one task sends and receives, in turn.

    See :class:`actors.remote.frames.FrameStream` for what its methods raise.
    """

    __slots__ = ("_number", "_over", "_waiting", "inbox", "latest", "peer_id", "side", "twin")

    def __init__(self, side: Side) -> None:
        self.peer_id = side.twin.host.peer_id
        self.side = side
        self.twin = self
        self.inbox: list[_Frame] = []
        self.latest = -math.inf
        self._number = 0
        self._over = False
        self._waiting: trio.lowlevel.Task | None = None
        side.streams.add(self)

    @property
    def connection(self) -> Side:
        """What the stream is on."""
        return self.side

    @property
    def over(self) -> bool:
        """Whether the stream has ended or failed and cannot carry another frame."""
        if self._over or not self.inbox:
            return self._over
        due, _, payload = self.inbox[0]
        return payload is None and due <= trio.current_time()

    async def send(self, payload: bytes, *, timeout: float) -> None:  # noqa: ASYNC109 - ends the stream
        """Send one frame."""
        if len(payload) > MAX_FRAME_BYTES:
            raise FrameTooLarge(f"{len(payload)} bytes, at most {MAX_FRAME_BYTES} fit into one message")
        complete = False
        try:
            await trio.lowlevel.checkpoint()
            if len(self.twin.inbox) >= WINDOW:
                deadline = trio.current_time() + timeout
                while len(self.twin.inbox) >= WINDOW and not self.over:
                    await self._wait(math.inf, deadline)
            if self.over:
                raise StreamEnded
            complete = True
        finally:
            self._over = self._over or not complete
        side = self.side
        side.host.network.transfer(side.host.peer_id, self.peer_id, self.twin, payload)

    async def receive(self, *, timeout: float) -> bytes:  # noqa: ASYNC109 - see above
        """The next frame's payload."""
        complete = False
        try:
            await trio.lowlevel.checkpoint()
            deadline = trio.current_time() + timeout
            while not self._over:
                due = self.inbox[0][0] if self.inbox else math.inf
                if due > trio.current_time():
                    await self._wait(due, deadline)
                    continue
                payload = heapq.heappop(self.inbox)[2]
                if payload is None:
                    break
                self.twin._wake()
                complete = True
                return payload
            raise StreamEnded
        finally:
            self._over = self._over or not complete

    async def exchange(self, payload: bytes, *, timeout: float) -> bytes:  # noqa: ASYNC109 - see above
        """Send one frame and return the next one's payload, both within one deadline."""
        deadline = trio.current_time() + timeout
        await self.send(payload, timeout=timeout)
        return await self.receive(timeout=deadline - trio.current_time())

    async def reset(self) -> None:
        """End the stream at once, at both sides."""
        self.finish(at_once=True)

    async def close(self) -> None:
        """End the stream after what was sent has been delivered."""
        self.finish(at_once=False)

    def finish(self, *, at_once: bool) -> None:
        """End the stream, and let the other end know: at once, or behind what was sent."""
        if self in self.side.streams:
            self._end()
            host = self.side.host
            if at_once and not host.network.is_cut(host.peer_id, self.peer_id):
                self.twin.inbox.clear()
            host.network.transfer(host.peer_id, self.peer_id, self.twin, None)

    def _end(self) -> None:
        """This end can no longer be used; the other end is not told."""
        self._over = True
        self.inbox.clear()
        self.side.streams.discard(self)
        self._wake()

    def arrive(self, due: float, payload: bytes | None) -> None:
        """A frame, or the end of the stream, can be read from ``due`` on; infinity while a partition holds it back."""
        if self.side.open and not self._over:
            self._number += 1
            if due < math.inf:
                self.latest = max(self.latest, due)
            heapq.heappush(self.inbox, (due, self._number, payload))
            self._wake()

    def release(self) -> None:
        """What a partition held back arrives."""
        now = max(trio.current_time(), self.latest)
        self.inbox = [(min(due, now) if due == math.inf else due, number, p) for due, number, p in self.inbox]
        heapq.heapify(self.inbox)
        self._wake()

    async def _wait(self, due: float, deadline: float) -> None:
        """Until something happens here, or ``due``. Raises TooSlowError at the deadline."""
        with trio.move_on_at(min(due, deadline)):
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
        if deadline <= due and trio.current_time() >= deadline:
            raise trio.TooSlowError

    def _stop_waiting(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self) -> None:
        if self._waiting is not None:
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None
