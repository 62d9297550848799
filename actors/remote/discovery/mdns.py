"""Daemons of one local network find each other by multicast DNS, without configuration.

A daemon announces the service ``_syndb._udp.local.`` under its PeerId; the TXT record carries what it is
(``role``: ``hub`` or ``node``) and where it listens: ``a0``, ``a1``, ... each one multiaddr without its ``/p2p/`` end,
since a TXT string holds 255 bytes and the PeerId stands in ``p2p``. zeroconf works in threads of its own and is
stopped with the block. Where multicast is not available, as in many sandboxes and clouds, one line in the log says so
and nothing is ever found.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
import trio
from multiaddr import Multiaddr
from zeroconf import Error, IPVersion, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from actors.remote.discovery import Claim, PeerAddresses, Source
from actors.remote.identity import is_peer_id
from actors.remote.multiaddrs import is_circuit, split_peer

SERVICE = "_syndb._udp.local."
MAX_TXT_STRING = 255
MAX_ANNOUNCED = 8
"""Addresses in one record, so that it fits into one packet."""

MAX_WAITING = 64
"""Findings nobody has read yet; more are dropped and come again with the next announcement."""

RESOLVE_MILLISECONDS = 2000
STOP_SECONDS = 5.0

_ZEROCONF = trio.CapacityLimiter(4)

log = structlog.get_logger()


class Mdns:
    """Announcing and hearing on the local network; made by :func:`open_mdns`."""

    def __init__(self, zeroconf: Zeroconf | None) -> None:
        self._zeroconf = zeroconf
        self._announced: set[str] = set()

    async def announce(self, peer_id: str, addresses: Sequence[str], *, role: str) -> None:
        """Announce a daemon until the block ends, in place of what was announced of it before.

        Args:
            peer_id: its PeerId.
            addresses: its real multiaddrs; the first few are announced.
            role: ``hub`` or ``node``.
        """
        if self._zeroconf is None:
            return
        info = _service_info(peer_id, addresses, role)
        # No probing for others of that name: a PeerId has one owner, and a restarted daemon takes over its own.
        register = partial(self._zeroconf.register_service, info, cooperating_responders=True)
        if peer_id in self._announced:
            register = partial(self._zeroconf.update_service, info)
        self._announced.add(peer_id)
        try:
            await trio.to_thread.run_sync(register, limiter=_ZEROCONF)
        except (Error, OSError) as error:
            log.warning("mdns_announcement_failed", why=str(error) or type(error).__name__)

    def heard(self, role: str) -> Source:
        """Claims what daemons of ``role`` announce."""

        async def source(claim: Claim) -> None:
            async with self.peers(role=role) as findings:
                async for peer in findings:
                    claim(peer)

        return source

    @asynccontextmanager
    async def peers(self, *, role: str) -> AsyncIterator[trio.MemoryReceiveChannel[PeerAddresses]]:
        """What daemons of ``role`` announce while the block runs; a daemon comes again when it changes."""
        send, receive = trio.open_memory_channel[PeerAddresses](MAX_WAITING)
        with send, receive:
            zeroconf = self._zeroconf
            if zeroconf is None:
                yield receive
                return
            token = trio.lowlevel.current_trio_token()

            def hand_over(found: PeerAddresses) -> None:
                try:
                    send.send_nowait(found)
                except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
                    log.debug("mdns_finding_dropped", peer=found.peer_id)

            def on_change(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
                if state_change is ServiceStateChange.Removed:
                    return
                try:
                    info = zeroconf.get_service_info(service_type, name, RESOLVE_MILLISECONDS)
                except Exception:  # what it raises when closed meanwhile, as the daemon ends, is of several kinds
                    if zeroconf.done:
                        return
                    raise
                found = None if info is None else _read(info.properties, role)
                if found is not None:
                    try:
                        token.run_sync_soon(hand_over, found)
                    except trio.RunFinishedError:
                        return

            browser = await trio.to_thread.run_sync(
                lambda: ServiceBrowser(zeroconf, SERVICE, handlers=[on_change]), limiter=_ZEROCONF
            )
            try:
                yield receive
            finally:
                await _in_thread_to_the_end(browser.cancel)


@asynccontextmanager
async def open_mdns(*, interfaces: Sequence[str] | None = None) -> AsyncIterator[Mdns]:
    """Multicast DNS within the block.

    Args:
        interfaces: addresses of the interfaces to use, by default all.
    """
    try:
        zeroconf = await trio.to_thread.run_sync(_start, interfaces, limiter=_ZEROCONF)
    except OSError as error:
        log.warning("mdns_unavailable", why=str(error), instead="configured addresses only")
        yield Mdns(None)
        return
    try:
        yield Mdns(zeroconf)
    finally:
        await _in_thread_to_the_end(zeroconf.close)


def _start(interfaces: Sequence[str] | None) -> Zeroconf:
    if interfaces is None:
        return Zeroconf(ip_version=IPVersion.V4Only)
    return Zeroconf(interfaces=list(interfaces), ip_version=IPVersion.V4Only)


async def _in_thread_to_the_end(stop: Any) -> None:
    """Stop something of zeroconf also while being cancelled, but not for ever: its threads are daemons."""
    with trio.move_on_after(STOP_SECONDS, shield=True):
        await trio.to_thread.run_sync(stop, limiter=_ZEROCONF, abandon_on_cancel=True)


def _service_info(peer_id: str, addresses: Sequence[str], role: str) -> ServiceInfo:
    places = [split_peer(address)[0] for address in addresses if not is_circuit(address)]
    places = [place for place in places if len(f"a0={place}") <= MAX_TXT_STRING][:MAX_ANNOUNCED]
    parts = places[0].split("/") if places else []
    direct = len(parts) >= 5 and parts[1] == "ip4"
    return ServiceInfo(
        SERVICE,
        f"{peer_id}.{SERVICE}",
        port=int(parts[4]) if direct else 0,
        addresses=[socket.inet_aton(parts[2])] if direct else [],
        properties={"p2p": peer_id, "role": role} | {f"a{position}": place for position, place in enumerate(places)},
        server=f"{peer_id[-32:]}.local.",
    )


def _read(properties: dict[bytes, bytes | None], role: str) -> PeerAddresses | None:
    """What a TXT record claims, or None if it is not of this role or makes no sense. Anybody may have sent it."""
    try:
        texts = {key.decode(): value.decode() for key, value in properties.items() if value is not None}
    except UnicodeDecodeError:
        return None
    peer_id = texts.get("p2p", "")
    if texts.get("role") != role or not is_peer_id(peer_id):
        return None
    addresses = []
    for position in range(MAX_ANNOUNCED):
        place = texts.get(f"a{position}", "")
        if place and "/p2p/" not in place:
            try:
                addresses.append(str(Multiaddr(f"{place}/p2p/{peer_id}")))
            except Exception as error:
                log.debug("mdns_address_ignored", address=place, why=str(error))
    return PeerAddresses(peer_id, tuple(addresses), "mdns") if addresses else None
