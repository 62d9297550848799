"""How a node's rows come to the hub, and who finds that out.

| way | when | how |
|---|---|---|
| pull | the hub reaches the node's Flight server | the hub fetches the part with a ticket |
| push | it does not, but the node is connected directly, so it can dial out | the node delivers it to the hub's Flight server |
| frames | the node is connected through a relay only | the part travels inside the answer, up to a size that the node sets |

Whether the Flight server is reached is tried: a TLS handshake against the pinned certificate, repeated regularly, when
the node has come back or announces something else, and after a failure. So a change of the network changes the way. A
part of which nothing has come is asked for once more by another way, if there is one.

A delivery takes two streams of the hub's Flight server: the node's, and the one that reads it. So there are only so many
deliveries at once, and a node is asked when there is a place for its part: what waits holds no ticket.
"""  # noqa: E501 - a table

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from urllib.parse import urlsplit
from uuid import UUID

import structlog
import trio

from actors.directory import Cluster, Directory
from syndb_common.errors import ConfigError, DeadlineExceeded, PeerUnavailable, SynDBError
from syndb_common.flight.tls import server_name
from syndb_common.messages import DeliveryWay, Endpoints, FlightEndpoint

log = structlog.get_logger(__name__)

PROBE_SECONDS = 3.0
"""For a TCP connection and a TLS handshake: three round trips, ten times a bad intercontinental one."""
AGAIN_SECONDS = 15.0
"""Between two probes of one node: so long after a change the old way may still be tried."""
MAX_PROBES = 16
"""Probes at once; each holds a socket."""
STREAMS_OF_A_DELIVERY = 3
"""Of the Flight server's: two, and one left for what the hub reads from itself otherwise."""
PUSH_AGAIN_SECONDS = 60.0
"""After a delivery that did not arrive, the node's parts travel in frames for so long: it may not reach the hub."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How one part is to come; ``push_to`` says where a node delivers it."""

    way: DeliveryWay = "pull"
    push_to: FlightEndpoint | None = None


class Ways(Protocol):
    """Chooses the way of each part."""

    async def choose(self, cluster: Cluster, seconds: float) -> Delivery:
        """How the next part of a node is to come, which takes at most ``seconds`` to be found out; one that is to be
        delivered waits here until there is a place for it."""
        ...

    async def claim(self, delivery: Delivery, reader: bytes) -> FlightEndpoint:
        """Where a part can be read that a node has begun to deliver; ``reader`` is the SHA-256 of who will."""
        ...

    async def ended(self, delivery: Delivery) -> None:
        """Nothing will be delivered any more: its place is another's. To be called for everything that was chosen."""
        ...

    def failed(self, cluster: Cluster, delivery: Delivery, error: SynDBError) -> None:
        """The part did not come this way."""
        ...

    async def another(self, cluster: Cluster, delivery: Delivery, seconds: float) -> Delivery | None:
        """By which other way than one that failed a part may come, if by any."""
        ...


class AlwaysPull:
    """The hub reaches every node."""

    async def choose(self, cluster: Cluster, seconds: float) -> Delivery:
        """See the protocol."""
        return Delivery()

    async def claim(self, delivery: Delivery, reader: bytes) -> FlightEndpoint:
        """See the protocol."""
        raise PeerUnavailable("the node says that it delivers its part, which nobody asked it to")

    async def ended(self, delivery: Delivery) -> None:
        """See the protocol."""

    def failed(self, cluster: Cluster, delivery: Delivery, error: SynDBError) -> None:
        """See the protocol."""

    async def another(self, cluster: Cluster, delivery: Delivery, seconds: float) -> Delivery | None:
        """See the protocol."""
        return None


class Receiver(Protocol):
    """The hub's Flight server, as far as nodes deliver to it."""

    async def expect(self, seconds: float) -> FlightEndpoint | None:
        """Where, and with what ticket, a part may be delivered; None while there is no Flight server."""
        ...

    async def claim(self, ticket: bytes, reader: bytes) -> FlightEndpoint:
        """Where it can be read that is delivered with this ticket."""
        ...

    async def forget(self, ticket: bytes) -> None:
        """Expect nothing any more with this ticket."""
        ...


@dataclass(frozen=True, slots=True)
class _Probed:
    """What a probe found, and what of the node it is about."""

    dial: Endpoints
    since: datetime | None
    reached: bool


