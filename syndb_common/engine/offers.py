"""Results that wait for their reader: the query has begun, its first rows are held, the rest is made as it is read.

A ticket is 32 random bytes, good for one reader, once. Its SHA-256 is what is kept.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from syndb_common.engine.work import Keeper, Work
from syndb_common.errors import Cancelled, NotFound, SynDBError, TooManyRequests

OFFER_SECONDS = 30.0
"""How long an offer waits for its reader, and a reader may stand still: long for a network, short for a leak."""

MAX_OFFERS = 64
"""Offers waiting or being read. Each holds a connection and at most a few MB of rows."""


@dataclass(frozen=True, slots=True)
class Result:
    """A result that has been claimed; ``batches`` may be read once, and raises when the result cannot be completed."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


class Offers:
    """The results on offer. Thread-safe."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._waiting: dict[bytes, tuple[Work, list[pa.RecordBatch]]] = {}
        self._reading = 0
        self._lock = threading.Condition()

    def make(self, work: Work, batches: list[pa.RecordBatch]) -> bytes:
        """Offer started work, whose first ``batches`` were read already, and return the ticket.

        Raises:
            TooManyRequests: there are too many offers.
        """
        ticket = secrets.token_bytes(32)
        with self._lock:
            self._waiting = {key: held for key, held in self._waiting.items() if not held[0].closed}
            if len(self._waiting) + self._reading >= MAX_OFFERS:
                raise TooManyRequests(f"{MAX_OFFERS} results wait for their readers", hint="read them, or wait")
            work.patience = OFFER_SECONDS
            self._waiting[hashlib.sha256(ticket).digest()] = (work, batches)
        return ticket

    def redeem(self, ticket: bytes) -> Result:
        """Claim the result of a ticket.

        Raises:
            NotFound: the ticket is unknown, was used, or is void by now.
        """
        with self._lock:
            work, batches = self._waiting.pop(hashlib.sha256(ticket).digest(), (None, []))
            if work is None or work.closed or work.schema is None:
                raise NotFound("this ticket is unknown, was used already or is void", hint="repeat the query")
            self._reading += 1
        return Result(work.schema, self._read(work, batches))

    def finish(self, seconds: float) -> None:
        """Wait until no result is being read, at most that long."""
        with self._lock:
            self._lock.wait_for(lambda: not self._reading, seconds)

    def _read(self, work: Work, batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        reason: SynDBError = Cancelled("the reader left")
        try:
            while batches:
                yield from batches
                batches = work.read()
        except SynDBError as error:
            reason = error
            raise
        finally:
            self._keeper.end(work, reason)
            work.close()
            with self._lock:
                self._reading -= 1
                self._lock.notify_all()
