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

import ipaddress
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import ifaddr
import structlog
import trio
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.transport.quic.exceptions import QUICPeerVerificationError
from multiaddr import Multiaddr

from actors.remote.frames import FrameStream, FrameTooLarge, StreamEnded
from actors.remote.identity import Identity, is_peer_id
from actors.remote.swarm import DaemonSwarm, new_host, quiet_logging
from syndb_common.errors import ConfigError, InvalidRequest, PeerUnavailable

MAX_STREAMS_PER_PEER = 64
"""Inbound streams of one peer at once: a pool of idle ones and all queries a hub sends to one node."""

MAX_STREAMS = 1024
"""Inbound streams of all peers at once."""

MAX_ADDRESSES_PER_PEER = 16
DISCONNECT_SECONDS = 3.0
STOP_SECONDS = 3.0

Handler = Callable[[FrameStream], Awaitable[None]]

log = structlog.get_logger()


@dataclass
class _Load:
    total: int = 0
    by_peer: Counter[ID] = field(default_factory=Counter)


class Host:
    """libp2p for one daemon. Start it with ``await nursery.start(host.run)`` or :func:`open_host`.

    Args:
        identity: whose PeerId this host has.
        listen: multiaddrs, ``/ip4/.../udp/.../quic-v1`` and ``/ip4/.../tcp/...``; port 0 lets the system choose.

    Attributes:
        peer_id: the identity's PeerId.
        counters: ``handler_failures``, ``refused_streams``, ``refused_connections`` since the start.
    """

    def __init__(self, identity: Identity, listen: Sequence[str]) -> None:
        quiet_logging()
        self.peer_id = identity.peer_id
        self._listen = [_multiaddr(text) for text in listen]
        self._swarm = DaemonSwarm(identity.key_pair)
        self._libp2p = new_host(self._swarm)
        self._swarm.set_stream_handler(self._admit)
        self.counters = self._swarm.counters
        self._load = _Load()
        self._dialling: dict[str, trio.Event] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; reports started once every address is bound.

        Raises:
            ConfigError: an address cannot be listened on, for instance because its port is taken.
        """
        for address in self._listen:
            _check_port_is_free(address)
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            missing = await nursery.start(self._run_libp2p, stop)
            try:
                if not missing:
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
        """Where others reach this host, QUIC first, each ending in ``/p2p/`` and the PeerId."""
        real: list[str] = []
        for address in self._libp2p.get_transport_addrs():
            real.extend(f"{text}/p2p/{self.peer_id}" for text in _on_real_interfaces(str(address)))
        return tuple(sorted(dict.fromkeys(real), key=_transport_order))

    def set_handler(self, protocol: str, handler: Handler) -> None:
        """Answer streams of ``protocol``. The handler owns the stream; it is closed when the handler returns.

        A handler that raises loses its stream and is counted. It is not told apart by what it raised, except
        that ends of streams and missed deadlines are ordinary and not logged as faults.
        """

        async def guarded(stream: INetStream) -> None:
            frames = self._swarm.adopt(stream)
            try:
                await handler(frames)
            except (StreamEnded, FrameTooLarge, trio.TooSlowError) as error:
                log.debug("stream_ended", protocol=protocol, peer=frames.peer_id, how=type(error).__name__)
                await frames.reset()
            except Exception:
                self.counters["handler_failures"] += 1
                log.exception("stream_handler_failed", protocol=protocol, peer=frames.peer_id)
                await frames.reset()
            except BaseException:
                await frames.reset()
                raise
            else:
                await frames.close()

        self._libp2p.set_stream_handler(TProtocol(protocol), guarded)

    def is_connected(self, peer_id: str) -> bool:
        """Whether a connection is open. It may lead to a process that is gone."""
        return self._connection(_peer(peer_id)) is not None

    def observed_hosts(self, peer_id: str) -> tuple[str, ...]:
        """IP addresses from which the peer's present connections come; none for those through a relay."""
        return self._swarm.observed_hosts(_peer(peer_id))

    async def connect(self, peer_id: str, addresses: Sequence[str], *, timeout: float) -> None:  # noqa: ASYNC109
        """Have a connection to ``peer_id``: an open one, or a new one to the first address that answers as it.

        QUIC addresses come first; each address gets an equal share of what is left of ``timeout`` seconds, so
        that a network which drops UDP still leaves time for TCP. Concurrent calls for one peer dial once.

        Raises:
            PeerUnavailable: none of the addresses led to this peer in time. The message says why for each.
            InvalidRequest: the PeerId is none.
        """
        peer = _peer(peer_id)
        deadline = trio.current_time() + timeout
        while self._connection(peer) is None:
            if (others := self._dialling.get(peer_id)) is not None:
                with trio.move_on_at(deadline):
                    await others.wait()
                if trio.current_time() >= deadline:
                    raise PeerUnavailable(f"no connection to {peer_id} within {timeout:g} s")
                continue
            self._dialling[peer_id] = done = trio.Event()
            try:
                await self._dial(peer, _candidates(peer_id, addresses), deadline)
            finally:
                del self._dialling[peer_id]
                done.set()

    async def open_stream(self, peer_id: str, protocol: str, *, timeout: float) -> FrameStream:  # noqa: ASYNC109
        """A stream to a connected peer, agreed on ``protocol``.

        Raises:
            PeerUnavailable: not connected, the peer does not speak the protocol, or it did not answer in time.
        """
        stream = await self._open(_peer(peer_id), TProtocol(protocol), timeout)
        try:
            return self._swarm.adopt(stream)
        except StreamEnded:
            raise PeerUnavailable(f"the connection to {peer_id} was closed") from None

    async def disconnect(self, peer_id: str) -> None:
        """Close every connection to the peer; what waits on its streams is told at once."""
        with trio.move_on_after(DISCONNECT_SECONDS, shield=True):
            await self._swarm.close_peer(_peer(peer_id))

    def reset_soon(self, stream: FrameStream) -> None:
        """Reset a stream without waiting for it."""
        if not self._swarm.manager.is_cancelled:
            self._swarm.manager.run_task(stream.reset)

    def _connection(self, peer: ID) -> INetConn | None:
        """The newest open connection: an older one may lead to a process that has been replaced."""
        for connection in reversed(self._swarm.connections.get(peer, [])):
            if not connection.is_closed:
                return connection
        return None

    async def _dial(self, peer: ID, candidates: list[Multiaddr], deadline: float) -> None:
        reasons: dict[Multiaddr, str] = {}
        for position, address in enumerate(candidates):
            left = max(deadline - trio.current_time(), 0.0)
            with trio.move_on_after(left / (len(candidates) - position)) as share:
                try:
                    connection = await self._swarm.dial_addr(address, peer)
                except Exception as error:
                    reasons[address] = _STRANGER if _is_mismatch(error) else _innermost(error)
                else:
                    if _is_proved(connection, peer):
                        return
                    await connection.close()
                    reasons[address] = _STRANGER
            if share.cancelled_caught:
                reasons[address] = "no answer"
        shown = [f"{str(address).removesuffix(f'/p2p/{peer}')}: {reason}" for address, reason in reasons.items()]
        raise PeerUnavailable(
            f"cannot reach {peer}" + "".join(f"; {text}" for text in shown),
            hint="Its PeerId is not the one that is pinned here: ask its operator, and trust no other."
            if _STRANGER in reasons.values()
            else "Is the other daemon running, and do its addresses still hold?",
        )

    async def _open(self, peer: ID, protocol: TProtocol, timeout: float) -> INetStream:  # noqa: ASYNC109
        connection = self._connection(peer)
        if connection is None:
            raise PeerUnavailable(f"not connected to {peer}")
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
            raise PeerUnavailable(f"cannot open a stream to {peer}: {_innermost(error)}") from error
        finally:
            if stream is not None and not agreed:
                await _reset(stream)
        raise PeerUnavailable(f"{peer} did not answer within {timeout:g} s")

    async def _admit(self, stream: INetStream) -> None:
        """Everything an inbound stream does happens in here, so that nothing it raises reaches libp2p."""
        load, peer = self._load, stream.muxed_conn.peer_id
        if load.total >= MAX_STREAMS or load.by_peer[peer] >= MAX_STREAMS_PER_PEER:
            self.counters["refused_streams"] += 1
            await _reset(stream)
            return
        load.total += 1
        load.by_peer[peer] += 1
        try:
            await self._libp2p._swarm_stream_handler(stream)
        except Exception as error:
            log.debug("stream_refused", peer=str(peer), why=repr(error))
            await _reset(stream)
        finally:
            load.total -= 1
            load.by_peer[peer] -= 1
            if not load.by_peer[peer]:
                del load.by_peer[peer]


