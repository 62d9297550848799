"""How much Flight clients may have going on: calls per second, streams at once, and how long one may stand still.

A stream stands still while the server waits for its client: for the next batch to be taken, or to come. The engine's
own time never counts, and a slow network is not a client that stands still, as long as bytes go over its connection. A
client that stands still in all its streams for longer than it may is cut off (:mod:`syndb_common.flight.watch`); one
that reads some of them keeps the others waiting at its own cost only.

Streams of the federation's own, deliveries of nodes and parts that the hub reads, have room of their own, for as many.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from syndb_common.clients import rate_key
from syndb_common.errors import TooManyRequests
from syndb_common.flight.settings import FlightLimits
from syndb_common.flight.sockets import Address, Connection, address_of

MAX_CLIENTS = 10_000
"""Addresses whose calls are counted; beyond it the one that was silent longest is forgotten."""

LEAST_BYTES = 16 * 1024
"""What has to go over a connection to count as movement: more than pings and the like."""

AWAITED_SECONDS = 5.0
"""How long the first message of a stream may make the server expect much: one that is later has been forgotten."""

STRANGERS_PER_SECOND, STRANGERS_BURST = 10.0, 20
"""Uploads by tokens not seen before, of all clients together: their addresses are not known when they are let in."""

_STRANGERS = "strangers"


class Stream:
    """One call that moves data. The thread that serves it says when it waits for its client.

    Attributes:
        client: names whose it is.
        own: whether it is of the federation itself.
        address: where the client is, known once its first message has come.
    """

    def __init__(self, streams: Streams, client: str, *, own: bool) -> None:
        self.client = client
        self.own = own
        self.opened = streams.now()
        self.address: Address | None = None
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
    """All streams of a server. Thread-safe.

    Args:
        limits: what is allowed.
        clock: seconds that never go back; replaceable in tests.
    """

    def __init__(self, limits: FlightLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = clock
        self._limits = limits
        self._suspects: dict[Address, tuple[int, float]] = {}
        self._open: set[Stream] = set()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def awaited(self) -> bool:
        """Whether somebody was let in a moment ago whose first message has not come, or is being handed over."""
        since = self.now() - AWAITED_SECONDS
        with self._lock:
            return any(stream.address is None and stream.opened > since for stream in self._open)

    def still(self, found: Mapping[Address, Connection]) -> set[Address]:
        """Who has kept every one of their streams waiting for longer than they may. Called by one thread.

        Args:
            found: all connections there are.
        """
        now = self.now()
        before = now - self._limits.stall_seconds
        with self._lock:
            since = [(stream.address, stream.waits_since) for stream in self._open if stream.address in found]
        moving = {address for address, waits_since in since if waits_since is None or waits_since > before}
        earlier, self._suspects = self._suspects, {}
        for address in {address for address, _ in since if address is not None} - moving:
            count = found[address].moved
            seen, then = earlier.get(address, (count, now))
            self._suspects[address] = (seen, then) if count - seen < LEAST_BYTES else (count, now)
        return {address for address, (_, then) in self._suspects.items() if then <= before}

    def count_call(self, peer: str) -> None:
        """Spend one call of the peer's address, or the IPv6 network that a machine has to itself.

        Raises:
            TooManyRequests: it has none left; the hint says for how long.
        """
        host = rate_key(address_of(peer)[0])
        wait = self._spend(host, self._limits.calls_per_second, self._limits.burst)
        if wait:
            raise TooManyRequests("too many calls from your address", hint=f"try again in {wait:.1f} s")

    def count_stranger(self) -> None:
        """Spend one of the few calls of those together about whose tokens the daemon has to be asked first.

        Raises:
            TooManyRequests: none is left.
        """
        if self._spend(_STRANGERS, STRANGERS_PER_SECOND, STRANGERS_BURST):
            raise TooManyRequests("too many uploads by unknown tokens", hint="make any other call with the token first")

    def _spend(self, whose: str, rate: float, burst: int) -> float:
        """Take one of a bucket; returns the seconds until there is one, 0 when there was."""
        now = self.now()
        with self._lock:
            left, then = self._buckets.pop(whose, (float(burst), now))
            left = min(float(burst), left + (now - then) * rate)
            allowed = left >= 1
            self._buckets[whose] = (left - 1 if allowed else left, now)
            if len(self._buckets) > MAX_CLIENTS:
                self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / rate

    def open(self, client: str, *, own: bool = False, most: int | None = None) -> Stream:
        """A stream for a client, which may hold only so many at once, or ``most``; the federation may have all its own.

        Raises:
            TooManyRequests: it, or all together, have as many as they may.
        """
        stream = Stream(self, client, own=own)
        room = self._limits.streams
        with self._lock:
            theirs = sum(each.client == client for each in self._open)
            if theirs >= (most or (room if own else self._limits.streams_per_client)):
                raise TooManyRequests(f"you have {theirs} streams open already", hint="end some of them first")
            alike = sum(each.own == own for each in self._open)
            if alike >= room:
                raise TooManyRequests(f"{alike} streams are open", hint="try again in a moment")
            self._open.add(stream)
        return stream

    def forget(self, stream: Stream) -> None:
        """The stream has ended."""
        with self._lock:
            self._open.discard(stream)
