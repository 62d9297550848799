"""The node's actor towards its hub: joins it, answers its pings, and joins again when it is gone.

Only the pinned hub is ever spoken to. A hub that restarts remembers its nodes and pings them; a node that hears no
ping for a while, or loses the connection, looks for the hub anew and joins again under its old name, so both sides
heal without a person.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio

from actors import node_state
from actors.catalogue import Catalogue
from actors.hub_link import HubLink, Joined
from actors.node_state import NodeState
from actors.runtime import Actor, handle
from syndb_common.errors import JoinRefused, SynDBError
from syndb_common.messages import (
    CatalogAnnouncement,
    DatasetCatalogRequest,
    FlightEndpoint,
    GetFlightEndpoint,
    HealthPing,
    HealthReport,
    LeaveFederation,
)

log = structlog.get_logger(__name__)

RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses between attempts to join. They stay short: hubs come back within seconds, and an attempt is cheap."""
REFUSED_SECONDS = 30.0
"""Pause after a refusal: only a person can change that, but nobody should have to restart the node for it."""
APPROVAL_SECONDS = 60.0
"""Between two questions whether the hub's operator has approved the node. The approved node's first ping ends it."""
ALONE_SECONDS = 60.0
"""A node that joined over HTTP and is not pinged joins anew after this: the hub may have restarted unseen."""
MISSED_PINGS = 5
"""So many of the hub's own intervals without a ping are silence."""
MOST_SILENCE_SECONDS = 3600.0
"""A hub that says it pings less often than that is looked for all the same."""
FIRST_LOOK_SECONDS = 2.0
"""A node waits so long for its engine before it says which schema it has; the hub asks again later anyway."""
ANNOUNCE_SECONDS = 10.0
ANNOUNCEMENTS = 5
"""Attempts to announce one revision; after that the hub learns of it by a ping."""
LEAVE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Rejoin:
    """Join again now, with what has been configured since: another password, other addresses. Queries go on."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Say goodbye to the hub, as far as it answers at once: the daemon stops."""


