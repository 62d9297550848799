"""The streams that are kept open to peers, and how many requests to each may be under way."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import TypeAlias

import trio

from actors.remote.transport import Frames
from syndb_common.messages import PROTOCOL_VERSION, AnalyticsQuery, Message

MAX_QUERIES_PER_PEER = 40
"""Queries in flight from here to one peer; more wait, within their deadlines."""

MAX_CONTROLS_PER_PEER = 16
"""The same for all other messages: pings and cancellations never wait behind queries. Together well below the 64
streams that a receiver allows (:mod:`actors.remote.host`), which also counts streams that are being reset."""

MAX_PEERS = 16_384
"""Peers that are remembered: more than a hub has nodes. Beyond it those are forgotten that nothing is asked of."""

CLIENT_IDLE_SECONDS = 45.0
"""How long a stream is kept without use; servers keep it longer, so that the client is the one to drop it."""

Streams: TypeAlias = list[Frames]


class Places:
    """Places for so many at a time, first come first served.

    A lighter ``trio.CapacityLimiter``, since there are two for every node of the federation.
    """

    __slots__ = ("_line", "free")

    def __init__(self, number: int) -> None:
        self.free = number
        self._line: trio.lowlevel.ParkingLot | None = None

    async def take(self, deadline: float) -> None:
        """Take a place; call :meth:`leave` when done.

        Raises:
            trio.TooSlowError: there was none until ``deadline``.
        """
        if self.free:
            self.free -= 1
            return
        if self._line is None:
            self._line = trio.lowlevel.ParkingLot()
        with trio.fail_at(deadline):
            await self._line.park()  # who leaves hands the place over

    def leave(self) -> None:
        """Give the place to the next in line."""
        if self._line:
            self._line.unpark()
        else:
            self.free += 1
            self._line = None


class Peer:
    """The streams kept to one peer, newest last, and the places of its requests."""

    __slots__ = ("_all", "_controls", "_idle", "_older", "_queries", "id")

    def __init__(self, peer_id: str, max_queries: int, max_controls: int) -> None:
        self.id = peer_id
        self._all = max_queries + max_controls
        self._queries = Places(max_queries)
        self._controls = Places(max_controls)
        self._idle: list[tuple[float, Frames]] = []
        self._older: weakref.ref[object] | None = None

    def version(self, stream: Frames) -> int:
        """The protocol version to speak on a stream: ours, until the peer refused it on the same connection."""
        older = self._older is not None and self._older() is stream.connection
        return PROTOCOL_VERSION - 1 if older else PROTOCOL_VERSION

    def speaks_older(self, stream: Frames) -> None:
        """Speak the version before ours for as long as this stream's connection stands: an upgrade ends it."""
        self._older = weakref.ref(stream.connection)

    def places(self, message: Message) -> Places:
        """Where this message waits for its turn."""
        return self._queries if isinstance(message, AnalyticsQuery) else self._controls

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._queries.free + self._controls.free < self._all

    def take(self) -> tuple[Frames | None, Streams]:
        """The stream used last, if it can be used again, and those that cannot."""
        if not self._idle:
            return None, []
        too_old = trio.current_time() - CLIENT_IDLE_SECONDS
        stale = [stream for since, stream in self._idle if since < too_old or stream.over]
        if stale:
            self._idle = [(since, stream) for since, stream in self._idle if stream not in stale]
        return (self._idle.pop()[1] if self._idle else None), stale

    def take_all(self) -> Streams:
        """All kept streams; none is kept any more."""
        streams = [stream for _, stream in self._idle]
        self._idle.clear()
        return streams

    def keep(self, stream: Frames) -> None:
        """Use this stream again."""
        self._idle.append((trio.current_time(), stream))


class Peers:
    """All peers that were asked something lately, by PeerId."""

    def __init__(self, *, max_queries: int, max_controls: int, max_peers: int) -> None:
        self._max_queries, self._max_controls, self._max_peers = max_queries, max_controls, max_peers
        self._peers: OrderedDict[str, Peer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, peer_id: str) -> Peer:
        """What is known of a peer, which becomes the one used last."""
        peer = self._peers.get(peer_id)
        if peer is None:
            peer = self._peers[peer_id] = Peer(peer_id, self._max_queries, self._max_controls)
        self._peers.move_to_end(peer_id)
        return peer

    def surplus(self) -> Iterator[Frames]:
        """Forget idle peers beyond the limit, the one unused for longest first; yields their streams to be reset."""
        while len(self._peers) > self._max_peers:
            unused = next((peer for peer in self._peers.values() if not peer.busy), None)
            if unused is None:
                return
            yield from self._peers.pop(unused.id).take_all()
