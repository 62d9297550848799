"""The hub's REST API and pages at the address that is configured."""

from __future__ import annotations

import errno
import socket

import trio
from starlette.types import ASGIApp

from syndb_common import http_server
from syndb_common.errors import ConfigError


async def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    stall_seconds: float = http_server.STALL_SECONDS,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, as :func:`syndb_common.http_server.serve` does.

    ``task_status`` receives the base URL, with the port that was chosen when ``port`` is 0.

    Raises:
        ConfigError: the address cannot be listened on, for instance because the port is taken.
    """
    listener = _listen(host, port, stall_seconds)
    task_status.started(http_server.url_of(listener))
    await http_server.serve(app, listener, "syndb_hub.http.server")


def _listen(host: str, port: int, stall_seconds: float) -> socket.socket:
    try:
        return http_server.listen(host, port, stall_seconds=stall_seconds)
    except socket.gaierror as error:
        raise ConfigError(f"cannot listen on {host}: {error.strerror}", hint="Correct http.host.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} on {host} is in use by another program",
                hint=f"Stop that program (`ss -ltnp sport = :{port}` names it), or choose another http.port.",
            ) from error
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}", hint="Choose another http.host or http.port."
        ) from error
