"""The connections of Flight clients, beneath gRPC: how much moves on one, and its end.

gRPC's threads wait without end for a client that stands still, and pyarrow offers no way to end one call. What remains
is the connection itself: shut down, it ends every call on it, and the threads are free.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import unquote

_COUNTERS = struct.Struct("=QQ")
_COUNTERS_AT = 120
"""Where ``tcpi_bytes_acked`` and ``tcpi_bytes_received`` stand in the kernel's ``struct tcp_info``."""

MOST_CLOSED = 10_000
"""So many numbers in a row that stand for nothing are the end: what is opened gets the lowest that is free."""

Address = tuple[str, int]
"""IP address and port of a peer."""


def address_of(peer: str) -> Address:
    """IP address and port of a peer as gRPC writes it: ``ipv4:127.0.0.1:50000``, ``ipv6:%5B::1%5D:50000``.

    Returns an empty address and port 0 for what is neither.
    """
    family, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if family not in ("ipv4", "ipv6") or not port.isdigit():
        return "", 0
    return _plain(host.strip("[]")), int(port)


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection as it was when it was looked at.

    Attributes:
        received: bytes that the peer has sent so far, as the kernel counts them.
        acknowledged: bytes that the peer has taken so far.
    """

    descriptor: int
    address: Address
    received: int = 0
    acknowledged: int = 0

    @property
    def moved(self) -> int:
        """Bytes that went over it, both ways."""
        return self.received + self.acknowledged

    def cut(self) -> None:
        """Shut it down; nothing happens when it has gone."""
        with suppress(OSError), _held(self.descriptor) as connection:
            if _remote(connection) == self.address:  # its number may have been given to another since the look
                connection.shutdown(socket.SHUT_RDWR)


def connected(port: int) -> dict[Address, Connection]:
    """This process's connections that peers have opened to ``port``, by the addresses of the peers.

    Works also when peers hold all files that this process may open.
    """
    found = {}
    for descriptor in _descriptors():
        with suppress(OSError):  # no socket, closed meanwhile, or connected to nobody
            connection = _look(descriptor, port)
            if connection is not None:
                found[connection.address] = connection
    return found


def allow_many() -> None:
    """Let this process have as many connections, and files, as it may allow itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # the kernel allows less than it says; it goes on with what there is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _descriptors() -> Iterable[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # none is left for the listing itself
        return _tried()


def _tried() -> Iterator[int]:
    """The numbers of what is open, found by trying each of them, which opens nothing."""
    number = closed = 0
    while closed < MOST_CLOSED:
        try:
            os.fstat(number)
        except OSError:
            closed += 1
        else:
            closed = 0
            yield number
        number += 1


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    connection = socket.socket(fileno=descriptor)
    try:
        yield connection
    finally:
        connection.detach()  # it is gRPC's


@contextmanager
def _held(descriptor: int) -> Iterator[socket.socket]:
    """What a number stands for now, also when the number is given to another meanwhile; unless no file is left."""
    try:
        own = os.dup(descriptor)
    except OSError:
        with _borrowed(descriptor) as connection:
            yield connection
        return
    try:
        with _borrowed(own) as connection:
            yield connection
    finally:
        os.close(own)


def _look(descriptor: int, port: int) -> Connection | None:
    with _borrowed(descriptor) as looked_at:
        if looked_at.family not in (socket.AF_INET, socket.AF_INET6) or looked_at.getsockname()[1] != port:
            return None
        address = _remote(looked_at)
        told = looked_at.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTERS_AT + _COUNTERS.size)
    acknowledged, received = _COUNTERS.unpack_from(told, _COUNTERS_AT)
    return Connection(descriptor, address, received, acknowledged)


def _remote(connection: socket.socket) -> Address:
    host, port = connection.getpeername()[:2]
    return _plain(host), port


def _plain(host: str) -> str:
    """gRPC writes an IPv4 address as one, whatever the socket is, and the scope of an IPv6 address as a number."""
    return host.removeprefix("::ffff:").partition("%")[0]
