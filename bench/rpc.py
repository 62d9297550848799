"""An actor ask across processes against the same bytes on an open libp2p stream.

Both take turns on one connection between this process and a child: ``ask`` goes through :class:`RemoteRef`, the
server's checks, an actor's mailbox and back; the bare request is one write of as many bytes and one answer of as many.
"""

from __future__ import annotations

import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import trio
from libp2p.custom_types import TProtocol

from actors.remote.envelope import encode_reply, encode_request
from actors.remote.host import Host, open_host
from actors.remote.identity import Identity
from actors.remote.policy import Policy, Trust
from actors.remote.rpc import RemoteRef, RpcClient, RpcServer
from actors.runtime import Actor, ChildSpec, Supervisor, handle, run_tree
from bench.result import Result, compared
from syndb_common.messages import HealthPing, HealthReport

ROUNDS = 1500
GOAL = 1.5
WARM_UP = 100
BARE = TProtocol("/syndb/bench-bare/1")
ADDRESSES = {"quic": "/ip4/127.0.0.1/udp/0/quic-v1", "tcp": "/ip4/127.0.0.1/tcp/0"}
PING = HealthPing(clock=1_700_000_000.0)
REPORT = HealthReport(
    schema_version=1,
    engine="ok",
    load=0,
    catalogue_revision=1,
    clock=1_700_000_000.0,
    uptime_seconds=1.0,
    software="bench",
)
REQUEST = encode_request(bytes(16), PING, seconds=5.0)
RESPONSE = encode_reply(bytes(16), REPORT)


class Node(Actor):
    """Answers pings."""

    @handle
    async def ping(self, message: HealthPing) -> HealthReport:
        return REPORT


def run(rounds: int = ROUNDS) -> list[Result]:
    """Median seconds of an ask, and of a bare request, over QUIC and over TCP."""
    return [_measure("rpc_ask_vs_bare_stream", "quic", rounds), _measure("rpc_ask_vs_bare_stream_tcp", "tcp", rounds)]


def _measure(name: str, transport: str, rounds: int) -> Result:
    command = [sys.executable, "-m", "bench.rpc", transport]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        peer_id, address = server.stdout.readline().split()
        asks, bare = trio.run(_client, peer_id, address, rounds)
        assert server.stdin is not None
        server.stdin.close()
    return compared(name, statistics.median(asks), statistics.median(bare), "s", rounds, goal=GOAL)


async def _client(peer_id: str, address: str, rounds: int) -> tuple[list[float], list[float]]:
    asks, bare = [], []
    async with open_host(Identity.generate(), []) as host:
        node = RemoteRef(RpcClient(host), peer_id, lambda: [address], "node")
        await node.ask(PING, timeout=10)
        stream = await _bare_stream(host, peer_id)
        for _ in range(WARM_UP + rounds):
            started = time.perf_counter()
            await stream.write(_framed(REQUEST))
            await _read_frame(stream)
            between = time.perf_counter()
            await node.ask(PING, timeout=5)
            asks.append(time.perf_counter() - between)
            bare.append(between - started)
    return asks[WARM_UP:], bare[WARM_UP:]


async def _server(transport: str) -> None:
    async with open_host(Identity.generate(), [ADDRESSES[transport]]) as host, trio.open_nursery() as nursery:
        tree = await nursery.start(run_tree, Supervisor("bench", [ChildSpec("node", Node)]))
        RpcServer(host, Policy(lambda _peer_id: Trust.HUB), {HealthPing: tree.ref("node")})
        host._libp2p.set_stream_handler(BARE, _answer_bare)
        print(host.peer_id, host.addresses[0], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


# The reference goes to libp2p itself, past the host's own streams.


async def _bare_stream(host: Host, peer_id: str) -> Any:
    from libp2p.peer.id import ID

    return await host._libp2p.new_stream(ID.from_string(peer_id), [BARE])


async def _answer_bare(stream: Any) -> None:
    try:
        while True:
            await _read_frame(stream)
            await stream.write(_framed(RESPONSE))
    except Exception:
        await stream.reset()


async def _read_frame(stream: Any) -> bytes:
    data = bytearray()
    while len(data) < 4 or len(data) < 4 + struct.unpack_from(">I", data)[0]:
        data += await stream.read(65_536)
    return bytes(data[4:])


def _framed(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


if __name__ == "__main__":
    trio.run(_server, sys.argv[1])
