"""Who has shown a credential, by connection: whoever has not may take little room, and for a short time.

gRPC takes in a call before anybody can ask whose it is, one message of any size for most of them, and any number of
calls and connections. A connection that never had a call of a known caller is therefore closed after a short while, and
as soon as it, or all of them together, have brought too much. One that had is closed when it has been idle for long,
without a call and without bytes: these still go out to a slow reader when the server has ended its call.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from syndb_common.clients import rate_key
from syndb_common.flight.settings import FlightLimits
from syndb_common.flight.sockets import Address, Connection, address_of
from syndb_common.flight.streams import LEAST_BYTES

STRANGE_BYTES: Final = 8 * 1024**2
"""What may come over a connection before the first call of a known caller. gRPC takes in 4 MiB of an upload before it
asks here whose it is, and much more of the next ones on the same connection."""

ALL_STRANGE_BYTES: Final = 64 * 1024**2
"""What may come so over all connections together. gRPC was seen to take seven times the size of a message."""

KNOWN_STALLS: Final = 10
"""So many times longer than a stranger's may a known caller's connection be idle: a call that comes just when it is
closed fails."""


@dataclass(slots=True)
class _Guest:
    """A connection.

    Attributes:
        since: when it was first seen, last had a call of a known caller, or moved bytes of one.
        calls: of known callers that are under way.
        known: whether it ever had one.
        moved: bytes that had gone over it at ``since``.
    """

    since: float
    calls: int = 0
    known: bool = False
    just_called: bool = False
    moved: int = 0


class Guests:
    """The connections of a server. Thread-safe.

    Args:
        limits: what is allowed.
        clock: seconds that never go back; replaceable in tests.
    """

    def __init__(self, limits: FlightLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._guests: dict[Address, _Guest] = {}
        self._lock = threading.Lock()

    def enter(self, peer: str) -> Callable[[], None]:
        """A call of a known caller has come; what is returned has to be called when it is over."""
        address = address_of(peer)
        with self._lock:
            guest = self._guests.setdefault(address, _Guest(self._clock()))
            guest.calls += 1
            guest.known = True

        def leave() -> None:
            with self._lock:
                guest.calls -= 1
                guest.just_called = True

        return leave

    def unwanted(self, found: Mapping[Address, Connection], *, awaited: bool = False) -> set[Address]:
        """Connections to close, of all that were ``found``. Called by one thread.

        ``awaited`` says that an upload was let in and gRPC has not told yet over which connection: it may bring much.
        """
        now = self._clock()
        with self._lock:
            self._guests = {key: guest for key, guest in self._guests.items() if guest.calls or key in found}
            idle = {}
            for address, connection in found.items():
                guest = self._guests.setdefault(address, _Guest(now))
                moves = guest.known and connection.moved - guest.moved >= LEAST_BYTES
                if guest.calls or guest.just_called or moves:
                    guest.since, guest.just_called, guest.moved = now, False, connection.moved
                if not guest.calls:
                    idle[address] = guest
        sent = {address: found[address].received for address, guest in idle.items() if not guest.known}
        late = {address for address, guest in idle.items() if now - guest.since > self._may_idle(guest)}
        large = {address for address, size in sent.items() if size > STRANGE_BYTES} | _beyond(sent)
        return late | (set() if awaited else large) | self._crowd(idle, len(found))

    def _may_idle(self, guest: _Guest) -> float:
        return self._limits.stall_seconds * (KNOWN_STALLS if guest.known else 1)

    def _crowd(self, idle: Mapping[Address, _Guest], connections: int) -> set[Address]:
        """The connections beyond what may be there: strangers first, of the hosts with most, who have been longest."""
        of_host = Counter(rate_key(host) for host, _ in idle)
        first = sorted(idle, key=lambda each: (idle[each].known, -of_host[rate_key(each[0])], idle[each].since))
        return set(first[: max(0, connections - self._limits.connections)])


def _beyond(sent: Mapping[Address, int]) -> set[Address]:
    """Those who have sent most, until what the others have sent together is not too much."""
    total, found = sum(sent.values()), set()
    for address in sorted(sent, key=lambda each: -sent[each]):
        if total <= ALL_STRANGE_BYTES:
            break
        total -= sent[address]
        found.add(address)
    return found
