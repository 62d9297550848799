"""Where peers may be found.

``static`` reads configured multiaddrs, ``mdns`` announces and hears daemons of the same network, ``hub`` uses both to
reach the hub. What is found is a claim: only connecting to an address proves which peer lives there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PeerAddresses:
    """A claim that a peer can be reached at these addresses.

    Attributes:
        peer_id: the PeerId that was named.
        addresses: multiaddrs, each ending in ``/p2p/`` and that PeerId.
        source: ``static`` or ``mdns``.
    """

    peer_id: str
    addresses: tuple[str, ...]
    source: str
