"""Connections of the HTTP servers: how many there may be, and when they end."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from syndb_common import http_server

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE = 20.0
_OPEN = ("01", "08")
"""ESTABLISHED, and CLOSE_WAIT: the client has closed and the server has not."""


class Site:
    """A server whose answers wait for ``proceed``."""

    def __init__(self) -> None:
        self.listener = http_server.listen("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.proceed = trio.Event()
        self.proceed.set()
        self.asked = 0

    async def run(self) -> None:
        await http_server.serve(Starlette(routes=[Route("/", self._answer)]), self.listener, "tests.http")

    async def _answer(self, request: Request) -> Response:
        self.asked += 1
        await self.proceed.wait()
        return PlainTextResponse("done")

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    @property
    def held(self) -> int:
        """Connections whose server side is not closed, also where the client's is."""
        return sum(
            line.split()[1].endswith(f":{self.port:04X}") and line.split()[3] in ("01", "08") for line in table()
        )


def table() -> list[str]:
    with open("/proc/net/tcp") as lines:
        return lines.readlines()[1:]


@pytest.fixture
async def site(nursery: trio.Nursery) -> Site:
    site = Site()
    nursery.start_soon(site.run)
    return site


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - only the kernel knows
            await trio.sleep(0.02)


async def ask(stream: trio.SocketStream) -> None:
    await stream.send_all(REQUEST)
    answer = b""
    with trio.fail_after(PATIENCE):
        while not answer.endswith(b"done"):
            received = await stream.receive_some()
            assert received, "the connection was closed before the answer"
            answer += received


async def test_a_connection_is_kept_between_requests(site: Site) -> None:
    async with await site.connect() as stream:
        await ask(stream)
        await ask(stream)
        assert site.held == 1


@pytest.mark.parametrize("requests", [0, 1, 2])
async def test_a_connection_that_its_client_closed_is_not_held_until_the_keep_alive_time_is_over(
    site: Site, requests: int
) -> None:
    streams = [await site.connect() for _ in range(5)]
    for stream in streams:
        for _ in range(requests):
            await ask(stream)
    await until(lambda: site.held == 5)
    for stream in streams:
        await stream.aclose()
    await until(lambda: site.held == 0)
    assert http_server.KEEP_ALIVE_SECONDS > PATIENCE


async def test_a_client_that_leaves_before_its_answer_holds_nothing_when_that_is_made(site: Site) -> None:
    site.proceed = trio.Event()
    stream = await site.connect()
    await stream.send_all(REQUEST)
    await until(lambda: site.asked == 1)
    assert site.held == 1
    await stream.aclose()
    site.proceed.set()
    await until(lambda: site.held == 0)
    assert http_server.KEEP_ALIVE_SECONDS > PATIENCE


async def test_the_tasks_of_closed_connections_end_with_them(site: Site) -> None:
    await trio.testing.wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    streams = [await site.connect() for _ in range(50)]
    for stream in streams:
        await ask(stream)
    assert trio.lowlevel.current_statistics().tasks_living >= before + len(streams)
    for stream in streams:
        await stream.aclose()
    await until(lambda: trio.lowlevel.current_statistics().tasks_living <= before)


async def test_connections_beyond_the_bound_wait_and_come_in_when_others_end(monkeypatch, nursery) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    site = Site()
    nursery.start_soon(site.run)
    first, second, third = [await site.connect() for _ in range(3)]
    await ask(first)
    await ask(second)
    await third.send_all(REQUEST)
    await ask(first)
    assert site.asked == 3
    await first.aclose()
    with trio.fail_after(PATIENCE):
        assert b"200" in await third.receive_some()
    assert site.asked == 4
    await second.aclose()
    await third.aclose()


def test_the_bound_leaves_descriptors_for_everything_else() -> None:
    assert http_server.MAX_CONNECTIONS <= 512


async def test_the_listener_is_closed_at_the_end() -> None:
    site = Site()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.run)
        async with await site.connect() as stream:
            await ask(stream)
        nursery.cancel_scope.cancel()
    with pytest.raises(OSError, match="connect"):
        await site.connect()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", site.port))


async def test_a_server_that_is_cancelled_before_it_began_ends() -> None:
    site = Site()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.run)
            nursery.cancel_scope.cancel()
    assert site.listener.fileno() == -1
