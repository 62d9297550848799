"""Cutting the connection of a Flight client that stands still.

gRPC's threads wait for such a client without end, and pyarrow offers no way to end one call. What remains is the
connection itself: shut down, it ends every call on it, and the threads are free.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from urllib.parse import unquote


def address_of(peer: str) -> tuple[str, int]:
    """IP address and port of a peer as gRPC writes it: ``ipv4:127.0.0.1:50000``, ``ipv6:%5B::1%5D:50000``.

    Returns an empty address and port 0 for what is neither.
    """
    family, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if family not in ("ipv4", "ipv6") or not port.isdigit():
        return "", 0
    return host.strip("[]").removeprefix("::ffff:"), int(port)


def cut(peer: str) -> bool:
    """Shut down this process's connection to a peer; False when there is none any more."""
    wanted = address_of(peer)
    found = False
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile, or connected to nobody
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:  # a copy: its number cannot be used anew
                if connection.family in (socket.AF_INET, socket.AF_INET6) and _plain(connection) == wanted:
                    connection.shutdown(socket.SHUT_RDWR)
                    found = True
    return found


def _plain(connection: socket.socket) -> tuple[str, int]:
    host, port = connection.getpeername()[:2]
    return host.removeprefix("::ffff:"), port  # gRPC writes an IPv4 address as one, whatever the socket is