@asynccontextmanager
async def open_host(identity: Identity, listen: Sequence[str]) -> AsyncIterator[Host]:
    """A host that listens within the block."""
    host = Host(identity, listen)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        yield host
        nursery.cancel_scope.cancel()


async def _reset(stream: INetStream) -> None:
    with trio.move_on_after(1, shield=True):
        await stream.reset()


def _peer(peer_id: str) -> ID:
    if not is_peer_id(peer_id):
        raise InvalidRequest(f"{peer_id[:100]!r} is not a PeerId")
    return ID.from_base58(peer_id)


def _multiaddr(text: str) -> Multiaddr:
    try:
        return Multiaddr(text)
    except Exception as error:
        raise ConfigError(
            f"{text[:200]!r} is not a multiaddr", hint="for instance /ip4/0.0.0.0/udp/4001/quic-v1"
        ) from error


def _candidates(peer_id: str, addresses: Sequence[str]) -> list[Multiaddr]:
    """Usable addresses, QUIC first; those that name another peer, or make no sense, are left out."""
    found = []
    for text in sorted(dict.fromkeys(addresses), key=_transport_order)[:MAX_ADDRESSES_PER_PEER]:
        place, _, named = text.partition("/p2p/")
        if named in ("", peer_id):
            try:
                found.append(Multiaddr(f"{place}/p2p/{peer_id}"))
            except Exception as error:
                log.debug("address_ignored", address=text[:200], why=str(error))
    return found


