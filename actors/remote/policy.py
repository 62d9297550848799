"""Who may send which message: one table, read by the RPC server before anything else happens.

A message without an entry is refused, so a new one has to be given a trust level before it works at all. What a
peer is trusted with is asked for every single message, so that deactivating a node acts on its next one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum

from syndb_common.errors import Forbidden, SynDBError, TooManyRequests
from syndb_common.messages import (
    AnalyticsQuery,
    CancelQuery,
    CatalogAnnouncement,
    DatasetCatalogRequest,
    GetFlightEndpoint,
    HealthPing,
    JoinRequest,
    LeaveFederation,
    Message,
    OntologySync,
    RegisterCluster,
    SchemaSync,
)


class Trust(Enum):
    """What a daemon knows about a peer. The levels do not include each other: a hub is no member."""

    ANYONE = "anyone"
    """Nothing but its PeerId. Everyone is at least this, and is rate limited."""
    MEMBER = "member"
    """A node that proved the federation password and is active."""
    HUB = "hub"
    """The hub whose PeerId this node has pinned."""


RPC_POLICY: dict[type[Message], Trust] = {
    # Joining is how a peer becomes known: the messages carry the proof themselves.
    JoinRequest: Trust.ANYONE,
    RegisterCluster: Trust.ANYONE,
    # Fills the federation's catalogue: from nodes that are accepted and not deactivated.
    CatalogAnnouncement: Trust.MEMBER,
    # Changes what the hub thinks of the sender alone.
    LeaveFederation: Trust.MEMBER,
    # Tells load, versions and clock of an institution's machine.
    HealthPing: Trust.HUB,
    # Changes the node's tables.
    SchemaSync: Trust.HUB,
    # Replaces the vocabularies that metadata are checked against.
    OntologySync: Trust.HUB,
    # Lists data sets, also those that are not published to everyone.
    DatasetCatalogRequest: Trust.HUB,
    # Hands out the way to the data.
    GetFlightEndpoint: Trust.HUB,
    # Computes on the data; the plan's own capability and the owner's policy come on top.
    AnalyticsQuery: Trust.HUB,
    # Stops what only the hub can have started.
    CancelQuery: Trust.HUB,
}


MEMBER_RATE = 2.0
"""Messages a second, of each type, that a member may send in the long run. An honest node announces its catalogue when
it looks again and finds it changed, and leaves once."""
MEMBER_BURST = 60.0
"""Messages of one type at once: a node that restarts over and over, or many uploads in a row, stay far below."""


class RateLimit:
    """Token buckets, one per key and one over all keys, since new keys cost an attacker nothing.

    Args:
        rate: requests per second and key, in the long run.
        burst: requests of one key at once.
        overall: how many times the rate and burst of one key all keys together may have.
        keys: how many keys are remembered; the one unseen for longest is forgotten.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        rate: float = 2.0,
        burst: float = 10.0,
        overall: float = 20.0,
        keys: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._rate, self._burst, self._overall, self._keys = rate, burst, overall, keys
        self._all = (burst * overall, clock())
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, key: str, *, stranger: bool = True) -> bool:
        """Take one request from both buckets; False, taking nothing, when either is empty.

        One who is no stranger has a bucket of its own only: nobody else's requests hold it up.
        """
        now = self.clock()
        own_level, own_time = self._buckets.get(key, (self._burst, now))
        all_level, all_time = self._all
        own_level = min(self._burst, own_level + (now - own_time) * self._rate)
        all_level = min(self._burst * self._overall, all_level + (now - all_time) * self._rate * self._overall)
        admitted = own_level >= 1 and (all_level >= 1 or not stranger)
        cost = 1 if admitted else 0
        self._all = (all_level - (cost if stranger else 0), now)
        self._buckets[key] = (own_level - cost, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._keys:
            self._buckets.popitem(last=False)
        return admitted


class Policy:
    """Admission of one message from one peer.

    Args:
        trust_of: what the daemon knows about a PeerId at this moment.
        table: trust each message needs.
        limit: rate of messages that need no trust, and of those that are refused. Members have another one, per
            member and type of message; the hub has none.
    """

    def __init__(
        self,
        trust_of: Callable[[str], Trust],
        *,
        table: dict[type[Message], Trust] | None = None,
        limit: RateLimit | None = None,
    ) -> None:
        self._trust_of = trust_of
        self._table = RPC_POLICY if table is None else table
        self._limit = limit or RateLimit()
        self._members = RateLimit(rate=MEMBER_RATE, burst=MEMBER_BURST, keys=16_384, clock=self._limit.clock)

    def admit(self, kind: type[Message], peer_id: str) -> None:
        """Return if the peer may send this message now.

        Raises:
            Forbidden: the message needs a trust this peer does not have, or has no entry in the table.
            TooManyRequests: it needs none or is refused, and this peer or all together sent too many; or a member sent
                too many of this type.
        """
        needed = self._table.get(kind)
        if needed is Trust.ANYONE:
            if not self._admits(peer_id):
                raise _too_many()
        elif needed is None or self._trust_of(peer_id) is not needed:
            refused = Forbidden(
                f"{kind.__name__} is not accepted from this peer",
                hint="a node has to join first and be active; a hub has to be the one the node pinned",
            )
            raise self.refusal(peer_id, refused)
        elif needed is Trust.MEMBER and not self._members.admit(f"{peer_id} {kind.__name__}", stranger=False):
            raise _too_many()

    def refusal(self, peer_id: str, error: SynDBError) -> SynDBError:
        """What a peer is told whose request is refused: the error, or that it sends too many of them."""
        return error if self._admits(peer_id) else _too_many()

    def _admits(self, peer_id: str) -> bool:
        # A member that joins again after the hub's restart must get through a crowd of strangers.
        return self._limit.admit(peer_id, stranger=self._trust_of(peer_id) is Trust.ANYONE)


def _too_many() -> TooManyRequests:
    return TooManyRequests("too many requests", hint="wait some seconds")
