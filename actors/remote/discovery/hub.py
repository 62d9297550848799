"""Reaching the hub: configured addresses and the local network at once, and whichever leads to the pinned PeerId."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
import trio

from actors.remote.discovery import PeerAddresses
from actors.remote.discovery.mdns import Mdns
from actors.remote.discovery.static import configured_peers
from actors.remote.host import Host
from actors.remote.multiaddrs import MAX_ADDRESSES_PER_PEER
from syndb_common.errors import PeerUnavailable

ATTEMPT_SECONDS = 5.0
PAUSE_SECONDS = 1.0

log = structlog.get_logger()


async def find_hub(
    host: Host,
    hub_peer_id: str,
    configured: Sequence[str],
    *,
    mdns: Mdns | None,
    timeout: float,  # noqa: ASYNC109 - the message says it
) -> tuple[str, ...]:
    """Connect to the hub wherever it is found first.

    Configured addresses are tried again and again, since the hub may only be starting. Of what the local network
    announces only the pinned PeerId is tried, and connecting proves it.

    Args:
        host: dials.
        hub_peer_id: the pinned PeerId.
        configured: multiaddrs from the configuration.
        mdns: the local network, or None to leave it alone.
        timeout: seconds for everything.

    Returns:
        Addresses to dial the hub at, also later; ``host`` is connected to it.

    Raises:
        PeerUnavailable: not found in time; the message has the last failure.
        ConfigError: a configured address is not the multiaddr of a peer.
    """
    search = _Search(host, hub_peer_id, configured_peers(configured))
    reached: tuple[str, ...] = ()
    with trio.move_on_after(timeout):
        async with trio.open_nursery() as nursery:
            if mdns is not None:
                nursery.start_soon(search.listen, mdns)
            reached = await search.reach()
            nursery.cancel_scope.cancel()
    if not reached:
        raise PeerUnavailable(
            f"the hub {hub_peer_id} was not found within {timeout:g} s: {search.failure}",
            hint="Configure one of its addresses (the hub logs them when it starts), and check that it is running.",
        )
    return reached


class _Search:
    """What is known about where the hub may be, the newest claim first."""

    def __init__(self, host: Host, hub_peer_id: str, configured: Sequence[PeerAddresses]) -> None:
        self.failure = "nobody named an address of it"
        self._host = host
        self._hub = hub_peer_id
        self._addresses = [address for peer in configured if peer.peer_id == hub_peer_id for address in peer.addresses]
        self._news = trio.Event()

    async def reach(self) -> tuple[str, ...]:
        while True:
            addresses, self._news = tuple(self._addresses), trio.Event()
            if addresses:
                try:
                    await self._host.connect(self._hub, addresses, timeout=ATTEMPT_SECONDS)
                except PeerUnavailable as error:
                    self.failure = error.message
                else:
                    return addresses
            with trio.move_on_after(PAUSE_SECONDS):
                await self._news.wait()

    async def listen(self, mdns: Mdns) -> None:
        async with mdns.peers(role="hub") as findings:
            async for peer in findings:
                if peer.peer_id == self._hub:
                    known = [address for address in self._addresses if address not in peer.addresses]
                    self._addresses = [*peer.addresses, *known][:MAX_ADDRESSES_PER_PEER]
                    self._news.set()
                else:
                    log.info("another_hub_heard", peer=peer.peer_id)
