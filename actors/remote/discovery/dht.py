"""Finding daemons through the members of the federation: a distributed hash table of signed records.

A hub publishes where it is under ``syndb-hub``, a node under ``syndb-cluster:<name>``, each signed
(:mod:`actors.remote.discovery.records`). A node whose hub has moved asks the members it knows; whichever has the newest
record wins, and connecting proves it. A copy of one's own is only where the search begins.

Nobody makes a daemon connect to a place of their choosing: it dials members that its operator named, or whose signed
records it was given by one of these or by its hub. Whom such a member names in turn it leaves alone: anybody can sign
for any number of peers. Of their addresses it dials those that ``may_dial`` lets through; so many a minute, and only
to look for a peer or to hand over what has changed.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import structlog
import trio

from actors.remote.discovery import Claim, PeerAddresses, Source
from actors.remote.discovery.kademlia import Member, RecordStore, ask, closest, get_value, named_in, put_value
from actors.remote.discovery.keepers import REPUBLISH_SECONDS, RETRY_SECONDS, Keepers, Look
from actors.remote.discovery.records import (
    HUB,
    Record,
    RecordRefused,
    SequenceNumbers,
    check,
    key_of,
    newest,
    sign,
)
from actors.remote.host import Host
from actors.remote.identity import Identity
from actors.remote.multiaddrs import leads_elsewhere
from syndb_common.errors import ConfigError, PeerUnavailable
from syndb_common.settings import write_private

ASK_SECONDS = 4.0
"""For one member: to connect, and again to answer. One that is gone must not hold up the others."""

LOOKUP_SECONDS = 10.0
AT_ONCE = 4
"""Members asked, or told, at the same time."""

ROUND_SECONDS = 2.0
"""Between two looks at whether there is something to tell others."""

MAX_NAMED = 64
"""Members that answers may add to one search."""

SOURCE_PAUSE_SECONDS = 3.0
DIALS_A_MINUTE = 20
"""To look for a peer, and as many to tell what has changed."""

DIALS_OF_OTHERS = 12
"""Of these to peers that are neither named by the operator nor trusted: what they use up, nobody else misses."""

SAVE_SECONDS = 30.0
MAX_FILE_BYTES = 8 * 1024 * 1024

_DISK = trio.CapacityLimiter(1)

log = structlog.get_logger()


class Dht:
    """A daemon's part in the DHT: answers from the start, publishes and remembers while :meth:`run` runs.

    Whatever fails in it is logged, and begun again after a while: a daemon can do without.

    Args:
        host: whose connections are used.
        identity: signs what is published.
        name: what this daemon is found under, see :mod:`actors.remote.discovery.records`; None publishes nothing.
        trusted: whether a peer belongs to the federation; asked each time. A hub says so of its members, a node of its
            hub.
        vouches: whose word is enough for records of others: a node believes its hub, a hub nobody.
        may_dial: of the addresses in records those that may be dialled, by PeerId and address.
        bootstrap: members named by the operator; they are trusted, and dialled where they are configured.
        folder: where records and the last sequence are kept over a restart; None forgets them.
    """

    def __init__(
        self,
        host: Host,
        identity: Identity,
        *,
        name: str | None,
        trusted: Callable[[str], bool],
        vouches: Callable[[str], bool] = lambda _peer_id: False,
        may_dial: Callable[[str, str], bool] = lambda _peer_id, address: leads_elsewhere(address),
        bootstrap: Sequence[PeerAddresses] = (),
        folder: Path | None = None,
    ) -> None:
        self._host = host
        self._identity = identity
        self._name = name
        self._named = {peer.peer_id: peer.addresses for peer in bootstrap}
        self._trusted = trusted
        self._vouches = vouches
        self._may_dial = may_dial
        self._file = None if folder is None else folder / "records"
        self._sequences = SequenceNumbers(None if folder is None else folder / "sequence")
        self._store = RecordStore()
        self._member = Member(
            host, self._store, trusted=self._belongs, vouches=vouches, on_put=lambda _record: self._changed()
        )
        self._changes = 0
        self._saved = 0
        """Of the changes, those that are on the disk."""
        self._own: Record | None = None
        self._keepers = Keepers(identity.peer_id, hands_on=name == HUB)
        self._published: tuple[str, ...] = ()
        self._dials_to_look: deque[float] = deque(maxlen=DIALS_A_MINUTE)
        self._dials_to_tell: deque[float] = deque(maxlen=DIALS_A_MINUTE)

    @property
    def records(self) -> Sequence[Record]:
        """The records kept here."""
        return self._store.all()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publish where we are, hand on what we keep, and save it, until cancelled."""
        await trio.to_thread.run_sync(self._load, limiter=_DISK)
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._save_often)
                while True:
                    try:
                        await self._publish()
                    except (OSError, ConfigError) as error:
                        log.warning("nothing_published", why=str(error), again_in_seconds=RETRY_SECONDS)
                        await trio.sleep(RETRY_SECONDS)
                    except Exception:
                        log.exception("publishing_failed", again_in_seconds=RETRY_SECONDS)
                        await trio.sleep(RETRY_SECONDS)
                    await trio.sleep(ROUND_SECONDS)
        finally:
            with trio.move_on_after(ROUND_SECONDS, shield=True):
                await self._save()

    async def lookup(
        self,
        name: str,
        peer_id: str,
        *,
        found: Callable[[Record], None] = lambda _record: None,
        timeout: float = LOOKUP_SECONDS,  # noqa: ASYNC109 - what was found by then is the answer
    ) -> Record | None:
        """The newest record of a name and PeerId that members answer with within ``timeout`` seconds.

        Args:
            name: as published.
            peer_id: whose record; others' claims to the name do not count.
            found: called with each record that is newer than those before, the copy kept here first.
            timeout: seconds.
        """
        search = _Search(self, key_of(name, peer_id), found)
        with trio.move_on_after(timeout):
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(search.work)
        best = search.best
        if best is not None and (self._belongs(best.peer_id) or self._store.get(best.key) is not None):
            self._keep(best)
        return best

    def hubs(self, hub_peer_ids: Sequence[str]) -> Source:
        """Claims what members know of the hubs, again and again."""

        async def source(claim: Claim) -> None:
            def found(record: Record) -> None:
                claim(PeerAddresses(record.peer_id, self._dialled_of(record), "dht"))

            async def look(peer_id: str) -> None:
                while True:
                    await self.lookup(HUB, peer_id, found=found)
                    await trio.sleep(SOURCE_PAUSE_SECONDS)

            async with trio.open_nursery() as nursery:
                for peer_id in hub_peer_ids:
                    nursery.start_soon(look, peer_id)

        return source

    def _belongs(self, peer_id: str) -> bool:
        return peer_id in self._named or peer_id == self._identity.peer_id or self._trusted(peer_id)

    def _is_relied_on(self, peer_id: str) -> bool:
        """Whether a peer may name others: the operator named it, or its word is enough anyway."""
        return peer_id in self._named or self._vouches(peer_id)

    def _comes_first(self, peer_id: str) -> bool:
        return self._is_relied_on(peer_id) or self._trusted(peer_id)

    def _dialled_of(self, record: Record) -> tuple[str, ...]:
        return tuple(address for address in record.addresses if self._may_dial(record.peer_id, address))

    def _keep(self, record: Record) -> None:
        if self._store.get(record.key) != record and self._store.put(record):
            self._changed()

    def _changed(self) -> None:
        self._changes += 1

    # Publishing

    async def _publish(self) -> None:
        """Tell each member that can be told what it does not have yet, AT_ONCE of them at a time."""
        await self._renew_own()
        contacts = self._contacts()
        connected = contacts.intersection(self._host.connected_peers)
        work = await self._keepers.untold(Look(self._store.all(), self._own, contacts, connected))
        limit = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for peer_id, records in work.items():
                nursery.start_soon(self._tell, peer_id, records, limit)

    async def _tell(self, peer_id: str, records: list[Record], limit: trio.CapacityLimiter) -> None:
        async with limit:
            try:
                async with self._reach(peer_id, self._dials_to_tell):
                    for record in records:
                        await ask(self._host, peer_id, put_value(record), timeout=ASK_SECONDS)
                        self._keepers.told(peer_id, record)
            except PeerUnavailable as error:
                self._keepers.failed(peer_id)
                log.debug("record_not_told", peer=peer_id, why=error.message)
            else:
                self._keepers.reached(peer_id)

    async def _renew_own(self) -> None:
        """Sign anew when the addresses have changed, or the last record grows old."""
        addresses = self._host.addresses
        if self._name is None or not addresses:
            return
        age = math.inf if self._own is None else time.time() - self._own.issued
        if addresses == self._published and 0 <= age < REPUBLISH_SECONDS:
            return
        sequence = await trio.to_thread.run_sync(self._sequences.next, limiter=_DISK)
        self._own = sign(self._identity, self._name, addresses, sequence=sequence)
        self._published = addresses
        self._keep(self._own)

    # Reaching members

    def _contacts(self) -> frozenset[str]:
        """Members that can perhaps be reached: those with a record, those named, and those connected."""
        connected = (peer_id for peer_id in self._host.connected_peers if self._trusted(peer_id))
        return frozenset((*(record.peer_id for record in self._store.all()), *self._named, *connected))

    @asynccontextmanager
    async def _reach(self, peer_id: str, dials: deque[float], referral: Record | None = None) -> AsyncIterator[None]:
        """Have a connection to a member within the block, without going where we may not.

        One that was opened for this is closed after it, but for those of peers that belong to us.

        Raises:
            PeerUnavailable: there is none, and none may be made now.
        """
        if self._host.is_connected(peer_id):
            yield
            return
        records = [record for record in self._store.all() if record.peer_id == peer_id]
        if referral is not None:
            records.append(referral)
        told = [address for record in records for address in self._dialled_of(record)]
        addresses = (*self._named.get(peer_id, ()), *told)
        now = trio.current_time()
        if not addresses:
            raise PeerUnavailable(f"no address of {peer_id} may be dialled")
        most = DIALS_A_MINUTE if self._comes_first(peer_id) else DIALS_OF_OTHERS
        if sum(dial > now - 60 for dial in dials) >= most:
            raise PeerUnavailable("too many members were dialled within the last minute")
        dials.append(now)
        await self._host.connect(peer_id, addresses, timeout=ASK_SECONDS)
        try:
            yield
        finally:
            if not self._trusted(peer_id):
                await self._host.disconnect(peer_id)

    # Remembering

    def _load(self) -> None:
        """Take back what was kept, as far as it still counts."""
        if self._file is None:
            return
        try:
            with self._file.open("rb") as file:
                kept = msgpack.unpackb(file.read(MAX_FILE_BYTES))
            for key, value in kept:
                self._load_one(key, value)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError) as error:
            log.warning("records_not_read", path=str(self._file), why=str(error))

    def _load_one(self, key: str, value: bytes) -> None:
        try:
            self._store.put(check(key, value))
        except RecordRefused as error:
            log.debug("record_forgotten", key=key, why=str(error))

    async def _save_often(self) -> None:
        while True:
            await trio.sleep(SAVE_SECONDS)
            await self._save()

    async def _save(self) -> None:
        changes = self._changes
        if self._file is None or changes == self._saved:
            return
        content = msgpack.packb([(record.key, record.encoded) for record in self._store.all()])
        try:
            await trio.to_thread.run_sync(write_private, self._file, content, limiter=_DISK)
        except ConfigError as error:
            log.warning("records_not_saved", why=error.message)
        else:
            self._saved = changes


