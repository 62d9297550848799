"""Peers that send nonsense, or too much, to a real hub: its node stays healthy, and its memory stays what it was.

They come as strangers and as a member that knows the password, over QUIC and over TCP.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

import msgpack
import pytest
import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID

from actors.health import HealthPolicy
from actors.joining import Application, Membership, join
from actors.remote.host import Host, open_host
from actors.remote.identity import Identity
from actors.remote.proof import derive_key
from actors.remote.rpc import PROTOCOL, RemoteRef, RpcClient
from demo.local import LocalFederation, local_federation
from syndb_common.errors import PeerUnavailable
from syndb_common.messages import PROTOCOL_VERSION, Endpoints
from tests.federation.processes import memory_bytes

FRAMES = 500
STREAMS = 10_000
GROWTH_BYTES = 96 * 1024 * 1024
"""What the hub may grow by from all of this together; one flood that is kept would take gigabytes."""

USUAL_SECONDS = HealthPolicy().degraded_latency
"""A ping of the node through the hub takes less all the while: nobody would call the node slow."""
ANSWER_SECONDS = HealthPolicy().cycle
"""No single one takes longer: every node is still asked in its turn."""

A_STREAM = 5
"""Malformed frames on one stream: the hub answers so many, then resets it."""

AT_ONCE = 5
"""Streams of one hostile peer, well below what the hub allows it, so that each frame is read and none turned away."""

FLOOD_SECONDS = 2.0
PING_SECONDS = 0.2
PAUSE_SECONDS = 0.01
READ_SECONDS = 0.5
"""libp2p leaves who reads a stream waiting when its connection is closed."""


class Attacked:
    """A hub with the healthy node ``a``, and a member that means ill.

    Attributes:
        member: the key of a node that has joined with the password.
        before: memory of the hub before the first attack, bytes.
    """

    def __init__(self, federation: LocalFederation) -> None:
        self.federation = federation
        self.member = Identity.generate()
        trio.run(self._join)
        (self._node,) = [node["id"] for node in federation.get("/v1/federation/clusters") if node["name"] == "a"]
        self.before = self.memory()

    def memory(self) -> int:
        """Of the hub's own process."""
        return memory_bytes(self.federation.daemons["hub"])

    @contextlib.asynccontextmanager
    async def hostile(self, who: str, transport: str) -> AsyncIterator[Hostile]:
        """A peer that is connected to the hub, as a ``stranger`` or as the ``member``."""
        listens = {"quic": self.federation.hub_listen[0], "tcp": self.federation.hub_listen[1]}
        identity = self.member if who == "member" else Identity.generate()
        async with open_host(identity, []) as host:
            yield Hostile(who, host, self.federation.hub_peer_id, listens[transport])

    @contextlib.contextmanager
    def unaffected(self) -> Iterator[None]:
        """Within the block the node is healthy, answers through the hub in time, and the hub does not grow."""
        over = threading.Event()

        def watch() -> list[tuple[str, float, int]]:
            seen: list[tuple[str, float, int]] = []
            while not over.is_set() or not seen:
                began = time.monotonic()
                found = self.federation.post(f"/v1/federation/clusters/{self._node}/verify", {}, timeout=30)
                seen.append((found["cluster"]["health"], time.monotonic() - began, self.memory()))
                over.wait(PING_SECONDS)
            return seen

        with ThreadPoolExecutor(1) as watcher:
            watched = watcher.submit(watch)
            try:
                yield
            finally:
                over.set()
        healths, seconds, memories = zip(*watched.result(), strict=True)
        assert set(healths) == {"healthy"}
        assert statistics.median(seconds) < USUAL_SECONDS
        assert max(seconds) < ANSWER_SECONDS
        assert max(memories) - self.before < GROWTH_BYTES

    async def _join(self) -> None:
        federation, nowhere = self.federation, Endpoints(multiaddrs=(), flight="", flight_certificate="")
        key = await derive_key(federation.password, federation.hub_peer_id)
        async with open_host(self.member, []) as host:
            hub = RemoteRef(RpcClient(host), federation.hub_peer_id, lambda: federation.hub_listen, "hub")
            who = Application(
                membership=Membership("hostile"), identity=self.member, endpoints=nowhere, schema_version=0
            )
            await join(hub, federation.hub_peer_id, key, who)


