"""The libp2p swarm with what a daemon that runs for months needs on top.

Measured with libp2p 0.8.1, and what is done about it here:

- By default a host also accepts connections in plain text, where a PeerId is claimed and not proved. Only Noise is
  offered on TCP; QUIC brings its own TLS.
- Each accepted connection keeps one of a fixed number of places for as long as the swarm runs, so that a hub stops
  accepting after some hundred reconnects. Here the place is given back when the connection ends.
- A stream left open by a closed connection is not woken. Whoever reads it is told here.
- A stream that the other side resets is never ended on ours, and QUIC runs out of streams after 128. Here it is.
- It dials peers on its own, at addresses those peers announced, to keep up a number of connections. Here only
  ``Host.connect`` dials, so that nobody makes a daemon connect to a place of their choosing.
- Every connection starts a mutual ``identify`` nobody here needs, and logs an error when it is too short-lived.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from aioquic.quic.connection import QuicConnection
from libp2p.abc import IMuxedConn, INetConn, INetStream
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol, TQUICConnHandlerFn
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.trio import TrioTCPStream
from libp2p.network.config import RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.quic.config import QUICTransportConfig
from libp2p.transport.quic.connection import QUICConnection
from libp2p.transport.quic.listener import QUICListener, QUICPacketInfo
from libp2p.transport.quic.stream import QUICStream
from libp2p.transport.quic.transport import QUICTransport
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from actors.remote.frames import FrameStream, StreamEnded
from actors.remote.inbound import Handshakes, Places

IDLE_SECONDS = 60.0
"""A QUIC connection without a packet for this long is dropped. Health pings come several times within it."""

NEGOTIATION_SECONDS = 10.0
"""For handshakes and for agreeing on a protocol: several round trips across an ocean, on a busy machine."""

_NEVER = 7 * 86_400.0
"""For what libp2p does by itself: reads have their deadline here, and nobody is dialled to keep up a number."""


_ANYWHERE = Multiaddr("/ip4/0.0.0.0/tcp/0")
"""libp2p wants the address of the listener, for its log."""


class Ending(Protocol):
    """Something that has to know when a connection is gone."""

    def end(self) -> None:
        """The connection is gone."""
        ...


class DaemonSwarm(Swarm):
    """A swarm that gives places back, wakes readers, and dials only where it is told to."""

    counters: Counter[str]

    def __init__(self, key_pair: KeyPair, known: Callable[[str], bool], max_connections: int) -> None:
        peer_id = ID.from_pubkey(key_pair.public_key)
        peerstore = PeerStore()
        peerstore.add_key_pair(peer_id, key_pair)
        config = QUICTransportConfig(
            idle_timeout=IDLE_SECONDS,
            auto_connect_interval=_NEVER,
            min_connections=0,
            low_watermark=0,
            # Ours bound it, see actors.remote.inbound; what is dialled is bounded by who is dialled.
            max_connections=4 * max_connections,
            high_watermark=4 * max_connections,
            inbound_upgrade_timeout=NEGOTIATION_SECONDS,
            outbound_upgrade_timeout=NEGOTIATION_SECONDS,
            inbound_stream_protocol_negotiation_timeout=NEGOTIATION_SECONDS,
            outbound_stream_protocol_negotiation_timeout=NEGOTIATION_SECONDS,
            STREAM_READ_TIMEOUT=_NEVER,
        )
        handshakes = Handshakes()
        super().__init__(
            peer_id,
            peerstore,
            TransportUpgrader(
                secure_transports_by_protocol={
                    NOISE: Noise(key_pair, noise_privkey=create_noise_key_pair().private_key)
                },
                muxer_transports_by_protocol={TProtocol(YAMUX): Yamux},
            ),
            transports=[_Quic(key_pair, config, handshakes), TCP()],
            retry_config=RetryConfig(max_retries=0),
            connection_config=config,
        )
        self.counters = Counter()
        self.places = Places(known, max_connections)
        self._handshakes = handshakes
        self._watched: dict[INetConn, set[Ending]] = {}

    def adopt(self, stream: INetStream) -> FrameStream:
        """Frames over ``stream``, ended when its connection ends.

        Raises:
            StreamEnded: the connection is closed already.
        """
        assert isinstance(stream, NetStream)
        frames = FrameStream(
            stream,
            str(stream.muxed_conn.peer_id),
            # Past libp2p's record of the stream's state, which costs turns of the loop: frames keep one of their own.
            carrier=stream.muxed_stream,
            connection=stream.muxed_conn,
            on_over=lambda over: watched.discard(over),
        )
        watched = self.watch(stream, frames)
        return frames

    def watch(self, stream: INetStream, ending: Ending) -> set[Ending]:
        """End ``ending`` with the connection of ``stream``; returns the set it stands in until then.

        Raises:
            StreamEnded: the connection is closed already.
        """
        assert isinstance(stream, NetStream)
        connection = stream.swarm_conn
        if connection is None or connection.is_closed:
            raise StreamEnded
        watched = self._watched.setdefault(connection, set())
        watched.add(ending)
        return watched

    def observed_hosts(self, peer_id: ID) -> tuple[str, ...]:
        """The IP addresses at the other end of the open connections to a peer, those without a relay."""
        found = (remote_host(connection.muxed_conn) for connection in self._open_connections(peer_id))
        return tuple(dict.fromkeys(host for host in found if host))

    def _open_connections(self, peer_id: ID) -> list[INetConn]:
        return [connection for connection in self.connections.get(peer_id, []) if not connection.is_closed]

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Register a connection and watch for its end.

        Raises:
            NoPlace: it came from outside, and there is no room.
        """
        inbound = direction == "inbound"
        if inbound:
            giving_way = self.places.make_room(str(muxed_conn.peer_id), remote_host(muxed_conn))
            if giving_way is not None:
                await giving_way.close()
        connection = await super().add_conn(muxed_conn, direction)
        if inbound and not connection.is_closed:
            self.places.take(connection, remote_host(muxed_conn))
        self.manager.run_task(self._end_streams_with, connection)
        return connection

    async def notify_closed_stream(self, stream: INetStream) -> None:
        """End our sending side of a stream that the other side has reset, which libp2p forgets.

        QUIC lets a peer open another stream only when one has ended both ways: after 128 the connection would be dead.
        """
        muxed = getattr(stream, "muxed_stream", None)
        if isinstance(muxed, QUICStream) and muxed.is_reset():
            with contextlib.suppress(Exception):
                muxed._connection._quic.reset_stream(muxed._stream_id, 0)
                await muxed._connection._transmit()
        await super().notify_closed_stream(stream)

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Refuse: libp2p would choose the address."""
        raise SwarmException(f"not connected to {peer_id}")

    def _schedule_auto_connect(self) -> None:
        """Stay unconnected after a disconnect."""

    async def _end_streams_with(self, connection: SwarmConn) -> None:
        await connection.event_closed.wait()
        self.places.give_back(connection)
        for ending in tuple(self._watched.pop(connection, ())):
            ending.end()
        if isinstance(connection.muxed_conn, QUICConnection):
            # libp2p leaves the task that accepts streams waiting for one, for ever.
            with contextlib.suppress(Exception):
                await connection.muxed_conn.close()
            connection.muxed_conn._stream_accept_event.set()

    async def _handle_inbound_connection(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        await self.accept(read_write_closer)

    async def accept(self, read_write_closer: ReadWriteCloser) -> None:
        """Accept one connection, and return when it ends: that closes what is below it."""
        muxed: IMuxedConn
        try:
            if isinstance(read_write_closer, IMuxedConn):
                muxed = read_write_closer
                await self.add_conn(muxed, direction="inbound")
            else:
                raw = RawConnection(read_write_closer, False)
                with self._handshakes.one(remote_host(read_write_closer)):
                    muxed = await self.upgrade_inbound_raw_conn(raw, _ANYWHERE)
        except Exception as error:
            # A port open to the world sees every kind of it.
            self.counters["refused_connections"] += 1
            logging.getLogger("libp2p").debug("connection refused: %r", error)
            with contextlib.suppress(Exception):
                await read_write_closer.close()
            return
        for connection in self.connections.get(muxed.peer_id, ()):
            if connection.muxed_conn is muxed and isinstance(connection, SwarmConn):
                await connection.event_closed.wait()
                break


class _Quic(QUICTransport):
    """Begins no more handshakes than it may, by the address that a first packet says it comes from."""

    def __init__(self, key_pair: KeyPair, config: QUICTransportConfig, handshakes: Handshakes) -> None:
        super().__init__(key_pair.private_key, config=config)
        self.handshakes = handshakes

    def create_listener(self, handler_function: TQUICConnHandlerFn) -> QUICListener:
        """As libp2p's, but for the class of the listener."""
        listener = _QuicListener(
            transport=self,
            handler_function=handler_function,
            quic_configs={name: known for name, known in self._quic_configs.items() if name.endswith("_server")},
            config=self._config,
            security_manager=self._security_manager,
        )
        listener.handshakes = self.handshakes
        self._listeners.append(listener)
        return listener