class _Search:
    """Members asked for one key, until all that are known have been: those that come first, then the closest."""

    def __init__(self, dht: Dht, key: str, found: Callable[[Record], None]) -> None:
        self.best: Record | None = None
        self._dht = dht
        self._key = key
        self._found = found
        self._asked = {dht._identity.peer_id}
        self._named: dict[str, Record] = {}
        self._busy = 0
        self._news = trio.Event()
        own = dht._store.get(key)
        if own is not None:
            self._take(own)

    async def work(self) -> None:
        """Ask one member after the other; returns when nobody is left who could name another."""
        while True:
            peer_id = self._next()
            if peer_id is not None:
                self._busy += 1
                try:
                    await self._ask(peer_id)
                finally:
                    self._busy -= 1
                    self._news.set()
                    self._news = trio.Event()
            elif self._busy:
                await self._news.wait()
            else:
                return

    def _next(self) -> str | None:
        rest = (self._dht._contacts() | set(self._named)) - self._asked
        # Anybody can make keys until one is the closest.
        first = set(filter(self._dht._comes_first, rest))
        nearest = closest(self._key.encode(), first or rest, 1)
        if not nearest:
            return None
        self._asked.add(nearest[0])
        return nearest[0]

    async def _ask(self, peer_id: str) -> None:
        dht = self._dht
        try:
            async with dht._reach(peer_id, dht._dials_to_look, self._named.get(peer_id)):
                answer = await ask(dht._host, peer_id, get_value(self._key), timeout=ASK_SECONDS)
            for record in named_in(answer) if dht._is_relied_on(peer_id) else ():
                if len(self._named) < MAX_NAMED:
                    self._named.setdefault(record.peer_id, record)
            if answer.HasField("record"):
                self._take(check(self._key, answer.record.value))
        except (PeerUnavailable, RecordRefused) as error:
            log.debug("member_did_not_know", peer=peer_id, why=str(error))

    def _take(self, record: Record) -> None:
        known = () if self.best is None else (self.best,)
        if newest((*known, record)) is record and record != self.best:
            self.best = record
            self._found(record)
