"""A daemon's place on the network: libp2p over QUIC, with TCP (Noise, Yamux) as second address, under one PeerId.

What others can do to a host is bounded: connections, streams at once (per peer and in all), the time a handshake
may take. Every handler is guarded: whatever it raises costs its own stream and one line in the log, never the host.
What a host does itself has a deadline: connecting, opening, sending, receiving.

::

    async with open_host(Identity.load_or_create(path), ["/ip4/0.0.0.0/udp/4001/quic-v1"]) as host:
        host.set_handler("/syndb/echo/1", echo)
        await host.connect(peer_id, addresses, timeout=10)
        stream = await host.open_stream(peer_id, "/syndb/echo/1", timeout=5)

A QUIC connection to a process that was killed looks alive for as long as nobody waits for an answer. Opening a stream
takes one: who fails to open a stream disconnects, and the next ``connect`` dials afresh.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
import trio
from libp2p.abc import INetConn, INetStream, IRawConnection
from libp2p.custom_types import TProtocol
from libp2p.host.ping import ID as PING
from libp2p.host.ping import PING_LENGTH
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.utils import read_exactly
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from actors.remote.dialling import DialCircuit, dial, innermost
from actors.remote.frames import MAX_FRAME_BYTES, FrameStream, FrameTooLarge, StreamEnded
from actors.remote.identity import Identity, is_peer_id
from actors.remote.inbound import MAX_INBOUND_CONNECTIONS
from actors.remote.multiaddrs import (
    candidates,
    check_port_is_free,
    on_real_interfaces,
    parse_listen,
    transport_order,
)
from actors.remote.swarm import DaemonSwarm, Ending, new_host, quiet_logging
from actors.remote.transport import Frames
from syndb_common.errors import ConfigError, InvalidRequest, PeerUnavailable

MAX_STREAMS_PER_PEER = 64
"""Inbound streams of one peer at once: a pool of idle ones and all queries a hub sends to one node."""

STREAMS_PER_CONNECTION = 8
"""Inbound streams of all peers at once, for each connection there may be."""

MAX_STREAMS_OF_STRANGERS = 256
"""Inbound streams of all peers that are not known, at once."""

MAX_STRANGER_FRAME_BYTES = 64 * 1024
"""Largest frame of a peer that is not known; joining takes a few kilobytes."""

PROBE_SECONDS = 1.0
"""Between two signs of life of a peer that is watched (:meth:`Host.lost`): 32 bytes each way."""

PROBE_TIMEOUT_SECONDS = 2.5
"""A peer that gives none for so long is gone. A lost packet is sent anew within it, also across an ocean."""

DISCONNECT_SECONDS = 3.0
STOP_SECONDS = 3.0

Handler = Callable[[FrameStream], Awaitable[None]]
RawHandler = Callable[[INetStream], Awaitable[None]]

log = structlog.get_logger()


@dataclass
class _Load:
    total: int = 0
    strangers: int = 0
    by_peer: Counter[ID] = field(default_factory=Counter)


class Host:
    """libp2p for one daemon. Start it with ``await nursery.start(host.run)`` or :func:`open_host`.

    Args:
        identity: whose PeerId this host has.
        listen: multiaddrs, ``/ip4/.../udp/.../quic-v1`` and ``/ip4/.../tcp/...``; port 0 lets the system choose.
        known: whether a PeerId is one the daemon knows, such as a member of its federation; asked each time. What
            others may take is small, see :mod:`actors.remote.inbound`.
        max_connections: inbound connections there may be.

    Attributes:
        peer_id: the identity's PeerId.
        running: set once it listens, and can dial.
        known: as given; may be replaced.
        counters: ``handler_failures``, ``refused_streams``, ``refused_connections``, ``silent_connections`` since the
            start.
        dial_circuit: dials addresses through relays; set by :mod:`actors.remote.relay`.
        circuit_addresses: where this host is reached through relays; set there as well.
    """

    def __init__(
        self,
        identity: Identity,
        listen: Sequence[str],
        *,
        known: Callable[[str], bool] = lambda _peer_id: False,
        max_connections: int = MAX_INBOUND_CONNECTIONS,
    ) -> None:
        quiet_logging()
        self.peer_id = identity.peer_id
        self.running = trio.Event()
        self._listen = [parse_listen(text) for text in listen]
        self.known = known
        self._swarm = DaemonSwarm(identity.key_pair, lambda peer_id: self.known(peer_id), max_connections)
        self._max_streams = STREAMS_PER_CONNECTION * max_connections
        self._libp2p = new_host(self._swarm)
        self._swarm.set_stream_handler(self._admit)
        self.counters = self._swarm.counters
        self.dial_circuit: DialCircuit | None = None
        self.circuit_addresses: tuple[str, ...] = ()
        self._load = _Load()
        self._dialling: dict[str, trio.Event] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; reports started once every address is bound.

        Raises:
            ConfigError: an address cannot be listened on, for instance because its port is taken.
        """
        for address in self._listen:
            check_port_is_free(address)
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            missing = await nursery.start(self._run_libp2p, stop)
            try:
                if not missing:
                    self.running.set()
                    task_status.started()
                    await trio.sleep_forever()
            finally:
                stop.set()
        raise ConfigError(f"cannot listen on {', '.join(missing)}", hint="is the address one of this machine?")

    async def _run_libp2p(self, stop: trio.Event, *, task_status: trio.TaskStatus[list[str]]) -> None:
        """Shielded, because cancelling libp2p leaves its sockets open and its peers untold; stopping it does not."""
        with trio.CancelScope(shield=True) as shield:
            async with self._libp2p.run(listen_addrs=self._listen):
                bound = self._swarm.listeners
                task_status.started([str(address) for address in self._listen if str(address) not in bound])
                await stop.wait()
                shield.deadline = trio.current_time() + STOP_SECONDS
                await self._libp2p.close()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others reach this host, QUIC first, relays last, each ending in ``/p2p/`` and the PeerId."""
        real = list(self.circuit_addresses)
        for address in self._libp2p.get_transport_addrs():
            real.extend(f"{text}/p2p/{self.peer_id}" for text in on_real_interfaces(str(address)))
        return tuple(sorted(dict.fromkeys(real), key=transport_order))

    def set_handler(self, protocol: str, handler: Handler) -> None:
        """Answer streams of ``protocol``. The handler owns the stream; it is closed when the handler returns.

        A handler that raises loses its stream and is counted. It is not told apart by what it raised, except
        that ends of streams and missed deadlines are ordinary and not logged as faults.
        """

        async def on_frames(stream: INetStream) -> None:
            frames = self._swarm.adopt(stream)
            peer = frames.peer_id
            frames.limit = lambda: MAX_FRAME_BYTES if self.known(peer) else MAX_STRANGER_FRAME_BYTES
            try:
                await handler(frames)
            except BaseException:
                await frames.reset()
                raise
            await frames.close()

        self.set_raw_handler(protocol, on_frames)

    def set_raw_handler(self, protocol: str, handler: RawHandler) -> None:
        """The same for protocols that are not made of our frames. The handler ends the stream itself."""

        async def guarded(stream: INetStream) -> None:
            peer = str(stream.muxed_conn.peer_id)
            try:
                await handler(stream)
            except (StreamEnded, FrameTooLarge, trio.TooSlowError) as error:
                log.debug("stream_ended", protocol=protocol, peer=peer, how=type(error).__name__)
                await reset_stream(stream)
            except Exception:
                self.counters["handler_failures"] += 1
                log.exception("stream_handler_failed", protocol=protocol, peer=peer)
                await reset_stream(stream)

        self._libp2p.set_stream_handler(TProtocol(protocol), guarded)

    def is_connected(self, peer_id: str) -> bool:
        """Whether a connection is open. It may lead to a process that is gone."""
        return self.connection(peer_id) is not None

    def connection(self, peer_id: str) -> object | None:
        """The connection on which a stream to the peer would be opened now; none when not connected."""
        return self._connection(_peer(peer_id))

    @property
    def connected_peers(self) -> tuple[str, ...]:
        """PeerIds to which a connection is open."""
        return tuple(str(peer) for peer in self._swarm.connections if self._connection(peer) is not None)

    def observed_hosts(self, peer_id: str) -> tuple[str, ...]:
        """IP addresses from which the peer's present connections come; none for those through a relay."""
        return self._swarm.observed_hosts(_peer(peer_id))

    async def connect(self, peer_id: str, addresses: Sequence[str], *, timeout: float) -> None:  # noqa: ASYNC109
        """Have a connection to ``peer_id``: an open one, or a new one to the first address that answers as it.

        QUIC addresses have a short head start before the others, those through a relay come last. Concurrent calls
        for one peer dial once. A host that is starting dials as soon as it is :attr:`running`.

        Raises:
            PeerUnavailable: none of the addresses led to this peer in time. The message says why for each.
            InvalidRequest: the PeerId is none.
        """
        peer = _peer(peer_id)
        deadline = trio.current_time() + timeout
        with trio.move_on_at(deadline):
            await self.running.wait()
        if not self.running.is_set():
            raise PeerUnavailable("this daemon's own network is not up yet", hint="Try again in a moment.")
        while self._connection(peer) is None:
            if (others := self._dialling.get(peer_id)) is not None:
                with trio.move_on_at(deadline):
                    await others.wait()
                if trio.current_time() >= deadline:
                    raise PeerUnavailable(f"no connection to {peer_id} within {timeout:g} s")
                continue
            self._dialling[peer_id] = done = trio.Event()
            try:
                await dial(self._swarm, peer, candidates(peer_id, addresses), deadline, circuit=self.dial_circuit)
            finally:
                del self._dialling[peer_id]
                done.set()

    async def open_stream(self, peer_id: str, protocol: str, *, timeout: float) -> FrameStream:  # noqa: ASYNC109
        """A stream to a connected peer, agreed on ``protocol``.

        Raises:
            PeerUnavailable: not connected, the peer does not speak the protocol, or it did not answer in time.
        """
        stream = await self.open_raw_stream(peer_id, protocol, timeout=timeout)
        try:
            return self._swarm.adopt(stream)
        except StreamEnded:
            raise PeerUnavailable(f"the connection to {peer_id} was closed") from None

    async def open_raw_stream(self, peer_id: str, protocol: str, *, timeout: float) -> INetStream:  # noqa: ASYNC109
        """The same for protocols that are not made of our frames."""
        peer = _peer(peer_id)
        connection = self._connection(peer)
        if connection is None:
            raise PeerUnavailable(f"not connected to {peer}")
        return await self._open(connection, TProtocol(protocol), timeout)

    def watch(self, stream: INetStream, ending: Ending) -> None:
        """Call ``ending.end()`` when the connection of a raw stream is gone: libp2p leaves its readers waiting.

        Raises:
            StreamEnded: it is gone already.
        """
        self._swarm.watch(stream, ending)

    async def upgrade_circuit(self, raw: IRawConnection, peer: ID) -> INetConn:
        """Shake hands with a peer through a circuit, and take the connection in."""
        return await self._swarm.upgrade_outbound_raw_conn(raw, peer)

    async def accept_circuit(self, circuit: ReadWriteCloser) -> None:
        """Shake hands with whoever comes through a circuit, take the connection in, and return when it ends."""
        await self._swarm.accept(circuit)

    async def lost(self, peer_id: str) -> None:
        """Return as soon as the present connection to a peer has ended, at once where there is none.

        Meanwhile the peer is asked for a sign of life every second. A process that was killed says no goodbye, and
        QUIC does not notice: when the answer stays out, the connection is closed here, which ends whatever waits on
        its streams. A node that calls this while it is joined knows within seconds that its hub restarted::

            with trio.move_on_after(patience):
                await host.lost(hub_peer_id)
        """
        connection = self._connection(_peer(peer_id))
        if connection is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_for_life, connection)
            await connection.event_closed.wait()
            nursery.cancel_scope.cancel()

    async def disconnect(self, peer_id: str, *, up_to: object | None = None) -> None:
        """Close the connections to the peer; what waits on their streams is told at once.

        Args:
            peer_id: whose connections.
            up_to: only this one (:meth:`connection`) and what is older, because it proved dead. A newer one stays: of
                two who find a peer silent at once, the second does not cut what the first has just mended.
        """
        connections = list(self._swarm.connections.get(_peer(peer_id), ()))
        while up_to is not None and connections and connections[-1] is not up_to:
            connections.pop()
        with trio.move_on_after(DISCONNECT_SECONDS, shield=True):
            for connection in connections:
                await connection.close()

    def reset_soon(self, stream: Frames) -> None:
        """Reset a stream without waiting for it."""
        if not self._swarm.manager.is_cancelled:
            self._swarm.manager.run_task(stream.reset)

    def _connection(self, peer: ID) -> SwarmConn | None:
        """The newest open connection: an older one may lead to a process that has been replaced."""
        for connection in reversed(self._swarm.connections.get(peer, [])):
            if isinstance(connection, SwarmConn) and not connection.is_closed:
                return connection
        return None

    async def _ask_for_life(self, connection: SwarmConn) -> None:
        peer, stream = connection.muxed_conn.peer_id, None
        try:
            with trio.CancelScope() as patience:
                while True:
                    patience.deadline = trio.current_time() + PROBE_TIMEOUT_SECONDS
                    if stream is None:
                        stream = await self._open(connection, PING, PROBE_TIMEOUT_SECONDS)
                    payload = secrets.token_bytes(PING_LENGTH)
                    await stream.write(payload)
                    if await read_exactly(stream, PING_LENGTH) != payload:
                        break
                    patience.deadline = trio.current_time() + 2 * PROBE_SECONDS
                    await trio.sleep(PROBE_SECONDS)
        except Exception as error:
            log.debug("sign_of_life_failed", peer=str(peer), why=repr(error))
        finally:
            if stream is not None:
                await reset_stream(stream)
        self.counters["silent_connections"] += 1
        log.info("peer_gave_no_sign_of_life", peer=str(peer))
        with trio.move_on_after(DISCONNECT_SECONDS, shield=True):
            await connection.close()

    async def _open(self, connection: SwarmConn, protocol: TProtocol, timeout: float) -> INetStream:  # noqa: ASYNC109
        peer = connection.muxed_conn.peer_id
        stream: INetStream | None = None
        agreed = False
        try:
            with trio.move_on_after(timeout):
                stream = await connection.new_stream()
                await self._libp2p.multiselect_client.select_one_of([protocol], MultiselectCommunicator(stream))
                stream.set_protocol(protocol)
                agreed = True
                return stream
        except Exception as error:
            raise PeerUnavailable(f"cannot open a stream to {peer}: {innermost(error)}") from error
        finally:
            if stream is not None and not agreed:
                await reset_stream(stream)
        raise PeerUnavailable(f"{peer} did not answer within {timeout:g} s")

    async def _admit(self, stream: INetStream) -> None:
        """Everything an inbound stream does happens in here, so that nothing it raises reaches libp2p."""
        load, peer = self._load, stream.muxed_conn.peer_id
        stranger = not self.known(str(peer))
        if (
            load.total >= self._max_streams
            or load.by_peer[peer] >= MAX_STREAMS_PER_PEER
            or (stranger and load.strangers >= MAX_STREAMS_OF_STRANGERS)
        ):
            self.counters["refused_streams"] += 1
            await reset_stream(stream)
            return
        load.total += 1
        load.strangers += stranger
        load.by_peer[peer] += 1
        try:
            await self._libp2p._swarm_stream_handler(stream)
        except Exception as error:
            log.debug("stream_refused", peer=str(peer), why=repr(error))
            await reset_stream(stream)
        finally:
            load.total -= 1
            load.strangers -= stranger
            load.by_peer[peer] -= 1
            if not load.by_peer[peer]:
                del load.by_peer[peer]


@asynccontextmanager
async def open_host(
    identity: Identity, listen: Sequence[str], *, known: Callable[[str], bool] = lambda _peer_id: False
) -> AsyncIterator[Host]:
    """A host that listens within the block."""
    host = Host(identity, listen, known=known)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        yield host
        nursery.cancel_scope.cancel()


async def reset_stream(stream: INetStream) -> None:
    """End a stream at once, also while being cancelled."""
    with trio.move_on_after(1, shield=True):
        await stream.reset()


def _peer(peer_id: str) -> ID:
    if not is_peer_id(peer_id):
        raise InvalidRequest(f"{peer_id[:100]!r} is not a PeerId")
    return ID.from_base58(peer_id)
