"""An actor ask across processes against the same bytes on an open libp2p stream, with 64 nodes connected.

Both take turns on one connection between this process and a child: ``ask`` goes through :class:`RemoteRef`, the
server's checks, an actor's mailbox and back; the bare request is one write of as many bytes and one answer of as many.
The other nodes are hosts of their own in the same child, and are pinged meanwhile as often as a hub pings its nodes.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import struct
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trio
from libp2p.custom_types import TProtocol

from actors.remote.envelope import encode_reply, encode_request
from actors.remote.host import Host, open_host
from actors.remote.identity import Identity
from actors.remote.policy import Policy, Trust
from actors.remote.rpc import RemoteRef, RpcClient
from actors.remote.rpc_server import RpcServer
from actors.runtime import Actor, ChildSpec, Supervisor, handle, run_tree
from bench import logs
from bench.result import Result, compared
from syndb_common.errors import SynDBError
from syndb_common.messages import HealthPing, HealthReport

ROUNDS = 1500
WARM_UP = 100
NODES = 64
PING_SECONDS = 2.0
CONNECT_ATTEMPTS = 3
MEDIAN_GOAL, P99_GOAL = 1.3, 2.0
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


def run(rounds: int = ROUNDS, nodes: int = NODES) -> list[Result]:
    """Seconds of an ask and of a bare request, over QUIC and over TCP: the median and the 99th percentile."""
    return [*_measure("quic", "", rounds, nodes), *_measure("tcp", "_tcp", rounds, nodes)]


def _measure(transport: str, suffix: str, rounds: int, nodes: int) -> list[Result]:
    command = [sys.executable, "-m", "bench.rpc", transport, str(nodes)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        addresses: dict[str, str] = json.loads(server.stdout.readline())
        asks, bare = trio.run(_client, addresses, rounds)
        assert server.stdin is not None
        server.stdin.close()
    names = f"rpc_ask_vs_bare_stream{suffix}", f"rpc_ask_p99_vs_bare_stream{suffix}"
    return [
        compared(names[0], statistics.median(asks), statistics.median(bare), "s", rounds, goal=MEDIAN_GOAL),
        compared(names[1], _p99(asks), _p99(bare), "s", rounds, goal=P99_GOAL),
    ]


def _p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


async def _client(addresses: dict[str, str], rounds: int) -> tuple[list[float], list[float]]:
    asks, bare = [], []
    async with open_host(Identity.generate(), []) as host, trio.open_nursery() as nursery:
        client = RpcClient(host)
        refs = [_ref(client, peer_id, address) for peer_id, address in addresses.items()]
        for ref in refs:
            await _connect(ref)
        for number, ref in enumerate(refs[1:]):
            nursery.start_soon(_keep_pinging, ref, PING_SECONDS * number / len(refs))
        node = refs[0]
        stream = await _bare_stream(host, node.peer_id)
        for _ in range(WARM_UP + rounds):
            started = time.perf_counter()
            await stream.write(_framed(REQUEST))
            await _read_frame(stream)
            between = time.perf_counter()
            await node.ask(PING, timeout=5)
            asks.append(time.perf_counter() - between)
            bare.append(between - started)
        assert all(host.is_connected(peer_id) for peer_id in addresses)
        nursery.cancel_scope.cancel()
    return asks[WARM_UP:], bare[WARM_UP:]


def _ref(client: RpcClient, peer_id: str, address: str) -> RemoteRef:
    return RemoteRef(client, peer_id, lambda: [address], "node")


async def _connect(node: RemoteRef) -> None:
    """A dial may fail on a busy machine; a ping is not repeated by itself."""
    for _ in range(CONNECT_ATTEMPTS - 1):
        with contextlib.suppress(SynDBError):
            await node.ask(PING, timeout=20)
            return
    await node.ask(PING, timeout=20)


async def _keep_pinging(node: RemoteRef, begin: float) -> None:
    await trio.sleep(begin)
    while True:
        await node.ask(PING, timeout=5)
        await trio.sleep(PING_SECONDS)


async def _server(transport: str, nodes: int) -> None:
    async with trio.open_nursery() as nursery, AsyncExitStack() as hosts:
        tree = await nursery.start(run_tree, Supervisor("bench", [ChildSpec("node", Node)]))
        addresses = {}
        for _ in range(nodes):
            host = await hosts.enter_async_context(open_host(Identity.generate(), [ADDRESSES[transport]]))
            RpcServer(host, Policy(lambda _peer_id: Trust.HUB), {HealthPing: tree.ref("node")})
            host._libp2p.set_stream_handler(BARE, _answer_bare)
            addresses[host.peer_id] = host.addresses[0]
        print(json.dumps(addresses), flush=True)
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
    logs.configure()
    trio.run(_server, sys.argv[1], int(sys.argv[2]))