class ChosenWays:
    """Implements :class:`Ways`; :meth:`run` keeps what it knows fresh.

    Args:
        directory: the nodes.
        direct: whether the connection with a PeerId is one without a relay.
        receiver: takes deliveries.
        streams: which the hub's Flight server may have for the federation.
        probe: whether a Flight server is reached; raises OSError when it is not.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        direct: Callable[[Cluster], bool],
        receiver: Receiver,
        streams: int,
        probe: Callable[[Endpoints], Awaitable[None]] | None = None,
    ) -> None:
        self._directory = directory
        self._direct = direct
        self._receiver = receiver
        self._probe = greet if probe is None else probe
        self._probed: dict[UUID, _Probed] = {}
        self._undelivered: dict[UUID, float] = {}
        self._limiter = trio.CapacityLimiter(MAX_PROBES)
        self._places = trio.Semaphore(max(streams // STREAMS_OF_A_DELIVERY, 1))
        self._delivering: set[bytes] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Probe every node that takes part, again and again, until cancelled."""
        task_status.started()
        while True:
            clusters = self._directory.clusters
            for gone in (self._probed.keys() | self._undelivered.keys()) - clusters.keys():
                self._probed.pop(gone, None)
                self._undelivered.pop(gone, None)
            async with trio.open_nursery() as nursery:
                for cluster in clusters.values():
                    if cluster.record.is_active and cluster.health.routable and cluster.dial.flight:
                        nursery.start_soon(self._look, cluster)
            await trio.sleep(AGAIN_SECONDS)

    def way(self, cluster: Cluster) -> DeliveryWay | None:
        """The way that would be chosen now; None while that is not known, or for a node that is away."""
        if not (cluster.record.is_active and cluster.health.routable):
            return None
        if not cluster.dial.flight:
            return self._without_pull(cluster)
        probed = self._known(cluster)
        return None if probed is None else "pull" if probed.reached else self._without_pull(cluster)

    async def choose(self, cluster: Cluster, seconds: float) -> Delivery:
        """See the protocol."""
        way = self.way(cluster)
        if way is None:
            with trio.move_on_after(seconds):
                await self._look(cluster)
            way = self.way(cluster) or "pull"
        return await self._delivery(way, seconds)

    async def claim(self, delivery: Delivery, reader: bytes) -> FlightEndpoint:
        """See the protocol."""
        if delivery.push_to is None or delivery.push_to.ticket is None:
            raise PeerUnavailable("the node says that it delivers its part, which nobody asked it to")
        return await self._receiver.claim(delivery.push_to.ticket, reader)

    async def ended(self, delivery: Delivery) -> None:
        """See the protocol."""
        if delivery.push_to is None or delivery.push_to.ticket not in self._delivering:
            return
        try:
            await self._receiver.forget(delivery.push_to.ticket)
        finally:
            self._delivering.remove(delivery.push_to.ticket)
            self._places.release()

    def failed(self, cluster: Cluster, delivery: Delivery, error: SynDBError) -> None:
        """See the protocol."""
        self._probed.pop(cluster.record.id, None)
        if delivery.way == "push" and isinstance(error, DeadlineExceeded):  # what breaks off has reached the hub
            self._undelivered[cluster.record.id] = trio.current_time()

    async def another(self, cluster: Cluster, delivery: Delivery, seconds: float) -> Delivery | None:
        """See the protocol."""
        match delivery.way:
            case "pull":
                return await self._delivery(self._without_pull(cluster), seconds)
            case "push":
                with trio.move_on_after(seconds):
                    await self._look(cluster)
                return Delivery("pull" if self.way(cluster) == "pull" else "frames")
            case "frames":
                return None

    async def _delivery(self, way: DeliveryWay, seconds: float) -> Delivery:
        if way != "push":
            return Delivery(way)
        await self._places.acquire()
        endpoint = None
        try:
            endpoint = await self._receiver.expect(seconds)
        finally:
            if endpoint is None:
                self._places.release()
        if endpoint is None:
            return Delivery("frames")
        self._delivering.add(endpoint.ticket or b"")
        return Delivery("push", endpoint)

    def _without_pull(self, cluster: Cluster) -> DeliveryWay:
        undelivered = self._undelivered.get(cluster.record.id)
        recently = undelivered is not None and trio.current_time() - undelivered < PUSH_AGAIN_SECONDS
        return "push" if self._direct(cluster) and not recently else "frames"

    def _known(self, cluster: Cluster) -> _Probed | None:
        """What the last probe found, unless the node was away since, or announces something else."""
        probed = self._probed.get(cluster.record.id)
        return probed if probed and (probed.dial, probed.since) == (cluster.dial, cluster.since) else None

    async def _look(self, cluster: Cluster) -> None:
        reached, cause = True, ""
        async with self._limiter:
            try:
                with trio.fail_after(PROBE_SECONDS):
                    await self._probe(cluster.dial)
            except (trio.TooSlowError, trio.BrokenResourceError, OSError, ValueError, SynDBError) as error:
                reached, cause = False, str(error) or f"no answer within {PROBE_SECONDS:g} s"
        before = self._probed.get(cluster.record.id)
        self._probed[cluster.record.id] = _Probed(cluster.dial, cluster.since, reached)
        if before is None or before.reached != reached:
            log.info("way of parts chosen", cluster=cluster.record.name, way=self.way(cluster), cause=cause)


async def greet(endpoints: Endpoints) -> None:
    """Shake hands with a Flight server that has exactly the pinned certificate.

    Raises:
        OSError, trio.BrokenResourceError: it is not there, or is another one.
        ConfigError: the certificate is none.
    """
    address = urlsplit(endpoints.flight)
    try:
        context = ssl.create_default_context(cadata=endpoints.flight_certificate)
        name = server_name(endpoints.flight_certificate)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"the certificate that the node registered is none: {error}") from None
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it is pinned itself, whoever has signed it
    context.set_alpn_protocols(["h2"])
    stream = await trio.open_tcp_stream(address.hostname or "", address.port or 0)
    try:
        await trio.SSLStream(stream, context, server_hostname=name).do_handshake()
    finally:
        await trio.aclose_forcefully(stream)
