"""The connections of Flight clients, beneath gRPC: how much moves on one, and its end.

gRPC's threads wait without end for a client that stands still, and pyarrow offers no way to end one call. What remains
is the connection itself: shut down, it ends every call on it, and the threads are free.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import suppress
from urllib.parse import unquote

_COUNTERS = struct.Struct("=QQ")
_COUNTERS_AT = 120
"""Where ``tcpi_bytes_acked`` and ``tcpi_bytes_received`` stand in the kernel's ``struct tcp_info``."""


def address_of(peer: str) -> tuple[str, int]:
    """IP address and port of a peer as gRPC writes it: ``ipv4:127.0.0.1:50000``, ``ipv6:%5B::1%5D:50000``.

    Returns an empty address and port 0 for what is neither.
    """
    family, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if family not in ("ipv4", "ipv6") or not port.isdigit():
        return "", 0
    return _plain(host.strip("[]")), int(port)


def moved(peer: str) -> int:
    """Bytes that a peer has acknowledged and sent so far, as the kernel counts them; 0 when it has gone."""
    connection = _connection(peer)
    if connection is None:
        return 0
    with connection:
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTERS_AT + _COUNTERS.size)
    return sum(_COUNTERS.unpack_from(told, _COUNTERS_AT))


def cut(peer: str) -> None:
    """Shut down this process's connection to a peer; nothing happens when there is none any more."""
    connection = _connection(peer)
    if connection is not None:
        with connection, suppress(OSError):  # it has closed by itself
            connection.shutdown(socket.SHUT_RDWR)


def _connection(peer: str) -> socket.socket | None:
    """A copy of the socket to a peer: the number of a copy is not given to another connection meanwhile."""
    wanted = address_of(peer)
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile, or connected to nobody
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(name)))
            if copy.family in (socket.AF_INET, socket.AF_INET6) and _remote(copy) == wanted:
                return copy
            copy.close()
    return None


def _remote(connection: socket.socket) -> tuple[str, int]:
    try:
        host, port = connection.getpeername()[:2]
    except OSError:  # it listens
        return "", -1
    return _plain(host), port


def _plain(host: str) -> str:
    """gRPC writes an IPv4 address as one, whatever the socket is."""
    return host.removeprefix("::ffff:")
