"""A network within one process: the same streams, connections and errors as libp2p, and faults on purpose.

For tests and simulations. Nothing here is a mock: daemons talk over it as they do over
:class:`actors.remote.host.Host`, only that no byte leaves the process, and that thousands of hosts fit into it.

    async with open_network() as network:
        hub, node = network.host(), network.host()
        network.link(hub, node).delay = (0.1, 0.3)      # seconds, drawn for each frame
        network.link(node, hub).drop_next = 1           # the next answer is lost
        network.partition(node)                         # from everybody, until network.heal()
        node.kill()                                     # its peers are not told

What a fault means: a stream is ordered, and a partition loses nothing but holds it back, as QUIC and TCP do by sending
again. ``drop``, ``duplicate`` and ``reorder`` are worse than any real stream, for those who must survive anything.
With ``trio.testing.MockClock`` all of it takes no time, and with one ``seed`` it happens the same way again.
"""

from __future__ import annotations

import contextvars
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio

from actors.remote.frames import FrameTooLarge, StreamEnded
from actors.remote.identity import is_peer_id, made_up_peer_id
from actors.remote.memory_stream import MemoryStream, Side
from actors.remote.transport import Frames, Handler
from syndb_common.errors import InvalidRequest, PeerUnavailable

MAX_STREAMS_PER_PEER = 64
"""Inbound streams of one peer at once, as at a host of libp2p."""

SILENCE_SECONDS = 2.5
"""How long a peer may be silent whose loss is waited for, as at a host of libp2p."""

log = structlog.get_logger()


@dataclass(slots=True)
class Link:
    """What happens to frames on their way from one host to another. Change it at any time.

    Attributes:
        delay: seconds, drawn evenly between these two for each frame; opening a stream takes it both ways.
        drop: share of frames that are lost.
        duplicate: share of frames that arrive twice.
        reorder: whether a frame may overtake one of its stream that was drawn a longer delay.
        drop_next: how many of the next frames are lost for certain.
        duplicate_next: how many of the next frames arrive twice for certain.
    """

    delay: tuple[float, float] = (0.0, 0.0)
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: bool = False
    drop_next: int = 0
    duplicate_next: int = 0

    def copies(self, chance: random.Random) -> int:
        """How often the next frame arrives."""
        if self.drop_next or chance.random() < self.drop:
            self.drop_next = max(self.drop_next - 1, 0)
            return 0
        if self.duplicate_next or chance.random() < self.duplicate:
            self.duplicate_next = max(self.duplicate_next - 1, 0)
            return 2
        return 1


class MemoryNetwork:
    """Hosts that reach each other. Open it with :func:`open_network`.

    Attributes:
        everywhere: what happens on links that were not asked for by :meth:`link`.
    """

    def __init__(self, nursery: trio.Nursery, seed: int) -> None:
        self.everywhere: Link | None = None
        self._nursery = nursery
        # Handlers must not inherit what the task that opened the stream carries: it stands for another process.
        self._context = contextvars.copy_context()
        self._chance = random.Random(seed)  # noqa: S311 - faults, not secrets
        self._at: dict[str, MemoryHost] = {}
        self._places: dict[str, str] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._partitions: list[tuple[frozenset[str], frozenset[str]]] = []
        self._held: set[MemoryStream] = set()

    def host(self, peer_id: str = "", *, address: str = "") -> MemoryHost:
        """A host that listens from now on.

        Args:
            peer_id: who it is; a made-up PeerId by default. One that ended before starts anew.
            address: multiaddr without ``/p2p/``, for instance ``/ip4/10.0.0.1/udp/4001/quic-v1``; by default one of
                its own, the same after a new start.

        Raises:
            ValueError: a host of this PeerId runs, or the address is taken.
        """
        number = len(self._places) + 1
        peer_id = peer_id or made_up_peer_id(number)
        place = address or self._places.get(peer_id) or f"/ip4/{_ip(number)}/udp/4001/quic-v1"
        for taken in {place, self._places.get(peer_id, place)}:
            former = self._at.get(taken)
            if former is not None and former.alive:
                raise ValueError(f"{former.peer_id} already listens at {taken}")
            self._at.pop(taken, None)
        self._places[peer_id] = place
        self._at[place] = host = MemoryHost(self, peer_id, place)
        return host

    def link(self, sender: MemoryHost | str, receiver: MemoryHost | str) -> Link:
        """The faults from one host to another; the way back is a link of its own."""
        return self._links.setdefault((_name(sender), _name(receiver)), Link())

    def partition(self, *side: MemoryHost | str, others: Sequence[MemoryHost | str] = ()) -> None:
        """Let nothing pass between the hosts of ``side`` and ``others``, by default all others, until :meth:`heal`.

        Connections and streams stay, silently, and what was sent on them arrives after the healing.
        """
        self._partitions.append((frozenset(map(_name, side)), frozenset(map(_name, others))))

    def heal(self) -> None:
        """End all partitions."""
        self._partitions.clear()
        for stream in self._held:
            stream.release()
        self._held.clear()

    def is_cut(self, one: str, other: str) -> bool:
        """Whether a partition stands between two hosts."""
        return any(
            (one in side and (other in others if others else other not in side))
            or (other in side and (one in others if others else one not in side))
            for side, others in self._partitions
        )

    def _link(self, sender: str, receiver: str) -> Link | None:
        return self._links.get((sender, receiver), self.everywhere) if self._links else self.everywhere

    def _draw_delay(self, link: Link | None) -> float:
        return 0.0 if link is None or link.delay[1] <= 0 else self._chance.uniform(*link.delay)

    def round_trip(self, one: str, other: str) -> float:
        """Seconds until an answer is back, or infinity when there will be none."""
        there, back = self._link(one, other), self._link(other, one)
        if self.is_cut(one, other) or any(link and not link.copies(self._chance) for link in (there, back)):
            return math.inf
        return self._draw_delay(there) + self._draw_delay(back)

    def transfer(self, sender: str, receiver: str, end: MemoryStream, payload: bytes | None) -> None:
        """Send a frame on its way, or the news that its stream has ended, which is never lost."""
        if self._partitions and self.is_cut(sender, receiver):
            self._held.add(end)
            end.arrive(math.inf, payload)
            return
        link = self._link(sender, receiver)
        if link is None:
            end.arrive(end.latest, payload)
            return
        for _ in range(1 if payload is None else link.copies(self._chance)):
            due = trio.current_time() + self._draw_delay(link)
            end.arrive(due if link.reorder and payload is not None else max(due, end.latest), payload)


