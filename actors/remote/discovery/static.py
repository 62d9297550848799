"""Configured multiaddrs, each naming the peer it leads to: of the hub itself, and of relays that lead to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from multiaddr import Multiaddr

from actors.remote.discovery import Claim, PeerAddresses, Source
from actors.remote.identity import is_peer_id
from actors.remote.multiaddrs import CIRCUIT, split_peer
from syndb_common.errors import ConfigError


def configured_peers(multiaddrs: Iterable[str]) -> tuple[PeerAddresses, ...]:
    """Group multiaddrs by the peer they name, in the order given.

    Raises:
        ConfigError: one is no multiaddr or does not end in ``/p2p/`` and a PeerId.
    """
    found: dict[str, list[str]] = {}
    for text in multiaddrs:
        try:
            Multiaddr(text)
            peer_id = split_peer(text)[1]
        except Exception:
            peer_id = ""
        if not is_peer_id(peer_id):
            raise ConfigError(
                f"{text[:200]!r} is not the multiaddr of a peer",
                hint="the hub logs its addresses when it starts: /ip4/192.0.2.7/udp/4001/quic-v1/p2p/12D3Koo...",
            )
        found.setdefault(peer_id, []).append(text)
    return tuple(PeerAddresses(peer_id, tuple(texts), "static") for peer_id, texts in found.items())


def configured(multiaddrs: Iterable[str]) -> Source:
    """Claims what is configured.

    Raises:
        ConfigError: as :func:`configured_peers`.
    """
    return _all_at_once(configured_peers(multiaddrs))


def through_relays(relays: Iterable[str], peer_ids: Sequence[str]) -> Source:
    """Claims that each of the peers can be reached through each of the relays.

    Raises:
        ConfigError: as :func:`configured_peers`.
    """
    places = [address for relay in configured_peers(relays) for address in relay.addresses]
    return _all_at_once(
        PeerAddresses(peer_id, tuple(f"{place}{CIRCUIT}/p2p/{peer_id}" for place in places), "relay")
        for peer_id in peer_ids
        if places
    )


def _all_at_once(found: Iterable[PeerAddresses]) -> Source:
    known = tuple(found)

    async def source(claim: Claim) -> None:
        for peer in known:
            claim(peer)

    return source
