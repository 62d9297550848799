"""Configured multiaddrs of peers, each naming the peer it leads to."""

from __future__ import annotations

from collections.abc import Iterable

from multiaddr import Multiaddr

from actors.remote.discovery import PeerAddresses
from syndb_common.errors import ConfigError


def configured_peers(multiaddrs: Iterable[str]) -> tuple[PeerAddresses, ...]:
    """Group multiaddrs by the peer they name, in the order given.

    Raises:
        ConfigError: one is no multiaddr or does not end in ``/p2p/`` and a PeerId.
    """
    found: dict[str, list[str]] = {}
    for text in multiaddrs:
        try:
            peer_id = Multiaddr(text).value_for_protocol("p2p")
        except Exception:
            peer_id = None
        if not peer_id:
            raise ConfigError(
                f"{text[:200]!r} is not the multiaddr of a peer",
                hint="the hub logs its addresses when it starts: /ip4/192.0.2.7/udp/4001/quic-v1/p2p/12D3Koo...",
            )
        found.setdefault(peer_id, []).append(text)
    return tuple(PeerAddresses(peer_id, tuple(texts), "static") for peer_id, texts in found.items())
