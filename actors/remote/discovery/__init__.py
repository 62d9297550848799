"""Where peers may be found.

``static`` reads configured multiaddrs, ``mdns`` announces and hears daemons of the same network, ``dht`` asks the
members of the federation, and ``hub`` follows all of them at once to reach the hub. What is found is a claim: only
connecting to an address proves which peer lives there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PeerAddresses:
    """A claim that a peer can be reached at these addresses.

    Attributes:
        peer_id: the PeerId that was named.
        addresses: multiaddrs, each ending in ``/p2p/`` and that PeerId.
        source: who says so: ``static``, ``relay``, ``mdns`` or ``dht``.
    """

    peer_id: str
    addresses: tuple[str, ...]
    source: str


Claim = Callable[[PeerAddresses], None]
"""Takes what a source has found; never waits."""

Source = Callable[[Claim], Awaitable[None]]
"""Looks for peers until cancelled, or returns when it has said all it knows. One that fails is left out."""