@dataclass(frozen=True, eq=False)
class Hostile:
    """A peer that speaks the transport and keeps no other rule."""

    who: str
    host: Host
    hub: str
    address: str

    async def stream(self) -> INetStream:
        """A new stream on a connection that stands, or else on a new one.

        Raises:
            Exception: the hub would not have it.
        """
        await self.host.connect(self.hub, [f"{self.address}/p2p/{self.hub}"], timeout=10)
        connection = self.host._connection(ID.from_base58(self.hub))
        if connection is None:
            raise PeerUnavailable("the connection was closed")
        return await connection.new_stream()

    async def send(self, data: bytes) -> None:
        """Agree on our protocol and send, all in one go, take what the hub says, and end the stream.

        Raises:
            Exception: the hub did not hear of the data.
        """
        stream, heard = await self.stream(), b""
        try:
            await stream.write(AGREE + data)
            with contextlib.suppress(BaseLibp2pError), trio.move_on_after(READ_SECONDS):
                while len(heard) < len(AGREE) or data.endswith(TOO_LARGE):
                    if not (more := await stream.read(65_536)):
                        break
                    heard += more
        finally:
            await stream.reset()
        if not heard.startswith(AGREE):
            raise PeerUnavailable("the stream was reset before anything was sent")


def line(text: str) -> bytes:
    """As multistream-select has it."""
    return bytes([len(text) + 1]) + text.encode() + b"\n"


AGREE = line("/multistream/1.0.0") + line(PROTOCOL)


@contextlib.asynccontextmanager
async def whatever_the_hub_does() -> AsyncIterator[None]:
    """The hub may end streams and connections as it likes, and libp2p has many kinds of errors for it."""
    try:
        yield
    except Exception:
        await trio.sleep(PAUSE_SECONDS)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with local_federation(tmp_path_factory.mktemp("federation"), ["a"]) as federation:
        federation.start_hub()
        federation.start_node("a")
        federation.wait_healthy(["a"], seconds=90)
        yield Attacked(federation)


def request(kind: str, **changes: object) -> bytes:
    fields = {"id": uuid4().bytes, "type": kind, "v": PROTOCOL_VERSION, "seconds": 5.0, "body": {}} | changes
    return msgpack.packb({key: value for key, value in fields.items() if value is not ...})


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


MAY_SEND = {"stranger": "JoinRequest", "member": "CatalogAnnouncement"}
DEEP = b"\x91" * 2000 + b"\xc0"
TOO_LARGE = b"\xff\xff\xff\xff"
"""A length for which the hub resets the stream."""


def unanswered(_kind: str) -> dict[str, bytes]:
    """Of these there can be one on a stream: it is not complete, or ends the stream."""
    return {
        "truncated": b"\x00\x00\x01\x00abc",
        "nothing": b"",
        "half a length": b"\x00\x00",
        "oversize": TOO_LARGE,
        "just too large": (1024 * 1024 + 1).to_bytes(4, "big"),
    }


def answered(kind: str) -> dict[str, bytes]:
    """Frames that are not, or hold no, request of a kind that the sender might send."""
    return {
        "not msgpack": framed(b"\xc1" * 100),
        "trailing bytes": framed(request(kind) + b"\x00"),
        "deep nesting": framed(DEEP),
        "deep body": framed(request(kind, body=...)[:-1] + b"\x00" + DEEP),
        "no map": framed(msgpack.packb([1, 2, 3])),
        "no id": framed(request(kind, id=...)),
        "short id": framed(request(kind, id=b"short")),
        "id of another type": framed(request(kind, id=7)),
        "unknown type": framed(request("Nonsense")),
        "type of another type": framed(request(kind, type=7)),
        "version of another type": framed(request(kind, v="two")),
        "huge version": framed(request(kind, v=2**62)),
        "endless deadline": framed(request(kind, seconds=float("inf"))),
        "negative deadline": framed(request(kind, seconds=-1.0)),
        "body of another type": framed(request(kind, body="text")),
        "body with wrong fields": framed(request(kind, body={"revision": "noon", "node_nonce": 7})),
        "many keys": framed(msgpack.packb({f"key {number}": number for number in range(1000)})),
    }


