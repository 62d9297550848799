"""Reaching peers, and being reached, through relays: the client side of libp2p's circuit relay v2.

A daemon that can only dial out keeps a reservation at each of its relays, and is then reachable at
``<address of the relay>/p2p/<relay>/p2p-circuit/p2p/<its PeerId>``. Inside the circuit the two ends shake hands as on
any other connection, Noise with the keys behind both PeerIds: a relay sees sizes and times, and can cut, but neither
read nor pretend to be one of them. (:mod:`actors.remote.relay` is the other side.)

libp2p's own client keeps reservations and dials of its own accord, at addresses it heard from others; this one uses the
relays that the operator named, and no others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog
import trio
from libp2p.abc import INetConn, INetStream
from libp2p.connection_types import ConnectionType
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import IOException
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status, StopMessage
from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId as WirePeer
from multiaddr import Multiaddr

from actors.remote.discovery import PeerAddresses
from actors.remote.frames import StreamEnded
from actors.remote.host import Host, reset_stream
from actors.remote.multiaddrs import CIRCUIT, split_peer
from actors.remote.wire import read_message, write_message
from syndb_common.errors import PeerUnavailable

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"

ANSWER_SECONDS = 10.0
"""For one message to or from a relay; it may have to ask the other peer first."""

SILENCE_SECONDS = 2.0
"""A relay whose connection stands and that does not let a stream be opened for so long is dialled afresh: QUIC does not
notice that a connection leads nowhere, and who only dials through a relay does not ask it for signs of life."""

RETRY_SECONDS = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Pauses between attempts to reserve. A relay that refuses will hardly change its mind within the minute."""

RENEW_SHARE = 0.5
"""Of a reservation's life, after which it is renewed."""

log = structlog.get_logger()


