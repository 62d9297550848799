"""Carrying connections for daemons that can only dial out: a circuit relay v2, for those this daemon trusts.

A peer reserves a place; while its connection to us lasts, others reach it through us: their bytes go in here and out
there, sealed between the two. Who may reserve is the daemon's decision (a hub lets its members, a node its hub). Who
may ask to be connected is not restricted, since it is a node that has not joined yet that needs it most: what it may
use is.

libp2p's own relay writes status messages into running circuits, mixes up circuits between the same two peers, and
cannot refuse anybody; this one is as large as what it does.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio
from libp2p.abc import INetStream
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Limit, Reservation, Status, StopMessage
from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId as WirePeer

from actors.remote.circuits import ANSWER_SECONDS, HOP, STOP
from actors.remote.frames import StreamEnded
from actors.remote.host import Host, reset_stream
from actors.remote.swarm import remote_host
from actors.remote.wire import read_message, write_message
from syndb_common.errors import PeerUnavailable

CHUNK_BYTES = 64 * 1024
WRITE_SECONDS = 30.0
"""A circuit whose receiver takes nothing for so long is cut."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What the relay gives.

    Attributes:
        reservations: peers that can be reached through it at once.
        reservation_seconds: until a reservation has to be renewed.
        circuits: connections carried at once.
        circuits_per_peer: of one peer that asked for them.
        circuits_per_host: of one IP address that asked for them, since PeerIds cost nothing.
        seconds: one circuit lasts at most.
        bytes: one circuit carries at most, both directions together.
    """

    reservations: int = 128
    reservation_seconds: int = 3600
    circuits: int = 128
    circuits_per_peer: int = 4
    circuits_per_host: int = 32
    seconds: int = 6 * 3600
    bytes: int = 1 << 30


class RelayService:
    """Answers peers that reserve or ask to be connected, from now on.

    Args:
        host: whose connections are used.
        may_reserve: whether a PeerId may be reached through this daemon; asked each time.
        limits: what it gives.

    Attributes:
        carried: ``circuits`` and ``bytes`` since the start, and ``refused`` requests.
    """

    def __init__(self, host: Host, may_reserve: Callable[[str], bool], limits: RelayLimits | None = None) -> None:
        self.carried: Counter[str] = Counter()
        self._host = host
        self._may_reserve = may_reserve
        self._limits = limits or RelayLimits()
        self._reservations: dict[str, float] = {}
        self._circuits: Counter[str] = Counter()
        """Open ones: in all, under the name "", by PeerId and by IP address of who asked for them."""
        host.set_raw_handler(HOP, self._answer)

    @property
    def circuits(self) -> int:
        """Connections carried now."""
        return self._circuits[""]

    async def _answer(self, stream: INetStream) -> None:
        try:
            with trio.fail_after(ANSWER_SECONDS):
                question = await read_message(stream, HopMessage)
            if question.type == HopMessage.CONNECT:
                await self._connect(stream, question.peer.id)
            elif question.type == HopMessage.RESERVE:
                await self._say(stream, self._reserve(stream))
            else:
                await self._refuse(stream, Status.MALFORMED_MESSAGE)
        finally:
            await reset_stream(stream)

    def _reserve(self, stream: INetStream) -> HopMessage:
        peer_id, now = str(stream.muxed_conn.peer_id), trio.current_time()
        self._reservations = {peer: until for peer, until in self._reservations.items() if until > now}
        if not remote_host(stream.muxed_conn) or not self._may_reserve(peer_id):
            return self._refusal(Status.PERMISSION_DENIED)
        if peer_id not in self._reservations and len(self._reservations) >= self._limits.reservations:
            return self._refusal(Status.RESERVATION_REFUSED)
        self._reservations[peer_id] = now + self._limits.reservation_seconds
        return HopMessage(
            type=HopMessage.STATUS,
            status=Status.OK,
            reservation=Reservation(expire=int(time.time()) + self._limits.reservation_seconds),
            limit=self._limit(),
        )

    async def _connect(self, stream: INetStream, target: bytes) -> None:
        asking = stream.muxed_conn.peer_id
        origin = remote_host(stream.muxed_conn)
        peer_id = str(ID(target)) if 0 < len(target) <= 64 else ""
        names, limits = ("", str(asking), origin), self._limits
        if not origin or peer_id == str(asking):
            await self._refuse(stream, Status.PERMISSION_DENIED)
        elif self._reservations.get(peer_id, 0) <= trio.current_time() or not self._host.is_connected(peer_id):
            await self._refuse(stream, Status.NO_RESERVATION)
        elif not self._may_reserve(peer_id):
            await self._refuse(stream, Status.PERMISSION_DENIED)
        elif any(
            self._circuits[name] >= most
            for name, most in zip(
                names, (limits.circuits, limits.circuits_per_peer, limits.circuits_per_host), strict=True
            )
        ):
            await self._refuse(stream, Status.RESOURCE_LIMIT_EXCEEDED)
        else:
            self._circuits.update(names)
            try:
                await self._carry(stream, asking, peer_id)
            finally:
                self._circuits.subtract(names)
                self._circuits = +self._circuits

    async def _carry(self, stream: INetStream, asking: ID, peer_id: str) -> None:
        try:
            far = await self._host.open_raw_stream(peer_id, STOP, timeout=ANSWER_SECONDS)
        except PeerUnavailable:
            await self._refuse(stream, Status.CONNECTION_FAILED)
            return
        try:
            try:
                with trio.fail_after(ANSWER_SECONDS):
                    question = StopMessage(
                        type=StopMessage.CONNECT, peer=WirePeer(id=asking.to_bytes()), limit=self._limit()
                    )
                    await write_message(far, question)
                    accepted = (await read_message(far, StopMessage)).status == Status.OK
            except (StreamEnded, trio.TooSlowError):
                accepted = False
            if not accepted:
                await self._refuse(stream, Status.CONNECTION_FAILED)
                return
            await self._say(stream, HopMessage(type=HopMessage.STATUS, status=Status.OK, limit=self._limit()))
            self.carried["circuits"] += 1
            log.info("circuit_opened", source=str(asking), target=peer_id)
            await self._splice(stream, far)
        finally:
            await reset_stream(far)

    async def _splice(self, near: INetStream, far: INetStream) -> None:
        """Carry bytes both ways until one end is over, or the circuit has had its share."""
        left = self._limits.bytes
        with trio.move_on_after(self._limits.seconds):
            async with trio.open_nursery() as nursery:

                async def pump(source: INetStream, target: INetStream) -> None:
                    nonlocal left
                    with contextlib.suppress(Exception):
                        while chunk := await source.read(min(CHUNK_BYTES, left)):
                            left -= len(chunk)
                            self.carried["bytes"] += len(chunk)
                            with trio.fail_after(WRITE_SECONDS):
                                await target.write(chunk)
                            if left <= 0:
                                break
                    nursery.cancel_scope.cancel()

                async def watch(stream: INetStream) -> None:
                    # libp2p does not wake who reads from a stream whose connection is gone.
                    if isinstance(stream, NetStream) and stream.swarm_conn is not None:
                        await stream.swarm_conn.event_closed.wait()
                        nursery.cancel_scope.cancel()

                nursery.start_soon(pump, near, far)
                nursery.start_soon(pump, far, near)
                nursery.start_soon(watch, near)
                nursery.start_soon(watch, far)

    def _limit(self) -> Limit:
        return Limit(duration=self._limits.seconds, data=self._limits.bytes)

    def _refusal(self, status: Status.ValueType) -> HopMessage:
        self.carried["refused"] += 1
        return HopMessage(type=HopMessage.STATUS, status=status)

    async def _refuse(self, stream: INetStream, status: Status.ValueType) -> None:
        await self._say(stream, self._refusal(status))

    async def _say(self, stream: INetStream, message: HopMessage) -> None:
        """Send an answer; unless it opens a circuit, it is the last one, and who asked ends the stream."""
        with trio.fail_after(ANSWER_SECONDS):
            await write_message(stream, message)
            if message.status != Status.OK or message.HasField("reservation"):
                with contextlib.suppress(StreamEnded):
                    await read_message(stream, HopMessage)
