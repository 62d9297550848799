"""Dialling a peer: its addresses at almost the same time, and the first that proves to be it wins.

One address after the other would let a dead one use up the time of those behind it. Each has a short head start
before the next, so that QUIC wins where it works and nobody opens eight connections to a peer that answers at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import INetConn
from libp2p.peer.id import ID
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.transport.quic.exceptions import QUICPeerVerificationError
from multiaddr import Multiaddr

from actors.remote.multiaddrs import is_circuit
from actors.remote.swarm import DaemonSwarm
from syndb_common.errors import PeerUnavailable

HEAD_START_SECONDS = 0.25
"""Of one address before the next, as RFC 8305 has it: a round trip across an ocean, and nobody notices waiting it."""

CLOSE_SECONDS = 2.0

DialCircuit = Callable[[Multiaddr, ID], Awaitable[INetConn]]
"""Reaches a peer through the relay that an address names."""

STRANGER = "another daemon answers there and cannot prove to be this peer"
"""Only who proved another key is one: a certificate out of date, as clocks that differ make it, accuses nobody."""

UNPROVED = "whoever answers there did not prove to be this peer"


async def dial(
    swarm: DaemonSwarm,
    peer: ID,
    addresses: list[Multiaddr],
    deadline: float,
    *,
    circuit: DialCircuit | None = None,
) -> None:
    """Connect to the peer at one of the addresses.

    Args:
        swarm: gets the connection.
        peer: whose key the other side has to prove.
        addresses: in the order to try.
        deadline: on trio's clock.
        circuit: dials those that lead through a relay; without it they are left out.

    Raises:
        PeerUnavailable: none of the addresses led to the peer in time. The message says why for each.
    """
    reasons = dict.fromkeys(addresses, "no answer")
    won: list[INetConn] = []

    async def attempt(address: Multiaddr, over: trio.Event, scope: trio.CancelScope) -> None:
        try:
            if not is_circuit(str(address)):
                connection = await swarm.dial_addr(address, peer)
            elif circuit is not None:
                connection = await circuit(address, peer)
            else:
                reasons[address] = "relays are not used here"
                return
            if won:
                await _close(connection)
            elif is_proved(connection, peer):
                won.append(connection)
                scope.cancel()
            else:
                reasons[address] = UNPROVED
                await _close(connection)
        except Exception as error:
            reasons[address] = STRANGER if _is_mismatch(error) else innermost(error)
        finally:
            over.set()

    with trio.move_on_at(deadline):
        async with trio.open_nursery() as nursery:
            for address in addresses:
                over = trio.Event()
                nursery.start_soon(attempt, address, over, nursery.cancel_scope)
                with trio.move_on_after(HEAD_START_SECONDS):
                    await over.wait()
    if won:
        return
    shown = [f"{str(address).removesuffix(f'/p2p/{peer}')}: {reason}" for address, reason in reasons.items()]
    raise PeerUnavailable(
        f"cannot reach {peer}" + "".join(f"; {text}" for text in shown),
        hint="Its PeerId is not the one that is pinned here: ask its operator, and trust no other."
        if STRANGER in reasons.values()
        else "Is the other daemon running, and do its addresses still hold?",
    )


def is_proved(connection: INetConn, peer: ID) -> bool:
    """Whether the handshake proved the PeerId; a QUIC server that shows no certificate passes libp2p's own check."""
    muxed = connection.muxed_conn
    return muxed.peer_id == peer and getattr(muxed, "is_peer_verified", True) is True


def innermost(error: BaseException) -> str:
    """What went wrong below libp2p's layers, in one line."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
        else:
            return (str(error) or type(error).__name__).splitlines()[0][:200]


async def _close(connection: INetConn) -> None:
    with trio.move_on_after(CLOSE_SECONDS, shield=True):
        await connection.close()


def _is_mismatch(error: BaseException) -> bool:
    """Whether a handshake failed because the other side has another key."""
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if isinstance(current, PeerIDMismatchesPubkey):
            return True
        if isinstance(current, QUICPeerVerificationError) and str(current).startswith("Peer ID mismatch"):
            return True
        if current is not None:
            pending.extend((current.__cause__, *getattr(current, "exceptions", ())))
    return False