class _QuicListener(QUICListener):
    handshakes: Handshakes

    async def _handle_new_connection(
        self, data: bytes, addr: tuple[str, int], packet_info: QUICPacketInfo
    ) -> QuicConnection | None:
        if not self.handshakes.may_begin(addr[0]):
            return None
        return await super()._handle_new_connection(data, addr, packet_info)


def remote_host(connection: object) -> str:
    """The IP address at the other end of a connection, whatever its layers; nothing when a relay lies between."""
    # QUIC knows its peer's socket address; Noise and Yamux lie in layers around a TCP socket.
    for _ in range(_MAX_LAYERS):
        if isinstance(connection, QUICConnection):
            return _plain_ip(connection.get_remote_address()[0])
        if isinstance(connection, TrioTCPStream):
            with contextlib.suppress(OSError):
                return _plain_ip(connection.stream.socket.getpeername()[0])
            return ""
        below = (getattr(connection, name, None) for name in _LAYERS)
        connection = next((layer for layer in below if layer is not None), None)
    return ""


_LAYERS = ("secured_conn", "conn", "read_writer", "read_write_closer", "stream")
_MAX_LAYERS = 10


def _plain_ip(text: str) -> str:
    """An IPv4 address that came in on an IPv6 socket is still that IPv4 address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def new_host(swarm: DaemonSwarm) -> BasicHost:
    """A libp2p host on ``swarm`` that answers ``ping`` and ``identify`` and asks nobody."""
    host = BasicHost(swarm, disable_identify_address_discovery=True, negotiate_timeout=int(NEGOTIATION_SECONDS))
    host.remove_stream_handler(ID_PUSH)
    swarm.notifees.clear()
    return host


class _NotFromLibp2p(logging.Filter):
    """libp2p also logs by the functions of ``logging`` itself, that is to the root logger."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "libp2p" not in record.pathname


def quiet_logging() -> None:
    """Keep libp2p from reporting ordinary ends of streams and connections as errors; LIBP2P_DEBUG brings them back."""
    if os.environ.get("LIBP2P_DEBUG"):
        return
    for name in ("libp2p", "quic", "aioquic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    root = logging.getLogger()
    if not any(isinstance(known, _NotFromLibp2p) for known in root.filters):
        root.addFilter(_NotFromLibp2p())
    warnings.filterwarnings("ignore", module=r"libp2p\b.*")
