"""Deliveries of a node: parts that its hub cannot fetch, brought to the hub, some at a time."""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
import trio

from syndb_common.engine.interface import Offer
from syndb_common.errors import SynDBError, TooManyRequests, Unavailable
from syndb_common.flight.client import Reading
from syndb_common.flight.delivering import Delivering
from syndb_common.messages import FlightEndpoint

log = structlog.get_logger(__name__)

MAX_DELIVERIES = 16
"""Deliveries at once. Each holds a thread and a batch on its way."""

MARGIN_SECONDS = 60.0
"""What a delivery may take beyond what the hub waits for all of it. One that stands still is ended sooner by the Flight
servers at its two ends, one that nobody waits for by the hub; this is for a hub that vanished."""


@dataclass(frozen=True, slots=True)
class Taker:
    """Whoever takes an offer of the node's own engine: a secret for one part."""

    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def reader(self) -> bytes:
        """What the engine is told of the secret."""
        return hashlib.sha256(self.secret.encode()).digest()


class Deliverer:
    """Delivers parts while :meth:`run` runs.

    Args:
        own_flight: where this process reaches the engine's Flight server.
    """

    def __init__(self, own_flight: Callable[[], str]) -> None:
        self._own_flight = own_flight
        self._nursery: trio.Nursery | None = None
        self._limiter = trio.CapacityLimiter(MAX_DELIVERIES)
        self._under_way = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver what is asked for, until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def start(self, offer: Offer, taker: Taker, to: FlightEndpoint, *, seconds: float, query_id: str) -> None:
        """Begin to deliver an offer, which takes at most ``seconds`` and a margin, and return.

        Raises:
            TooManyRequests: as many as may are under way.
            Unavailable: the node is stopping.
        """
        if self._nursery is None:
            raise Unavailable("the node is starting or stopping", hint="repeat the query in a moment")
        if self._under_way >= MAX_DELIVERIES:
            raise TooManyRequests(f"this node delivers {MAX_DELIVERIES} parts already", hint="Try again in a moment.")
        seconds += MARGIN_SECONDS
        offered = FlightEndpoint(location=self._own_flight(), certificate=offer.certificate, ticket=offer.ticket)
        reading = Reading(offered, seconds=seconds, max_bytes=sys.maxsize, secret=taker.secret)
        self._nursery.start_soon(self._deliver, Delivering(reading, to, seconds), query_id)
        self._under_way += 1

    async def _deliver(self, delivering: Delivering, query_id: str) -> None:
        try:
            rows = await trio.to_thread.run_sync(delivering.run, abandon_on_cancel=True, limiter=self._limiter)
            log.info("part delivered", query_id=query_id, rows=rows)
        except SynDBError as error:
            log.warning("part not delivered", query_id=query_id, code=error.code, cause=error.message)
        except trio.Cancelled:
            delivering.cancel()
            raise
        finally:
            self._under_way -= 1