class Circuits:
    """A host's use of relays. It dials through them from the start, and is reached through them while :meth:`run` runs.

    Args:
        host: gets ``dial_circuit`` and ``circuit_addresses``.
        relays: where to keep reservations.
    """

    def __init__(self, host: Host, relays: Sequence[PeerAddresses] = ()) -> None:
        self._host = host
        self._relays = relays
        self._reserved: set[str] = set()
        host.dial_circuit = self.dial
        host.set_raw_handler(STOP, self._accept)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the reservations until cancelled, from when the host runs; started at once, wherever the relays are."""
        task_status.started()
        await self._host.running.wait()
        async with trio.open_nursery() as nursery:
            for relay in self._relays:
                nursery.start_soon(self._stay_reserved, relay)

    async def dial(self, address: Multiaddr, peer: ID) -> INetConn:
        """A connection to ``peer`` through the relay that ``address`` names; the caller sets the deadline.

        Raises:
            PeerUnavailable: the relay is unreachable, or does not connect us.
            Exception: whatever libp2p raises when the handshake fails.
        """
        place, _, rest = str(address).partition(CIRCUIT)
        _, relay = split_peer(place)
        if not relay or CIRCUIT in rest or relay == str(peer):
            raise PeerUnavailable(f"{address} is no address through a relay")
        await self._host.connect(relay, [place], timeout=ANSWER_SECONDS)
        hop: INetStream | None = None
        tried = self._host.connection(relay)
        with trio.move_on_after(SILENCE_SECONDS):
            hop = await self._hop(relay)
        if hop is None:
            await self._host.disconnect(relay, up_to=tried)
            await self._host.connect(relay, [place], timeout=ANSWER_SECONDS)
            hop = await self._hop(relay)
        question = HopMessage(type=HopMessage.CONNECT, peer=WirePeer(id=peer.to_bytes()))
        stream, _ = await self._exchange(relay, hop, question)
        circuit = CircuitStream(stream)
        try:
            self._host.watch(stream, circuit)
            raw = RawConnection(circuit, True, ConnectionType.RELAYED, [address])
            return await self._host.upgrade_circuit(raw, peer)
        except BaseException:
            await circuit.close()
            raise

    async def _stay_reserved(self, relay: PeerAddresses) -> None:
        failures = 0
        while True:
            try:
                await self._host.connect(relay.peer_id, relay.addresses, timeout=ANSWER_SECONDS)
                seconds = await self._reserve(relay.peer_id)
            except PeerUnavailable as error:
                if not failures:
                    log.warning("relay_unavailable", relay=relay.peer_id, why=error.message)
                await trio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
                failures += 1
                continue
            failures = 0
            self._set_reserved(relay, reserved=True)
            with trio.move_on_after(seconds * RENEW_SHARE) as until_renewal:
                await self._host.lost(relay.peer_id)
            if not until_renewal.cancelled_caught:
                self._set_reserved(relay, reserved=False)

    async def _reserve(self, relay: str) -> float:
        """Make or renew a reservation; returns for how many seconds it holds."""
        question = HopMessage(type=HopMessage.RESERVE)
        stream, answer = await self._exchange(relay, await self._hop(relay), question)
        await reset_stream(stream)
        return min(max(answer.reservation.expire - time.time(), 60.0), 86_400.0)

    def _set_reserved(self, relay: PeerAddresses, *, reserved: bool) -> None:
        if reserved != (relay.peer_id in self._reserved):
            log.info("relay_reserved" if reserved else "relay_lost", relay=relay.peer_id)
        (self._reserved.add if reserved else self._reserved.discard)(relay.peer_id)
        self._host.circuit_addresses = tuple(
            f"{place}{CIRCUIT}/p2p/{self._host.peer_id}"
            for known in self._relays
            if known.peer_id in self._reserved
            for place in known.addresses
        )

    async def _hop(self, relay: str) -> INetStream:
        """A stream for one question to a relay."""
        return await self._host.open_raw_stream(relay, HOP, timeout=ANSWER_SECONDS)

    async def _exchange(self, relay: str, stream: INetStream, question: HopMessage) -> tuple[INetStream, HopMessage]:
        """One question to a relay, and its answer, which is yes."""
        try:
            with trio.fail_after(ANSWER_SECONDS):
                await write_message(stream, question)
                answer = await read_message(stream, HopMessage)
        except (StreamEnded, trio.TooSlowError) as error:
            await reset_stream(stream)
            raise PeerUnavailable(f"the relay {relay} gave no answer") from error
        except BaseException:
            await reset_stream(stream)
            raise
        if answer.type == HopMessage.STATUS and answer.status == Status.OK:
            return stream, answer
        await reset_stream(stream)
        raise PeerUnavailable(f"the relay {relay} says {_name(answer.status)}", hint=_HINTS.get(answer.status, ""))

    async def _accept(self, stream: INetStream) -> None:
        """A relay brings somebody, who has to prove who it is like everybody else."""
        relay = str(stream.muxed_conn.peer_id)
        with trio.fail_after(ANSWER_SECONDS):
            question = await read_message(stream, StopMessage)
            welcome = relay in self._reserved and question.type == StopMessage.CONNECT
            status = Status.OK if welcome else Status.PERMISSION_DENIED
            await write_message(stream, StopMessage(type=StopMessage.STATUS, status=status))
        if not welcome:
            with trio.move_on_after(1):
                await stream.close()
            return
        circuit = CircuitStream(stream)
        try:
            self._host.watch(stream, circuit)
            await self._host.accept_circuit(circuit)
        finally:
            await circuit.close()


class CircuitStream(ReadWriteCloser):
    """A stream to a relay, used as if it were a socket to the peer behind it."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._reading: trio.CancelScope | None = None
        self._over = False

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes; none when the circuit has ended in whatever way."""
        if self._over:
            return b""
        with trio.CancelScope() as self._reading:
            try:
                return await self._stream.read(n)
            except Exception:
                self._over = True
        return b""

    async def write(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            IOException: the circuit has ended.
        """
        if self._over:
            raise IOException("the circuit has ended")
        try:
            await self._stream.write(data)
        except Exception as error:
            self.end()
            raise IOException("the circuit has ended") from error

    async def close(self) -> None:
        """End the circuit."""
        self.end()
        await reset_stream(self._stream)

    def end(self) -> None:
        """Wake who reads: the connection to the relay is gone."""
        self._over = True
        if self._reading is not None:
            self._reading.cancel()

    def get_remote_address(self) -> None:
        """Nobody knows where the other end is."""
        return


_HINTS = {
    Status.NO_RESERVATION: "The peer has no reservation at this relay now: is it running, and is the relay named in its"
    " settings?",
    Status.PERMISSION_DENIED: "The relay serves members of its own federation only.",
    Status.RESERVATION_REFUSED: "The relay has no place left.",
    Status.RESOURCE_LIMIT_EXCEEDED: "The relay carries as many connections as it is allowed to.",
}


def _name(status: int) -> str:
    try:
        return Status.Name(status)  # type: ignore[arg-type]
    except ValueError:
        return str(status)
