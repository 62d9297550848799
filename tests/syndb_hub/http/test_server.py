"""Listening, stopping, and clients that do not read."""

from __future__ import annotations

import contextlib
import socket
from types import SimpleNamespace

import pyarrow as pa
import pytest
import trio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from syndb_common.errors import ConfigError
from syndb_hub.http import serve
from syndb_hub.settings import HttpSettings, JobSettings


async def test_a_taken_port_is_a_clear_error_that_names_it():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}") as caught:
            await serve(Starlette(), "127.0.0.1", port)
    assert "http.port" in caught.value.hint


async def test_an_address_that_is_not_ours_is_a_clear_error():
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        await serve(Starlette(), "192.0.2.1", 0)
    with pytest.raises(ConfigError, match=r"no\.such\.host\.invalid"):
        await serve(Starlette(), "no.such.host.invalid", 0)


async def test_a_request_in_flight_ends_before_the_server_does(nursery):
    began, proceed, stopped = trio.Event(), trio.Event(), trio.Event()
    scope = trio.CancelScope()

    async def slow(request):
        began.set()
        await proceed.wait()
        return PlainTextResponse("done")

    async def run(task_status):
        with scope:
            await serve(Starlette(routes=[Route("/", slow)]), "127.0.0.1", 0, task_status=task_status)
        stopped.set()

    url = await nursery.start(run)
    host, port = url.removeprefix("http://").split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await began.wait()
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert not stopped.is_set()
    proceed.set()
    with trio.fail_after(20):
        answer = b""
        while b"done" not in answer:
            answer += await stream.receive_some()
        await stopped.wait()
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream(host, int(port))


async def test_a_request_without_end_does_not_keep_the_server(nursery, monkeypatch):
    monkeypatch.setattr("syndb_common.http_server.GRACE_SECONDS", 0.1)
    began, scope = trio.Event(), trio.CancelScope()

    async def endless(request):
        began.set()
        await trio.sleep_forever()

    async def run(task_status):
        with scope:
            await serve(Starlette(routes=[Route("/", endless)]), "127.0.0.1", 0, task_status=task_status)

    async with trio.open_nursery() as inner:
        url = await inner.start(run)
        host, port = url.removeprefix("http://").split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await began.wait()
        scope.cancel()
        with trio.fail_after(20):
            with contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
            inner.cancel_scope.deadline = trio.current_time() + 20
    assert not inner.cancel_scope.cancelled_caught


async def test_ipv6_is_served(nursery):
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")

    async def run(task_status):
        await serve(Starlette(), "::1", 0, task_status=task_status)

    try:
        url = await nursery.start(run)
    except ConfigError:
        pytest.skip("this machine has no IPv6 loopback")
    assert url.startswith("http://[::1]:")


STALLING = SimpleNamespace(http=HttpSettings(), jobs=JobSettings(), serve={"stall_seconds": 1.0})


@pytest.mark.slow
@pytest.mark.parametrize("hub_options", [STALLING])
async def test_a_client_that_stops_reading_is_dropped_and_holds_nothing(hub):
    hub.queries.tables["synapses"] = pa.table({"synapse_count": pa.array(range(4_000_000), pa.uint64())})
    async with hub.client() as client:
        body = {"query": "SELECT synapse_count FROM synapses", "wait": 50}
        job_id = (await client.post("/v1/syql/exec", json=body)).json()["job_id"]
    host, port = hub.url.removeprefix("http://").split(":")
    stalled = await trio.open_tcp_stream(host, int(port))
    request = f"GET /v1/jobs/{job_id}/result HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {hub.token}\r\n\r\n"
    await stalled.send_all(request.encode())
    received = len(await stalled.receive_some(1000))
    with trio.fail_after(60):
        while connected(int(port), stalled):  # noqa: ASYNC110  (only the kernel knows)
            await trio.sleep(0.2)
        with contextlib.suppress(trio.BrokenResourceError):
            while chunk := await stalled.receive_some(1 << 20):
                received += len(chunk)
    assert received < 32_000_000
    await stalled.aclose()


def connected(port: int, stream: trio.SocketStream) -> bool:
    """Whether the server's side of a connection still exists."""
    client_port = stream.socket.getsockname()[1]
    with open("/proc/net/tcp") as table:
        ends = [line.split()[1:3] for line in table.readlines()[1:]]
    return any(int(local[-4:], 16) == port and int(far[-4:], 16) == client_port for local, far in ends)