class Cluster(Actor):
    """Keeps the node in its federation.

    Args:
        link: joins the hub.
        catalogue: what the node holds and how its engine is.
        state: where the operator's commands read how the node stands.
        load: how many queries run now.
        silence_seconds: join again when the hub has not pinged for so long.
        lost: returns when the connection to the peer has ended.
        ontology_revision: of the terms the node has.
    """

    expected = (SynDBError,)

    def __init__(
        self,
        *,
        link: HubLink,
        catalogue: Catalogue,
        state: NodeState,
        load: Callable[[], int],
        silence_seconds: Callable[[], float],
        lost: Callable[[str], Awaitable[None]],
        ontology_revision: Callable[[], int],
    ) -> None:
        self._link = link
        self._catalogue = catalogue
        self._state = state
        self._load = load
        self._silence_seconds = silence_seconds
        self._lost = lost
        self._ontology_revision = ontology_revision
        self._started = trio.current_time()
        self._boot_id = secrets.token_hex(8)
        self._last_ping = -float("inf")
        self._pinged = trio.Event()
        self._rejoin = trio.Event()
        self._joined: Joined | None = None
        self._announced: int | None = None

    async def on_start(self) -> None:
        """Begin to watch the engine and to look for the hub."""
        await self._note(node_state.LOOKING)
        self.context.start_soon(self._catalogue.follow)
        self.context.start_soon(self._announce)
        self.context.start_soon(self._note_schema)
        self.context.start_soon(self._stay_joined)

    @handle
    async def ping(self, message: HealthPing) -> HealthReport:
        """Say how the node is, from memory; the hub's clock is compared with ours by the hub."""
        self._last_ping = trio.current_time()
        self._pinged.set()
        sender = self.context.sender
        if isinstance(sender, str):
            self.context.start_soon(self._link.pins.announced, sender, message.next_hub_peer_id)
        return HealthReport(
            schema_version=self._catalogue.schema_version,
            engine=self._catalogue.engine,
            load=self._load(),
            catalogue_revision=self._catalogue.revision,
            ontology_revision=self._ontology_revision(),
            clock=time.time(),
            uptime_seconds=trio.current_time() - self._started,
            software=self._link.membership.software,
            boot_id=self._boot_id,
        )

    @handle
    async def catalogue(self, message: DatasetCatalogRequest) -> CatalogAnnouncement:
        """Say what is published here, page by page."""
        return self._catalogue.page(message.page)

    @handle
    async def flight_endpoint(self, message: GetFlightEndpoint) -> FlightEndpoint:
        """Say where our Flight server is."""
        endpoints = self._link.endpoints
        return FlightEndpoint(location=endpoints.flight, certificate=endpoints.flight_certificate)

    @handle
    async def rejoin(self, message: Rejoin) -> None:
        """The configuration has changed."""
        self._rejoin.set()

    @handle
    async def leave(self, message: Leave) -> None:
        """The daemon stops; the hub need not wait for missed pings to know."""
        joined, self._joined = self._joined, None
        if joined is not None and joined.hub is not None:
            await joined.hub.ask(LeaveFederation(reason="the node stops"), timeout=LEAVE_SECONDS)
            await self._note(node_state.LEFT)

    async def _stay_joined(self) -> None:
        with trio.move_on_after(FIRST_LOOK_SECONDS):
            await self._catalogue.known()
        attempt = 0
        while True:
            self._rejoin = trio.Event()  # what is configured from here on is for the attempt after this one
            self._pinged = trio.Event()
            try:
                joined = await self._link.join(schema_version=self._catalogue.schema_version)
            except SynDBError as error:
                self._joined = None
                pause = await self._failed(error, attempt)
                attempt += 1
                with trio.move_on_after(pause):
                    await self._rejoin.wait()
                continue
            attempt = 0
            if joined.takes_part:
                await self._remain(joined)
            else:
                await self._wait_for_approval(joined)

    async def _failed(self, error: SynDBError, attempt: int) -> float:
        """Say why the node is not joined; the pause until the next attempt."""
        refused = isinstance(error, JoinRefused) or error.code == "conflict"
        pause = REFUSED_SECONDS if refused else RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
        log.warning("not joined", cause=error.message, hint=error.hint, again_in_seconds=pause)
        await self._note(node_state.REFUSED if refused else node_state.LOOKING, error)
        return pause

    async def _wait_for_approval(self, joined: Joined) -> None:
        """The hub knows us and does not ask us anything yet."""
        self._joined = None
        self._state.hub_schema_version = joined.registered.schema_version
        log.info("the hub's operator has to approve this node", hub=joined.hub_peer_id)
        await self._note(node_state.WAITING, cluster_id=str(joined.registered.cluster_id))
        with trio.move_on_after(APPROVAL_SECONDS):
            await self._first_of(self._pinged.wait, self._rejoin.wait)

    async def _remain(self, joined: Joined) -> None:
        """Return when the hub is silent or gone, can be reached by a better road, or has to be joined anew."""
        # The hub pings at once; give it the whole silence before asking again.
        self._last_ping = trio.current_time()
        self._joined = joined
        self._state.hub_schema_version = joined.registered.schema_version
        self._catalogue.look_again()
        over = "libp2p" if joined.hub else "HTTP"
        log.info("joined", hub=joined.hub_peer_id, cluster_id=str(joined.registered.cluster_id), over=over)
        await self._note(node_state.JOINED, cluster_id=str(joined.registered.cluster_id), over=over)
        ping_seconds = joined.registered.ping_seconds or 0
        silence = max(self._silence_seconds(), min(MISSED_PINGS * ping_seconds, MOST_SILENCE_SECONDS))
        if joined.hub is None:
            await self._first_of(self._find_again, lambda: self._silent(max(silence, ALONE_SECONDS)), self._rejoin.wait)
        else:
            await self._first_of(
                lambda: self._silent(silence), lambda: self._parted(joined.hub_peer_id), self._rejoin.wait
            )
        self._joined = None

    async def _silent(self, seconds: float) -> None:
        """Return when the hub has not pinged for so long."""
        while trio.current_time() < (until := self._last_ping + seconds):  # noqa: ASYNC110 - each ping moves it
            await trio.sleep_until(until)
        log.warning("the hub is silent", seconds=round(trio.current_time() - self._last_ping, 1))

    async def _parted(self, hub_peer_id: str) -> None:
        """Return soon after the connection to the hub has ended."""
        await self._lost(hub_peer_id)
        log.info("the connection to the hub has ended", hub=hub_peer_id)
        await trio.sleep(RETRY_SECONDS[0])

    async def _find_again(self) -> None:
        """Return when libp2p leads to the hub after all."""
        while True:
            await trio.sleep(RETRY_SECONDS[-1])
            try:
                await self._link.find()
            except SynDBError:
                continue
            return

    async def _first_of(self, *tasks: Callable[[], Awaitable[None]]) -> None:
        """Run these until one returns."""
        async with trio.open_nursery() as nursery:

            async def run(task: Callable[[], Awaitable[None]]) -> None:
                await task()
                nursery.cancel_scope.cancel()

            for task in tasks:
                nursery.start_soon(run, task)

    async def _announce(self) -> None:
        """Tell the hub by ourselves when the catalogue has changed; it asks for further pages."""
        attempts = 0
        while True:
            await self._catalogue.looked()
            first = self._catalogue.page(0)
            hub = self._joined.hub if self._joined else None
            if hub is None or first.revision == self._announced:
                attempts = 0
                continue
            try:
                await hub.ask(first, timeout=ANNOUNCE_SECONDS)
            except SynDBError as error:
                attempts += 1
                log.info("catalogue not announced", cause=error.message, attempt=attempts)
                if attempts < ANNOUNCEMENTS:
                    continue
            attempts = 0
            self._announced = first.revision

    async def _note_schema(self) -> None:
        """Keep what is noted of our schema true: the hub sends migrations at any time."""
        while True:
            await self._catalogue.looked()
            await self._state.note_schema(self._catalogue.schema_version)

    async def _note(self, state: str, error: SynDBError | None = None, **facts: str) -> None:
        await self._state.note(state, error, hub_peer_id=self._link.pins.current, **facts)
