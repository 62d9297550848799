"""Serving HTTP: one listening socket, hypercorn on trio, and an end that waits for requests but not for ever.

Hypercorn's own loop has no bound on open connections, and keeps one that its client has closed until the keep-alive
time is over: a descriptor and two tasks each. So its connections are used here, and not its loop.
"""

from __future__ import annotations

import logging
import socket
from functools import partial
from typing import cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from starlette.types import ASGIApp

GRACE_SECONDS = 5.0
"""How long requests in flight may take to end when the server stops: half of what a daemon has for its whole end."""

STALL_SECONDS = 60.0
"""A client that takes nothing of its answer for so long is disconnected by the kernel.

The server's writes cannot be cancelled, so a reader that stalls would otherwise hold its connection, its file
and the shutdown for ever.
"""

KEEP_ALIVE_SECONDS = 30.0
"""How long a connection may be silent between requests; it also ends half-sent request headers."""

MAX_CONNECTIONS = 512
"""Connections that are open at once: half of the 1,024 descriptors that a process usually may have."""

BACKLOG = 128
"""Further connections that wait in the kernel until one ends."""


def listen(host: str, port: int, *, stall_seconds: float = STALL_SECONDS) -> socket.socket:
    """A socket that listens at this address; port 0 lets the system choose.

    Raises:
        OSError: the address is none of this machine's, or taken; ``socket.gaierror`` when the name is unknown.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_seconds * 1000))
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """The base URL of what listens there."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


async def serve(app: ASGIApp, listener: socket.socket, logger: str) -> None:
    """Serve until cancelled; then no more requests are taken, and those in flight have :data:`GRACE_SECONDS` to end.

    Args:
        app: what answers; it is told nothing of start and end.
        listener: from :func:`listen`; it is closed at the end.
        logger: name of the log for what the server itself has to say.
    """
    config = Config()
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.include_server_header = False
    log = config.errorlog = logging.getLogger(logger)
    wrapped = ASGIWrapper(cast("ASGIFramework", app))
    context = WorkerContext(None)
    places = trio.Semaphore(MAX_CONNECTIONS)

    async def converse(stream: trio.SocketStream) -> None:
        try:
            await _Connection(wrapped, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]  # TLS is not its business here
        except Exception:
            log.exception("a connection failed unexpectedly")
        finally:
            places.release()

    stop = trio.Event()

    async def run() -> None:
        accepting = _Accepting(trio.SocketListener(trio.socket.from_stdlib_socket(listener)), places)
        # Requests outlive a cancellation, and end by a deadline of their own.
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        partial(trio.serve_listeners, converse, [accepting], handler_nursery=connections)
                    )
                    await stop.wait()
                    nursery.cancel_scope.cancel()
                await context.terminated.set()
                connections.cancel_scope.deadline = trio.current_time() + GRACE_SECONDS

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        try:
            await trio.sleep_forever()
        finally:
            stop.set()


class _Accepting(trio.abc.Listener[trio.SocketStream]):
    """Takes connections while there is a place for them; the others wait in the kernel."""

    def __init__(self, listener: trio.SocketListener, places: trio.Semaphore) -> None:
        self._listener = listener
        self._places = places

    async def accept(self) -> trio.SocketStream:
        """The next connection, with a place of its own."""
        await self._places.acquire()
        try:
            return await self._listener.accept()
        except BaseException:
            self._places.release()
            raise

    async def aclose(self) -> None:
        """Take no more."""
        await self._listener.aclose()


class _Connection(TCPServer):
    """A connection that ends with its client.

    Hypercorn starts the keep-alive clock of a connection before its first request and after each one, and does not
    stop it when the client is gone: the connection would be held until that clock runs down.
    """

    _ended = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._ended = True
        await self.idle_task.stop()

    async def _idle_timeout(self) -> None:
        # After the end it may be asked for once more, by the last request when that is answered.
        if not self._ended:
            await super()._idle_timeout()