def _transport_order(address: str) -> int:
    return 0 if "/quic-v1" in address else 1


def _is_proved(connection: INetConn, peer: ID) -> bool:
    """Whether the handshake proved the PeerId; a QUIC server that shows no certificate passes libp2p's own check."""
    muxed = connection.muxed_conn
    return muxed.peer_id == peer and getattr(muxed, "is_peer_verified", True) is True


_STRANGER = "another daemon answers there and cannot prove to be this peer"


def _is_mismatch(error: BaseException) -> bool:
    """Whether a handshake failed because the other side has another key."""
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if isinstance(current, PeerIDMismatchesPubkey | QUICPeerVerificationError):
            return True
        if current is not None:
            pending.extend((current.__cause__, *getattr(current, "exceptions", ())))
    return False


def _innermost(error: BaseException) -> str:
    """What went wrong below libp2p's layers, in one line."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
        else:
            return (str(error) or type(error).__name__).splitlines()[0][:200]


def _on_real_interfaces(address: str) -> list[str]:
    """``0.0.0.0`` and ``::`` are places to listen, not to dial: one address for each interface instead.

    Loopback stands in only where there is nothing else.
    """
    _, family, host, rest = address.split("/", 3)
    if not ipaddress.ip_address(host).is_unspecified:
        return [address]
    ips = [ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4 == (family == "ip4")]
    real = {ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0]) for ip in ips}
    usable = sorted(str(ip) for ip in real if not (ip.is_link_local or ip.is_loopback))
    loopback = sorted(str(ip) for ip in real if ip.is_loopback)
    return [f"/{family}/{ip}/{rest}" for ip in usable or loopback]


def _check_port_is_free(address: Multiaddr) -> None:
    """libp2p shares a taken port with whoever has it; two daemons would each get half of the packets."""
    parts = str(address).split("/")
    if len(parts) < 5 or parts[1] not in ("ip4", "ip6") or parts[3] not in ("udp", "tcp"):
        raise ConfigError(f"cannot listen on {address}", hint="for instance /ip4/0.0.0.0/udp/4001/quic-v1")
    family = socket.AF_INET if parts[1] == "ip4" else socket.AF_INET6
    kind = socket.SOCK_DGRAM if parts[3] == "udp" else socket.SOCK_STREAM
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((parts[2], int(parts[4])))
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {address}: {error}", hint="another daemon may have the port"
            ) from error
