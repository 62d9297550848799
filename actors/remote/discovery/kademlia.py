"""The Kademlia protocol over libp2p: what a member keeps, what it answers, and how one asks another.

The messages are those of libp2p's DHT, under the federation's own protocol id, ``/syndb/kad/1.0.0``: peers of the
public DHT have no business here. Only records of :mod:`actors.remote.discovery.records` are kept, and only of peers
that belong to the federation as far as this daemon knows, a few of each: a stranger cannot fill the memory of anybody.
Anyone may ask for a record by name and PeerId, since a node that looks for its hub has joined nobody yet; where other
members are is told to members alone, by the records that those have signed (in the field ``signedRecord``).

libp2p's own ``KadDHT`` stores what anybody signs, remembers every address it is told, and dials it. A federation has
some hundred members, so that what is needed of Kademlia is small: the distance, three messages, and a bounded store.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import time
from collections.abc import Callable, Iterable, Sequence

import structlog
import trio
from libp2p.abc import INetStream
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.pb.kademlia_pb2 import Record as WireRecord
from libp2p.peer.id import ID

from actors.remote.discovery.records import Record, RecordRefused, check, read
from actors.remote.frames import StreamEnded
from actors.remote.host import Host, reset_stream
from actors.remote.policy import RateLimit
from actors.remote.wire import read_message, write_message
from syndb_common.errors import PeerUnavailable

PROTOCOL = "/syndb/kad/1.0.0"
CLOSEST = 20
"""Kademlia's k: how many members keep a record, and how many are named in an answer."""

MAX_RECORDS = 1024
MAX_RECORDS_PER_PEER = 4
"""A hub has one, a node has one; a name may change."""

MAX_REQUESTS_PER_STREAM = 64
IDLE_SECONDS = 10.0
MAX_KEY_BYTES = 256

log = structlog.get_logger()


def distance(key: bytes, peer_id: str) -> int:
    """Kademlia's: the exclusive or of the SHA-256 of both."""
    return _place(key) ^ _place_of(peer_id)


def closest(key: bytes, peer_ids: Iterable[str], most: int = CLOSEST) -> list[str]:
    """The peers closest to a key, the closest first."""
    place = _place(key)
    return heapq.nsmallest(most, set(peer_ids), key=lambda peer_id: place ^ _place_of(peer_id))


def _place(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest(), "big")


@functools.lru_cache(maxsize=4 * MAX_RECORDS)
def _place_of(peer_id: str) -> int:
    """The same of a PeerId; decoding one takes longer than comparing a hundred."""
    return _place(ID.from_base58(peer_id).to_bytes())


