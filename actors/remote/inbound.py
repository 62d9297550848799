"""Who may hold a place among the inbound connections, and how many may knock at once.

Peers that the daemon knows (members of its federation, its hub) take part in the whole; all others together have a
small share, and those from one IP address a smaller one. So a stranger with a thousand keys cannot keep a member out,
and an institution whose nodes come from one address can bring as many as it has: each counts as a stranger for the
moment it takes to join. Handshakes cost most and come before anybody is known: they are limited by address.

::

    inbound connections       512    by default; libp2p held 1,100 in tests: 0.1 MB, 0.01 % of a core each while idle
    of peers not known         64
    of these, per address      16    an idle one gives way to a new one, a known peer's never to a stranger
    handshakes at once        128    over TCP; per address 32
    handshakes per second     128    over QUIC, in the long run; per address 32, at once four times as many
    handshakes not finished   256    over QUIC, by libp2p: the oldest is forgotten
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import structlog
from libp2p.network.connection.swarm_connection import SwarmConn

from actors.remote.policy import RateLimit

MAX_INBOUND_CONNECTIONS = 512
MAX_STRANGERS = 64
MAX_STRANGERS_PER_HOST = 16
MAX_HANDSHAKES = 128
MAX_HANDSHAKES_PER_HOST = 32
HANDSHAKES_PER_SECOND = 32.0
_ROOM_AGAIN = 0.9
"""Of all places: with fewer taken the next time that all are is worth another line in the log."""

log = structlog.get_logger()


class NoPlace(Exception):
    """Too many connections, or handshakes, of this kind; try again later."""


def host_group(host: str) -> str:
    """What counts as one address: an IPv4 address, or the 64 bits of IPv6 that one customer has."""
    if ":" in host:
        return str(ipaddress.ip_network(f"{host}/64", strict=False))
    return host


class Places:
    """The inbound connections.

    Args:
        known: whether a peer is known, by PeerId; asked each time.
        most: connections there may be.
    """

    def __init__(self, known: Callable[[str], bool], most: int = MAX_INBOUND_CONNECTIONS) -> None:
        self.known = known
        self._most = most
        self._full = False
        self._held: dict[SwarmConn, str] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, connection: SwarmConn, host: str) -> None:
        """Give a place to a connection from an IP address, after :meth:`make_room`."""
        self._held[connection] = host_group(host)

    def give_back(self, connection: SwarmConn) -> None:
        """The connection has ended."""
        self._held.pop(connection, None)
        if len(self._held) < _ROOM_AGAIN * self._most:
            self._full = False

    def make_room(self, peer_id: str, host: str) -> SwarmConn | None:
        """The connection that has to be closed for a new one, the one unused for longest; None if there is room.

        Raises:
            NoPlace: all that could give way are in use.
        """
        strangers = [held for held in self._held if not self.known(str(held.muxed_conn.peer_id))]
        known = self.known(peer_id)
        if not known:
            group = host_group(host)
            neighbours = [held for held in strangers if self._held[held] == group]
            if len(neighbours) >= MAX_STRANGERS_PER_HOST:
                return _unused(neighbours)
            if len(strangers) >= MAX_STRANGERS:
                return _unused(strangers)
        if len(self._held) < self._most:
            return None
        if not self._full:
            self._full = True
            log.warning("connections_full", most=self._most, of_strangers=len(strangers))
        # Whoever has not proved to be known pushes out nobody who has.
        return _unused((*strangers, *self._held) if known else strangers)


class Handshakes:
    """Handshakes that others begin, limited by the address they come from."""

    def __init__(self) -> None:
        self._now: Counter[str] = Counter()
        self._rate = RateLimit(rate=HANDSHAKES_PER_SECOND, burst=4 * HANDSHAKES_PER_SECOND, overall=4.0)

    @contextmanager
    def one(self, host: str) -> Iterator[None]:
        """One handshake within the block.

        Raises:
            NoPlace: too many are going on.
        """
        group = host_group(host)
        if self._now.total() >= MAX_HANDSHAKES or self._now[group] >= MAX_HANDSHAKES_PER_HOST:
            raise NoPlace("too many handshakes at once")
        self._now[group] += 1
        try:
            yield
        finally:
            self._now[group] -= 1
            if not self._now[group]:
                del self._now[group]

    def may_begin(self, host: str) -> bool:
        """Whether one more may begin; for handshakes whose end is not seen."""
        return self._rate.admit(host_group(host))


def _unused(connections: Iterable[SwarmConn]) -> SwarmConn:
    for connection in connections:
        if not connection.get_streams():
            return connection
    raise NoPlace("all places for connections are in use")
