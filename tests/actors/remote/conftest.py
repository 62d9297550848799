"""Hosts within the test, and daemons in processes of their own."""

import json
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from actors.remote.host import Host
from actors.remote.identity import Identity

HERE = Path(__file__).parent
LISTEN = {"quic": "/ip4/127.0.0.1/udp/0/quic-v1", "tcp": "/ip4/127.0.0.1/tcp/0"}


@pytest.fixture(params=["quic", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each test that uses it runs over QUIC and over TCP."""
    return request.param


@pytest.fixture
def listen(transport: str) -> str:
    """Where to listen on loopback, at a port of the system's choosing."""
    return LISTEN[transport]


@dataclass
class Daemon:
    """A responder process. ``addresses`` are its real ones, over the transport asked for."""

    process: subprocess.Popen
    peer_id: str
    addresses: list[str]

    @property
    def port(self) -> int:
        return int(self.addresses[0].split("/")[4])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start_responder(tmp_path: Path) -> Iterator:
    """``start_responder(transport, port=0)`` starts a daemon; all of one test have the same key."""
    started = []

    def start(transport: str, port: int = 0) -> Daemon:
        listen = LISTEN[transport].replace("/udp/0", f"/udp/{port}").replace("/tcp/0", f"/tcp/{port}")
        process = subprocess.Popen(
            [sys.executable, str(HERE / "responder.py"), str(tmp_path / "responder.key"), listen],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        said = json.loads(process.stdout.readline())
        return Daemon(process, said["peer_id"], said["addresses"])

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def hosts(nursery: trio.Nursery) -> Callable[..., Awaitable[Host]]:
    """``await hosts()`` is a host that only dials, ``await hosts("quic", "tcp")`` one that listens as well.

    They know everybody; pass ``known`` for one that does not.
    """

    async def start(*transports: str, known: Callable[[str], bool] = lambda _peer_id: True, **options) -> Host:
        host = Host(Identity.generate(), [LISTEN[name] for name in transports], known=known, **options)
        await nursery.start(host.run)
        return host

    return start


@pytest.fixture
def free_port() -> int:
    """A port that is free for UDP and for TCP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