class RecordStore:
    """Valid records, the newest of each key; bounded in all and per peer, expired ones are as good as absent."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._records: dict[str, Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> Record | None:
        """The record of that key, unless it has expired."""
        found = self._records.get(key)
        return found if found is not None and found.expires > self._clock() else None

    def put(self, record: Record) -> bool:
        """Keep a checked record unless a newer one is known; False when it was not kept."""
        known = self._records.get(record.key)
        if known is not None:
            if known.sequence >= record.sequence:
                return known.sequence == record.sequence
        else:
            self._forget_expired()
            own = [key for key, other in self._records.items() if other.peer_id == record.peer_id]
            if len(own) >= MAX_RECORDS_PER_PEER:
                del self._records[min(own, key=lambda key: self._records[key].sequence)]
            elif len(self._records) >= MAX_RECORDS:
                return False
        self._records[record.key] = record
        return True

    def all(self) -> Sequence[Record]:
        """Those that have not expired."""
        self._forget_expired()
        return tuple(self._records.values())

    def _forget_expired(self) -> None:
        now = self._clock()
        self._records = {key: record for key, record in self._records.items() if record.expires > now}


class Member:
    """This daemon as a member of the DHT: answers others.

    Args:
        host: gets the protocol's handler.
        store: what is kept.
        trusted: whether a peer belongs to the federation; asked each time.
        vouches: whether a peer's word is enough for records of peers that are not trusted: a node believes its hub.
        on_put: called with every record that was kept.
    """

    def __init__(
        self,
        host: Host,
        store: RecordStore,
        *,
        trusted: Callable[[str], bool],
        vouches: Callable[[str], bool],
        on_put: Callable[[Record], None] = lambda _record: None,
    ) -> None:
        self._host = host
        self._store = store
        self._trusted = trusted
        self._vouches = vouches
        self._on_put = on_put
        self._limit = RateLimit(rate=10.0, burst=100.0)
        host.set_raw_handler(PROTOCOL, self._answer)

    def accepts(self, record: Record, sender: str) -> bool:
        """Whether a record may be kept: of a member, whoever brings it, or brought by somebody who vouches for it."""
        return self._trusted(record.peer_id) or self._vouches(sender)

    async def _answer(self, stream: INetStream) -> None:
        asking = str(stream.muxed_conn.peer_id)
        try:
            for _ in range(MAX_REQUESTS_PER_STREAM):
                with trio.fail_after(IDLE_SECONDS):
                    question = await read_message(stream, Message)
                    if not self._limit.admit(asking) or len(question.key) > MAX_KEY_BYTES:
                        return
                    answer = self._answer_to(question, asking)
                    if answer is None:
                        return
                    await write_message(stream, answer)
        finally:
            await reset_stream(stream)

    def _answer_to(self, question: Message, asking: str) -> Message | None:
        answer = Message(type=question.type, key=question.key)
        key = question.key.decode("ascii", errors="replace")
        if question.type == Message.PUT_VALUE:
            record = self._put(key, question.record.value, asking)
            if record is None:
                return None
            answer.record.CopyFrom(_wire(record))
        elif question.type == Message.GET_VALUE:
            record = self._store.get(key)
            if record is not None:
                answer.record.CopyFrom(_wire(record))
            self._name_closest(answer, question.key, asking)
        elif question.type == Message.FIND_NODE:
            self._name_closest(answer, question.key, asking)
        elif question.type != Message.PING:
            return None
        return answer

    def _put(self, key: str, value: bytes, sender: str) -> Record | None:
        try:
            record = check(key, value)
        except RecordRefused as error:
            log.info("record_refused", sender=sender, why=str(error))
            return None
        if not self.accepts(record, sender) or not self._store.put(record):
            return None
        self._on_put(record)
        return record

    def _name_closest(self, answer: Message, key: bytes, asking: str) -> None:
        """Name members close to the key, to members, by the records that they signed themselves."""
        records = {record.peer_id: record for record in self._store.all()}
        if not (self._trusted(asking) or asking in records):
            return
        for peer_id in closest(key, (peer_id for peer_id in records if peer_id != asking)):
            peer = answer.closerPeers.add(id=ID.from_base58(peer_id).to_bytes())
            peer.connection = Message.CONNECTED if self._host.is_connected(peer_id) else Message.CAN_CONNECT
            peer.signedRecord = records[peer_id].encoded


async def ask(host: Host, peer_id: str, question: Message, *, timeout: float) -> Message:  # noqa: ASYNC109
    """One question to a connected member.

    Raises:
        PeerUnavailable: it is not connected, speaks no DHT, refuses, or gives no answer in time.
    """
    deadline = trio.current_time() + timeout
    stream = await host.open_raw_stream(peer_id, PROTOCOL, timeout=timeout)
    try:
        with trio.fail_at(deadline):
            await write_message(stream, question)
            return await read_message(stream, Message)
    except (StreamEnded, trio.TooSlowError) as error:
        raise PeerUnavailable(f"{peer_id} did not answer in the DHT") from error
    finally:
        await reset_stream(stream)


def get_value(key: str) -> Message:
    """Asks for the record of a key."""
    return Message(type=Message.GET_VALUE, key=key.encode())


def put_value(record: Record) -> Message:
    """Asks to keep a record."""
    return Message(type=Message.PUT_VALUE, key=record.key.encode(), record=_wire(record))


def named_in(answer: Message) -> list[Record]:
    """The members that an answer names, each by a record of its own; what is no such record is left out."""
    found = []
    for peer in answer.closerPeers[:CLOSEST]:
        try:
            found.append(read(peer.signedRecord))
        except RecordRefused as error:
            log.debug("record_refused", why=str(error))
    return found


def _wire(record: Record) -> WireRecord:
    return WireRecord(key=record.key.encode(), value=record.encoded)
