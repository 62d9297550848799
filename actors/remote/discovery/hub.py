"""Reaching the hub: all sources at once, and whichever leads to a pinned PeerId first.

::

    found = await find_hub(
        host,
        [current_hub, next_hub],
        [configured(addresses), through_relays(relays, [current_hub, next_hub]), mdns.heard("hub"), dht.hubs(...)],
        timeout=20,
    )

A source that fails, or lies, costs nothing but its own dials: each has its own room among the addresses that are tried,
so that nobody on the local network can push out what the operator has configured. Only a connection whose handshake
proves the PeerId ends the search. Who loses the hub later searches again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import trio

from actors.remote.discovery import PeerAddresses, Source
from actors.remote.transport import Transport
from syndb_common.errors import PeerUnavailable

ATTEMPT_SECONDS = 4.0
"""Several round trips across an ocean. QUIC repeats its first packet less and less often: a hub that starts in the
middle of an attempt is noticed within 1.6 seconds, in the middle of a longer one within more."""

PAUSE_SECONDS = 0.5
ADDRESSES_PER_SOURCE = 8
"""The newest ones count. Sources are few: :data:`actors.remote.multiaddrs.MAX_ADDRESSES_PER_PEER` has room for four."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reached:
    """The hub that answered.

    Attributes:
        peer_id: which of the pinned ones.
        addresses: where to dial it, also later: all that sources claim, in the order of the sources.
    """

    peer_id: str
    addresses: tuple[str, ...]


async def find_hub(
    host: Transport,
    hub_peer_ids: Sequence[str],
    sources: Sequence[Source],
    *,
    timeout: float,  # noqa: ASYNC109 - the message says it
) -> Reached:
    """Connect to the hub wherever it is found first.

    What was claimed is tried again and again, since the hub may only be starting.

    Args:
        host: dials.
        hub_peer_ids: the pinned PeerIds, one or two. No other peer is dialled.
        sources: what claims where the hub is; all run at the same time.
        timeout: seconds for everything.

    Returns:
        The hub to which ``host`` is connected now.

    Raises:
        PeerUnavailable: not found in time; the message has the last failure.
    """
    search = _Search(host, hub_peer_ids)
    with trio.move_on_after(timeout):
        async with trio.open_nursery() as nursery:
            for position, source in enumerate(sources):
                nursery.start_soon(search.listen, position, source)
            for peer_id in hub_peer_ids:
                nursery.start_soon(search.reach, peer_id, nursery.cancel_scope)
    if search.reached is None:
        raise PeerUnavailable(
            f"the hub {' or '.join(hub_peer_ids)} was not found within {timeout:g} s: {search.failure}",
            hint="Configure one of its addresses (the hub logs them when it starts), and check that it is running.",
        )
    return search.reached


class _Search:
    """What is claimed about each pinned hub, by source."""

    def __init__(self, host: Transport, hub_peer_ids: Sequence[str]) -> None:
        self.reached: Reached | None = None
        self.failure = "nobody named an address of it"
        self._host = host
        self._claims: dict[str, dict[int, tuple[str, ...]]] = {peer_id: {} for peer_id in hub_peer_ids}
        self._news = {peer_id: trio.Event() for peer_id in hub_peer_ids}

    async def listen(self, position: int, source: Source) -> None:
        """Take what one source claims; if it fails, the others go on."""

        def claim(found: PeerAddresses) -> None:
            if found.peer_id not in self._claims:
                log.info("another_hub_heard", peer=found.peer_id, source=found.source)
                return
            known = self._claims[found.peer_id]
            newest = dict.fromkeys((*found.addresses, *known.get(position, ())))
            known[position] = tuple(newest)[:ADDRESSES_PER_SOURCE]
            self._news[found.peer_id].set()

        try:
            await source(claim)
        except Exception as error:
            log.warning("discovery_source_failed", why=repr(error)[:300])

    async def reach(self, peer_id: str, search: trio.CancelScope) -> None:
        """Dial what is claimed about one hub until it answers, which ends the search."""
        while True:
            self._news[peer_id] = trio.Event()
            claims = self._claims[peer_id]
            addresses = tuple(dict.fromkeys(address for position in sorted(claims) for address in claims[position]))
            if addresses:
                try:
                    await self._host.connect(peer_id, addresses, timeout=ATTEMPT_SECONDS)
                except PeerUnavailable as error:
                    self.failure = error.message
                else:
                    self.reached = Reached(peer_id, addresses)
                    search.cancel()
                    return
            with trio.move_on_after(PAUSE_SECONDS):
                await self._news[peer_id].wait()