class MemoryHost:
    """A place on a :class:`MemoryNetwork`; see :class:`actors.remote.host.Host` for what its methods raise.

    Attributes:
        peer_id: its name.
        alive: until it is closed or killed.
        counters: ``handler_failures`` and ``refused_streams``.
    """

    __slots__ = ("_handlers", "_place", "alive", "connections", "counters", "network", "peer_id", "silent")

    def __init__(self, network: MemoryNetwork, peer_id: str, place: str) -> None:
        self.peer_id = peer_id
        self.alive = True
        self.silent = False
        self.counters: Counter[str] = Counter()
        self.network = network
        self._place = place
        self._handlers: dict[str, Handler] = {}
        self.connections: dict[str, list[Side]] = {}

    def __repr__(self) -> str:
        return f"<MemoryHost {self.peer_id} at {self._place}>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be closed when cancelled; a host that nobody runs works as well."""
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            self.close()

    def close(self) -> None:
        """Stop, and let all peers know."""
        self._end(silently=False)

    def kill(self) -> None:
        """Stop as a process that is killed does over QUIC: peers are not told, and who dials gets no answer."""
        self._end(silently=True)

    def _end(self, *, silently: bool) -> None:
        self.alive, self.silent = False, silently
        for sides in tuple(self.connections.values()):
            for side in tuple(sides):
                side.close(tell=not silently)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The one place where it listens."""
        return (f"{self._place}/p2p/{self.peer_id}",)

    def set_handler(self, protocol: str, handler: Handler) -> None:
        """Answer streams of ``protocol``. The handler owns the stream; it is closed when the handler returns."""
        self._handlers[protocol] = handler

    def is_connected(self, peer_id: str) -> bool:
        """Whether a connection is open. It may lead to a host that was killed."""
        return self.connection(peer_id) is not None

    def connection(self, peer_id: str) -> object | None:
        """The connection on which a stream to the peer would be opened now; none when not connected."""
        sides = self.connections.get(peer_id)
        return sides[-1] if sides else None

    def observed_hosts(self, peer_id: str) -> tuple[str, ...]:
        """IP addresses from which the peer's present connections come."""
        sides = self.connections.get(peer_id, ())
        return tuple(sorted({side.twin.host._place.split("/")[2] for side in sides}))

    async def connect(self, peer_id: str, addresses: Sequence[str], *, timeout: float) -> None:  # noqa: ASYNC109
        """Have a connection to ``peer_id``; each address gets an equal share of what is left of ``timeout``."""
        await trio.lowlevel.checkpoint()
        deadline = trio.current_time() + timeout
        candidates = _candidates(peer_id, addresses)
        reasons: list[str] = []
        for position, place in enumerate(candidates):
            if self.is_connected(peer_id):
                return
            share = max(deadline - trio.current_time(), 0.0) / (len(candidates) - position)
            target = self.network._at.get(place)
            seconds = math.inf if target is None else self.network.round_trip(self.peer_id, target.peer_id)
            if not self.alive:
                reasons.append("this host has stopped")
            elif target is None or not (target.alive or target.silent):
                reasons.append(f"{place}: nobody listens there")
            elif target.silent or seconds > share:
                await trio.sleep(share)
                reasons.append(f"{place}: no answer")
            elif target.peer_id != peer_id:
                reasons.append(f"{place}: another daemon answers there and cannot prove to be this peer")
            else:
                await _sleep(seconds)
                if self.alive and target.alive and not self.is_connected(peer_id):
                    Side.pair(self, target)
        if not self.is_connected(peer_id):
            raise PeerUnavailable("; ".join((f"cannot reach {peer_id}", *reasons)))

    async def open_stream(self, peer_id: str, protocol: str, *, timeout: float) -> MemoryStream:  # noqa: ASYNC109
        """A stream to a connected peer, agreed on ``protocol``."""
        await trio.lowlevel.checkpoint()
        sides = self.connections.get(peer_id)
        if not sides:
            raise PeerUnavailable(f"not connected to {peer_id}")
        side = sides[-1]
        seconds = self.network.round_trip(self.peer_id, peer_id)
        if not side.twin.open or seconds > timeout:
            await trio.sleep(timeout)
            raise PeerUnavailable(f"{peer_id} did not answer within {timeout:g} s")
        await _sleep(seconds)
        if not (side.open and side.twin.open):
            raise PeerUnavailable(f"the connection to {peer_id} was closed")
        return side.twin.host._accept(side, protocol)

    def _accept(self, side: Side, protocol: str) -> MemoryStream:
        """The caller's end of a stream that it opens to here on ``side``."""
        handler = self._handlers.get(protocol)
        if handler is None:
            raise PeerUnavailable(f"cannot open a stream to {self.peer_id}: it does not speak {protocol}")
        if side.twin.inbound >= MAX_STREAMS_PER_PEER:
            self.counters["refused_streams"] += 1
            raise PeerUnavailable(f"cannot open a stream to {self.peer_id}: it has too many of this peer")
        end, far = MemoryStream(side), MemoryStream(side.twin)
        end.twin, far.twin = far, end
        side.twin.inbound += 1
        network = self.network
        network._context.run(network._nursery.start_soon, self._guarded, handler, far)
        return end

    async def _guarded(self, handler: Handler, stream: MemoryStream) -> None:
        """Whatever a handler raises costs its own stream and one line in the log."""
        try:
            await handler(stream)
        except (StreamEnded, FrameTooLarge, trio.TooSlowError):
            stream.finish(at_once=True)
        except Exception:
            self.counters["handler_failures"] += 1
            log.exception("stream_handler_failed", peer=stream.peer_id)
            stream.finish(at_once=True)
        except BaseException:
            stream.finish(at_once=True)
            raise
        else:
            stream.finish(at_once=False)
        finally:
            stream.side.inbound -= 1

    async def lost(self, peer_id: str) -> None:
        """Return as soon as the present connection to a peer has ended, at once where there is none.

        A peer that gives no sign of life for ``SILENCE_SECONDS`` is gone, and its connection closed.
        """
        await trio.lowlevel.checkpoint()
        sides = self.connections.get(peer_id)
        if not sides:
            return
        side = sides[-1]
        while side.open:
            silent = not side.twin.open or self.network.round_trip(self.peer_id, peer_id) > SILENCE_SECONDS
            with trio.move_on_after(SILENCE_SECONDS if silent else 1.0):
                await side.ended()
            if silent and (not side.twin.open or self.network.is_cut(self.peer_id, peer_id)):
                side.close(tell=True)

    async def disconnect(self, peer_id: str, *, up_to: object | None = None) -> None:
        """Close the connections to the peer, all or ``up_to`` one; what waits on their streams is told at once."""
        await trio.lowlevel.checkpoint()
        sides = list(self.connections.get(peer_id, ()))
        while up_to is not None and sides and sides[-1] is not up_to:
            sides.pop()
        for side in sides:
            side.close(tell=True)

    def reset_soon(self, stream: Frames) -> None:
        """Reset a stream without waiting for it."""
        if isinstance(stream, MemoryStream):
            stream.finish(at_once=True)


@asynccontextmanager
async def open_network(*, seed: int = 0) -> AsyncIterator[MemoryNetwork]:
    """A network that lives within the block; at its end what handlers still do is cancelled."""
    async with trio.open_nursery() as nursery:
        yield MemoryNetwork(nursery, seed)
        nursery.cancel_scope.cancel()


def _candidates(peer_id: str, addresses: Sequence[str]) -> list[str]:
    """Places among the addresses that may be the peer's."""
    if not is_peer_id(peer_id):
        raise InvalidRequest(f"{peer_id[:100]!r} is not a PeerId")
    parts = [text.partition("/p2p/") for text in dict.fromkeys(addresses)]
    return [place for place, _, named in parts if named in ("", peer_id)]


def _name(host: MemoryHost | str) -> str:
    return host if isinstance(host, str) else host.peer_id


def _ip(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


async def _sleep(seconds: float) -> None:
    if seconds:
        await trio.sleep(seconds)