@pytest.mark.parametrize("frames", [unanswered, answered])
async def test_five_hundred_malformed_frames_of_each_kind_change_nothing(
    attacked: Attacked, frames: Callable[[str], dict[str, bytes]]
) -> None:
    ends = frames is unanswered
    peers = [(who, transport) for who in MAY_SEND for transport in ("quic", "tcp")]

    async def send(hostile: Hostile, kind: str, left: Counter[Hostile]) -> None:
        one = frames(MAY_SEND[hostile.who])[kind]
        data, count = (one, 1) if ends else (one * A_STREAM + TOO_LARGE, A_STREAM)
        while left[hostile] > 0:
            left[hostile] -= count
            async with whatever_the_hub_does():
                await hostile.send(data)
                continue
            left[hostile] += count

    async with contextlib.AsyncExitStack() as stack:
        hostile = [await stack.enter_async_context(attacked.hostile(*peer)) for peer in peers]
        for kind in frames(""):
            left = Counter({one: FRAMES // len(peers) for one in hostile})
            with attacked.unaffected(), trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for one in hostile * AT_ONCE:
                        nursery.start_soon(send, one, kind, left)


PEERS = pytest.mark.parametrize(("who", "transport"), [("stranger", "quic"), ("member", "tcp")])


@PEERS
async def test_ten_thousand_streams_of_one_peer_leave_room_for_others(
    attacked: Attacked, who: str, transport: str
) -> None:
    # QUIC lets a peer have 128 open; what it opens beyond waits at its own side, and makes that slow.
    at_once = 100 if transport == "quic" else STREAMS
    opened, held = 0, deque[INetStream]()
    with attacked.unaffected(), trio.fail_after(60):
        async with attacked.hostile(who, transport) as hostile:
            while opened < STREAMS:
                async with whatever_the_hub_does():
                    opened += 1
                    with trio.move_on_after(10):
                        stream = await hostile.stream()
                        held.append(stream)
                        await stream.write(AGREE)
                        if len(held) > at_once:
                            await held.popleft().reset()


@PEERS
@pytest.mark.parametrize("what", ["requests", "requests, deaf to answers", "one frame", "bytes"])
async def test_a_peer_that_sends_without_end_fills_no_memory(
    attacked: Attacked, who: str, transport: str, what: str
) -> None:
    body = {"revision": 1, "versions": []}
    data = {"one frame": b"x" * 65_536, "bytes": b"\xff" * 65_536}.get(
        what, framed(request(MAY_SEND[who], body=body)) * 100
    )
    sent = 0

    async def send(hostile: Hostile) -> None:
        nonlocal sent
        while True:
            async with whatever_the_hub_does():
                stream = await hostile.stream()
                await stream.write(AGREE)
                async with trio.open_nursery() as nursery:
                    if what != "requests, deaf to answers":
                        nursery.start_soon(listen, stream)
                    if what == "one frame":
                        await stream.write((60 * 1024).to_bytes(4, "big"))
                    while True:
                        await stream.write(data)
                        sent += len(data)
                        await trio.lowlevel.checkpoint()  # libp2p's writes may return without one

    async def listen(stream: INetStream) -> None:
        async with whatever_the_hub_does():
            while await stream.read(65_536):
                pass

    with attacked.unaffected():
        async with attacked.hostile(who, transport) as hostile, trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(send, hostile)
            await trio.sleep(FLOOD_SECONDS)
            nursery.cancel_scope.cancel()
    assert sent > 1024 * 1024
