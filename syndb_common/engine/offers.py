"""Results that wait for their readers, each behind tickets.

A ticket is 32 random bytes, of which only the SHA-256 is kept. It is good for one reader, one range of one result,
once, for half a minute. The reader is named by the SHA-256 of a secret that it presents; resuming needs a fresh ticket.
What is expired, used, forged or another reader's is refused in the same words, and nobody but its reader uses a ticket
up.

A result is either a running query (:class:`Running`: it has begun, its first rows are held, the rest is made as it is
read) or a file that is there already (:class:`~syndb_common.flight.stored.Stored`).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import pyarrow as pa

from syndb_common.engine.interface import Scan
from syndb_common.engine.work import Keeper, Work
from syndb_common.errors import Cancelled, NotFound, SynDBError, TooManyRequests

OFFER_SECONDS = 30.0
"""How long a ticket is good: long for a network, short for a leak."""

READ_SECONDS = 600.0
"""How long a query waits for one who reads it. Flight servers end readers that stand still long before; this is for a
hub whose user is slow."""

TICKET_BYTES = 32

MAX_RUNNING = 64
"""Queries that wait for their reader or are being read. Each holds a connection and at most a few MB of rows."""

MAX_WAITING = 512
"""Tickets that wait for their readers."""

MAX_OF_ONE_READER = 64
"""Tickets that wait for the same reader: sixteen results of four parts."""


@dataclass(frozen=True, slots=True)
class Result:
    """A result that has been claimed.

    Attributes:
        source: what was claimed; its schema is waited for where a node is still to deliver it.
        batches: may be read once, and raises when the result cannot be completed.
        close: to be called when the reader is through or has left, also before it began; safe to repeat.
        own: whether the federation itself reads it, not a user.
    """

    source: Source
    batches: Iterator[pa.RecordBatch]
    close: Callable[[], None]
    own: bool


class Source(Protocol):
    """One range of one result."""

    @property
    def gone(self) -> bool:
        """Whether it cannot be read any more."""

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""

    def read(self) -> Iterator[pa.RecordBatch]:
        """Its rows; called once."""
        ...

    def scan(self) -> Scan:
        """What was read for its rows, once they are complete; zeros where that is not known."""
        ...

    def end(self) -> None:
        """Give back what it holds, read to its end or not. Safe to repeat."""


@dataclass(frozen=True, slots=True)
class Running:
    """A query that has begun, and the first ``batches``, which were read already."""

    work: Work
    batches: list[pa.RecordBatch]
    stop: Callable[[Work, SynDBError], None]

    @property
    def gone(self) -> bool:
        """Whether the query was ended."""
        return self.work.closed or self.work.schema is None

    @property
    def schema(self) -> pa.Schema:
        """Its columns, known since the query has begun."""
        return self.work.schema

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows that are there, then those still to come."""
        batches = self.batches
        self.work.patience = READ_SECONDS
        try:
            while batches:
                yield from batches
                batches = self.work.read()
        except SynDBError as error:
            self.stop(self.work, error)
            raise

    def scan(self) -> Scan:
        """What the query has read."""
        return self.work.scan

    def end(self) -> None:
        """End the query, which has ended already unless its reader left."""
        self.stop(self.work, Cancelled("the reader left"))
        self.work.close()


@dataclass(frozen=True, slots=True)
class _Offer:
    source: Source
    reader: bytes
    until: float
    own: bool


class Offers:
    """The results on offer. Thread-safe.

    Args:
        keeper: ends the queries.
        clock: seconds that never go back; replaceable in tests.
    """

    def __init__(self, keeper: Keeper, clock: Callable[[], float] = time.monotonic) -> None:
        self._keeper = keeper
        self._clock = clock
        self._waiting: dict[bytes, _Offer] = {}
        self._reading: dict[bytes, Source] = {}
        self._lock = threading.Condition()

    def make(self, work: Work, batches: list[pa.RecordBatch], reader: bytes = b"") -> bytes:
        """Offer started work, whose first ``batches`` were read already, to one reader, and return the ticket.

        ``reader`` is the SHA-256 of its secret; empty where a peer of an earlier release does not name one: then the
        ticket alone counts.

        Raises:
            TooManyRequests: there are too many offers.
        """
        with self._lock:
            self._forget_the_void()
            sources = [*(offer.source for offer in self._waiting.values()), *self._reading.values()]
            if sum(isinstance(source, Running) for source in sources) >= MAX_RUNNING:
                raise TooManyRequests(f"{MAX_RUNNING} results wait for their readers", hint="read them, or wait")
            work.patience = OFFER_SECONDS
            return self._add(Running(work, batches, self._keeper.end), reader, own=True)

    def make_all(self, sources: Sequence[Source], reader: bytes, *, own: bool = False) -> list[bytes]:
        """Offer the ranges of one result to one reader and return their tickets, in the same order.

        ``own`` says that the reader is the federation itself, not a user.

        Raises:
            TooManyRequests: there are too many offers.
        """
        with self._lock:
            self._forget_the_void()
            theirs = sum(offer.reader == reader for offer in self._waiting.values())
            if theirs + len(sources) > MAX_OF_ONE_READER or len(self._waiting) + len(sources) > MAX_WAITING:
                raise TooManyRequests(
                    f"{theirs} parts of results wait for you", hint=f"read them, or wait {OFFER_SECONDS:g} seconds"
                )
            return [self._add(source, reader, own=own) for source in sources]

    def redeem(self, ticket: bytes, reader: bytes = b"") -> Result:
        """Claim what a ticket stands for; ``reader`` is the SHA-256 of the secret that was presented with it.

        Raises:
            NotFound: the ticket is unknown, was used, is void by now, or is another reader's.
        """
        key = hashlib.sha256(ticket).digest() if len(ticket) == TICKET_BYTES else b""
        with self._lock:
            self._forget_the_void()
            offer = self._waiting.get(key)
            if offer is None or (offer.reader and not hmac.compare_digest(offer.reader, reader)):
                raise NotFound(
                    "this ticket is unknown, was used already, is void or is not yours", hint="repeat the query"
                )
            del self._waiting[key]
            self._reading[key] = offer.source
        close = partial(self._close, key)
        return Result(offer.source, _read(offer.source, close), close, offer.own)

    def finish(self, seconds: float) -> None:
        """Wait until no result is being read, at most that long."""
        with self._lock:
            self._lock.wait_for(lambda: not self._reading, seconds)

    def _add(self, source: Source, reader: bytes, *, own: bool) -> bytes:
        ticket = secrets.token_bytes(TICKET_BYTES)
        self._waiting[hashlib.sha256(ticket).digest()] = _Offer(source, reader, self._clock() + OFFER_SECONDS, own)
        return ticket

    def _forget_the_void(self) -> None:
        now = self._clock()
        void = [key for key, offer in self._waiting.items() if offer.until <= now or offer.source.gone]
        for key in void:
            del self._waiting[key]

    def _close(self, key: bytes) -> None:
        with self._lock:
            source = self._reading.pop(key, None)
            self._lock.notify_all()
        if source is not None:
            source.end()


def _read(source: Source, close: Callable[[], None]) -> Iterator[pa.RecordBatch]:
    try:
        yield from source.read()
    finally:
        close()
