"""How much Flight clients may have going on: calls per second, streams at once, and how long one may stand still.

A stream stands still while the server waits for its client: for the next batch to be taken, or to come. The engine's
own time never counts, and a slow network is not a client that stands still, as long as bytes go over its connection. A
client that stands still in all its streams for longer than it may is cut off (:mod:`syndb_common.flight.sockets`); one
that reads some of them keeps the others waiting at its own cost only.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from syndb_common.errors import TooManyRequests
from syndb_common.flight.settings import FlightLimits
from syndb_common.flight.sockets import address_of, cut, moved

MAX_CLIENTS = 10_000
"""Addresses whose calls are counted; beyond it the one that was silent longest is forgotten."""

LEAST_BYTES = 16 * 1024
"""What has to go over a connection to count as movement: more than pings and the like."""

WATCH_SECONDS = 0.5
"""Between two looks at who stands still; next to nothing against the deadlines."""


class Stream:
    """One call that moves data. The thread that serves it says when it waits for its client."""

    def __init__(self, streams: Streams, client: str, peer: str) -> None:
        self.client = client
        self.peer = peer
        self.waits_since: float | None = None
        self._streams = streams
        self._waits = 0
        self._count = threading.Lock()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for the client. Of threads that wait side by side, the client is one for all."""
        self._wait(1)
        try:
            yield
        finally:
            self._wait(-1)

    def _wait(self, more: int) -> None:
        with self._count:
            self._waits += more
            self.waits_since = self._streams.now() if self._waits else None

    def close(self) -> None:
        """The call has ended. Safe to repeat."""
        self._streams.forget(self)


class Streams:
    """All streams of a server, and the thread that ends those that stand still. Thread-safe.

    Args:
        limits: what is allowed.
        clock: seconds that never go back; replaceable in tests.
        moved: counts the bytes that went over a peer's connection; replaceable in tests.
    """

    def __init__(
        self,
        limits: FlightLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        moved: Callable[[str], int] = moved,
    ) -> None:
        self.now = clock
        self._limits = limits
        self._moved = moved
        self._suspects: dict[str, tuple[int, float]] = {}
        self._open: set[Stream] = set()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Cut off whoever stands still; never returns."""
        while True:
            time.sleep(WATCH_SECONDS)
            for peer in self.still():
                cut(peer)

    def still(self) -> set[str]:
        """Peers that have kept every one of their streams waiting for longer than they may. Called by one thread."""
        now = self.now()
        before = now - self._limits.stall_seconds
        with self._lock:
            since = [(stream.peer, stream.waits_since) for stream in self._open]
        moving = {peer for peer, waits_since in since if waits_since is None or waits_since > before}
        earlier, self._suspects = self._suspects, {}
        for peer in {peer for peer, _ in since} - moving:
            count = self._moved(peer)
            seen, then = earlier.get(peer, (count, now))
            self._suspects[peer] = (seen, then) if count - seen < LEAST_BYTES else (count, now)
        return {peer for peer, (_, then) in self._suspects.items() if then <= before}

    def count_call(self, peer: str) -> None:
        """Spend one call of the peer's address.

        Raises:
            TooManyRequests: it has none left; the hint says for how long.
        """
        host, rate, now = address_of(peer)[0], self._limits.calls_per_second, self.now()
        with self._lock:
            left, then = self._buckets.pop(host, (float(self._limits.burst), now))
            left = min(float(self._limits.burst), left + (now - then) * rate)
            allowed = left >= 1
            self._buckets[host] = (left - 1 if allowed else left, now)
            if len(self._buckets) > MAX_CLIENTS:
                self._buckets.popitem(last=False)
        if not allowed:
            raise TooManyRequests("too many calls from your address", hint=f"try again in {(1 - left) / rate:.1f} s")

    def open(self, client: str, peer: str) -> Stream:
        """A stream for a client, which may hold only so many at once.

        Raises:
            TooManyRequests: it, or all together, have as many as they may.
        """
        stream = Stream(self, client, peer)
        with self._lock:
            if len(self._open) >= self._limits.streams:
                raise TooManyRequests(f"{self._limits.streams} streams are open", hint="try again in a moment")
            own = sum(each.client == client for each in self._open)
            if own >= self._limits.streams_per_client:
                raise TooManyRequests(f"you have {own} streams open already", hint="end some of them first")
            self._open.add(stream)
        return stream

    def forget(self, stream: Stream) -> None:
        """The stream has ended."""
        with self._lock:
            self._open.discard(stream)
