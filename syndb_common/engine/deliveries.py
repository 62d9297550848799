"""Parts that nodes deliver to a hub, each handed to its reader as it comes.

The hub's daemon expects a delivery and passes the ticket on to the node; the node's stream arrives by DoPut, the daemon
reads it by DoGet. Between the two stand two batches at most: a reader that is slow slows the node. What the node did
not end properly, its reader does not get to the end of.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import pyarrow as pa

from syndb_common.engine.interface import Scan
from syndb_common.errors import Cancelled, DeadlineExceeded, IncompleteResult, NotFound, SynDBError, TooManyRequests

ARRIVE_SECONDS = 10.0
"""How long a reader waits for a node that said that it has begun to deliver: its first rows are there, it connects."""

STALL_SECONDS = 30.0
"""How long its reader waits for a node that has arrived."""

TAKE_SECONDS = 600.0
"""How long a node waits for its reader, who waits for a user that is slow. One that is dead is noticed long before, by
the Flight server."""

MAX_BETWEEN = 2
"""Batches that have come and were not taken: one is being sent while one is received."""

MAX_EXPECTED = 512
"""Deliveries expected or under way."""


class Delivery:
    """One delivery; a :class:`~syndb_common.engine.offers.Source` for its reader."""

    def __init__(self, until: float) -> None:
        self.until = until
        self._schema: pa.Schema | None = None
        self._batches: deque[pa.RecordBatch] = deque()
        self._complete = False
        self._scan = Scan()
        self._failure: SynDBError | None = None
        self._changed = threading.Condition()

    @property
    def gone(self) -> bool:
        """Whether it cannot be read any more. A failure still can: its reader is told."""
        return False

    @property
    def schema(self) -> pa.Schema:
        """Its columns, once it has arrived; waits for that."""
        with self._changed:
            self._wait(lambda: self._schema is not None, "the node did not deliver its part in time", ARRIVE_SECONDS)
            return self._schema

    def begin(self, schema: pa.Schema) -> None:
        """The node's stream is there."""
        with self._changed:
            self._check()
            self._schema = schema
            self._changed.notify_all()

    def put(self, batch: pa.RecordBatch) -> None:
        """The next rows; returns when there is room for more.

        Raises:
            Cancelled, DeadlineExceeded: the reader left, or stands still.
        """
        with self._changed:
            self._wait(lambda: len(self._batches) < MAX_BETWEEN, "nobody read the part in time", TAKE_SECONDS)
            self._batches.append(batch)
            self._changed.notify_all()

    def complete(self, scan: Scan) -> None:
        """That was all of it, and what the node has read for it."""
        with self._changed:
            self._check()
            self._complete, self._scan = True, scan
            self._changed.notify_all()

    def fail(self, error: SynDBError) -> None:
        """It ends for this reason, unless it has ended."""
        with self._changed:
            if not self._complete:
                self._failure = self._failure or error
            self._changed.notify_all()

    def read(self) -> Iterator[pa.RecordBatch]:
        """Its rows as they come."""
        while True:
            with self._changed:
                self._wait(lambda: bool(self._batches) or self._complete, "the node stands still", STALL_SECONDS)
                if not self._batches:
                    return
                batch = self._batches.popleft()
                self._changed.notify_all()
            yield batch

    def scan(self) -> Scan:
        """What the node says that it has read."""
        return self._scan

    def end(self) -> None:
        """The reader is through, or has left."""
        self.fail(Cancelled("the reader left"))

    def _wait(self, until: Callable[[], bool], otherwise: str, seconds: float) -> None:
        ready = self._changed.wait_for(lambda: self._failure is not None or until(), seconds)
        self._check()
        if not ready:
            self._failure = DeadlineExceeded(otherwise)
            self._changed.notify_all()
            raise self._failure

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


class Deliveries:
    """The deliveries expected and under way. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._expected: dict[bytes, Delivery] = {}
        self._arriving: set[bytes] = set()
        self._lock = threading.Lock()

    def expect(self, seconds: float) -> str:
        """A ticket for one delivery that begins within so many seconds.

        Raises:
            TooManyRequests: there are too many.
        """
        ticket = secrets.token_urlsafe(32)
        with self._lock:
            now = self._clock()
            for key in [key for key, each in self._expected.items() if each.until <= now]:
                del self._expected[key]
                self._arriving.discard(key)
            if len(self._expected) >= MAX_EXPECTED:
                raise TooManyRequests(f"{MAX_EXPECTED} deliveries are expected", hint="try again in a moment")
            self._expected[_key(ticket)] = Delivery(now + seconds)
        return ticket

    def find(self, ticket: str) -> Delivery:
        """The delivery of a ticket, for its reader.

        Raises:
            NotFound: there is none, or not any more.
        """
        with self._lock:
            found = self._expected.get(_key(ticket))
        if found is None:
            raise NotFound("this delivery is not expected any more", hint="repeat the query")
        return found

    def forget(self, ticket: str) -> None:
        """Nobody waits for it any more; what is still arriving ends."""
        with self._lock:
            found = self._expected.pop(_key(ticket), None)
            self._arriving.discard(_key(ticket))
        if found is not None:
            found.end()

    def expects(self, digest: bytes) -> bool:
        """Whether a ticket has this SHA-256; it may have been used."""
        with self._lock:
            return digest in self._expected

    def arrive(self, digest: bytes) -> Delivery:
        """The delivery whose ticket has this SHA-256, once.

        Raises:
            NotFound: there is none, it has begun before, or it is too late.
        """
        with self._lock:
            found = self._expected.get(digest)
            if found is None or digest in self._arriving or found.until <= self._clock():
                raise NotFound("this ticket for a delivery is unknown, was used already or is void")
            self._arriving.add(digest)
        return found


def broken_off() -> IncompleteResult:
    """What the reader of a delivery without an end record is told."""
    return IncompleteResult("the node's delivery ended without its end record", hint="repeat the query")


def _key(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode()).digest()
