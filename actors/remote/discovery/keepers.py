"""Who is to have which record, and who has been told.

A record is kept by the members closest to its key. Of hundreds of members and records hardly any change from one look
to the next, so the keepers of a record are worked out when it is new, and afterwards only as far as members came or
went; a look at which nothing has changed costs next to nothing. What everybody has is repeated with the next
signature, within the hour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from actors.remote.discovery.kademlia import closest
from actors.remote.discovery.records import Record

RETRY_SECONDS = 60.0
"""Before a member that could not be told is tried again; twice as long each time, up to the time of repetition."""

REPUBLISH_SECONDS = 3600.0
_MOST_DOUBLINGS = 10


@dataclass(frozen=True)
class Look:
    """What is known at one moment.

    Attributes:
        records: all that are kept here, our own among them.
        own: ours.
        contacts: members that can perhaps be reached.
        connected: those of them that are connected.
    """

    records: Sequence[Record]
    own: Record | None
    contacts: frozenset[str]
    connected: frozenset[str]


class Keepers:
    """Which member is to be told what.

    Args:
        peer_id: ours.
        hands_on: whether records of others are handed on too. They are the business of who signed them; a hub does it,
            since it knows everybody.
        clock: seconds.
    """

    def __init__(self, peer_id: str, *, hands_on: bool, clock: Callable[[], float] = trio.current_time) -> None:
        self._peer_id = peer_id
        self._hands_on = hands_on
        self._clock = clock
        self._near: dict[str, list[str]] = {}
        """The closest of the connected members to a key, the owner of its record and us left out."""
        self._connected: frozenset[str] = frozenset()
        self._told: dict[str, dict[str, int]] = {}
        """The sequence a member has of a key."""
        self._failures: dict[str, tuple[int, float]] = {}
        """How often a member could not be told, and until when it is left alone."""
        self._settled: Look | None = None
        """Everybody who can be told has been, as far as this goes."""

    async def untold(self, look: Look) -> dict[str, list[Record]]:
        """What each member that may be told now does not have yet."""
        now = self._clock()
        if look == self._settled and all(until > now for _, until in self._failures.values()):
            return {}
        due: set[str] = set()
        near: dict[str, list[str]] = {}
        told: dict[str, dict[str, int]] = {}
        work: dict[str, list[Record]] = {}
        for record in look.records:
            known = self._told.get(record.key, {})
            told[record.key] = {peer_id: known[peer_id] for peer_id in known if peer_id in look.contacts}
            for peer_id in self._of(record, look, near):
                if known.get(peer_id, -1) >= record.sequence:
                    continue
                due.add(peer_id)
                if self._failures.get(peer_id, (0, -math.inf))[1] <= now:
                    work.setdefault(peer_id, []).append(record)
            # A thousand records take a while when many members came or went.
            await trio.lowlevel.checkpoint()
        self._near, self._told, self._connected = near, told, look.connected
        # Who is to be told nothing any more has no attempt left that could succeed.
        self._failures = {
            peer_id: (times, until)
            for peer_id, (times, until) in self._failures.items()
            if peer_id in due or (peer_id in look.contacts and until > now)
        }
        self._settled = None if work else look
        return work

    def told(self, peer_id: str, record: Record) -> None:
        """A member has a record."""
        self._told.setdefault(record.key, {})[peer_id] = record.sequence

    def reached(self, peer_id: str) -> None:
        """A member was told everything it was to be told."""
        self._failures.pop(peer_id, None)

    def failed(self, peer_id: str) -> None:
        """A member could not be told; it is left alone for a while."""
        times = self._failures.get(peer_id, (0, 0.0))[0]
        pause = min(RETRY_SECONDS * 2**times, REPUBLISH_SECONDS)
        self._failures[peer_id] = (min(times + 1, _MOST_DOUBLINGS), self._clock() + pause)

    def _of(self, record: Record, look: Look, near: dict[str, list[str]]) -> Iterable[str]:
        """Who is to have a record: the closest members, and of our own also all that are connected."""
        ourselves = {record.peer_id, self._peer_id}
        if record is look.own:
            return (look.connected - ourselves).union(closest(record.key.encode(), look.contacts - ourselves))
        if not self._hands_on:
            return ()
        near[record.key] = self._nearest(record, look.connected, ourselves)
        return near[record.key]

    def _nearest(self, record: Record, connected: frozenset[str], ourselves: set[str]) -> list[str]:
        key, before = record.key.encode(), self._near.get(record.key)
        if before is None or not connected.issuperset(before):
            return closest(key, connected - ourselves)
        # Nobody who was near has gone: only those who came can be nearer.
        came = connected - self._connected - ourselves
        return closest(key, came.union(before)) if came else before
