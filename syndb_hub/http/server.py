"""Serving: one listening socket, hypercorn on trio, and an end that waits for requests but not for ever."""

from __future__ import annotations

import errno
import logging
import socket
from typing import cast

import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.types import ASGIApp

from syndb_common.errors import ConfigError

GRACE_SECONDS = 5.0
"""How long requests in flight may take to end when the server stops: half of what a daemon has for its whole end."""

STALL_SECONDS = 60.0
"""A client that takes nothing of its answer for so long is disconnected by the kernel.

The server's writes cannot be cancelled, so a reader that stalls would otherwise hold its connection, its file
and the shutdown for ever.
"""

KEEP_ALIVE_SECONDS = 30.0
"""How long a connection may be silent between requests; it also ends half-sent request headers."""


async def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    stall_seconds: float = STALL_SECONDS,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; then no more requests are taken, and those in flight have :data:`GRACE_SECONDS` to end.

    ``task_status`` receives the base URL, with the port that was chosen when ``port`` is 0.

    Raises:
        ConfigError: the address cannot be listened on, for instance because the port is taken.
    """
    listener = _listen(host, port, stall_seconds)
    address = listener.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = GRACE_SECONDS
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.include_server_header = False
    config.errorlog = logging.getLogger("syndb_hub.http.server")
    stop = trio.Event()

    async def run(task_status: trio.TaskStatus[list[str]]) -> None:
        framework = cast("hypercorn.typing.ASGIFramework", app)
        with trio.CancelScope(shield=True):
            await hypercorn.trio.serve(
                framework, config, shutdown_trigger=stop.wait, mode="asgi", task_status=task_status
            )

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        task_status.started(f"http://{shown}:{address[1]}")
        try:
            await trio.sleep_forever()
        finally:
            stop.set()


def _listen(host: str, port: int, stall_seconds: float) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}: {error.strerror}", hint="Correct http.host.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_seconds * 1000))
        listener.bind(address)
        listener.listen(100)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} on {host} is in use by another program",
                hint=f"Stop that program (`ss -ltnp sport = :{port}` names it), or choose another http.port.",
            ) from error
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}", hint="Choose another http.host or http.port."
        ) from error
    return listener
