"""The threads that read parts. One whose server says nothing cannot be ended before its time is over: when it is given
up it lives on, with its connection. So there are few of those of each node, and not too many of all."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from syndb_common.errors import Cancelled, PeerUnavailable, Unavailable

MAX_READERS = 512
"""Readers of all questions together. Each has a thread, a connection and a batch."""
MAX_GIVEN_UP = 4
"""Of one node, how many readers may have been given up and not have ended."""


class Readers:
    """All readers there are. Thread-safe.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int = MAX_READERS) -> None:
        self._most = most
        self._reading: set[Reader] = set()
        self._lock = threading.Lock()

    def begin(self, reader: Reader) -> None:
        """One more; what :meth:`Reader.reading` raises."""
        with self._lock:
            if reader.given_up:
                raise Cancelled("nobody waits for this part any more")
            if sum(each.given_up and each.whose == reader.whose for each in self._reading) >= MAX_GIVEN_UP:
                raise PeerUnavailable(f"{MAX_GIVEN_UP} of its parts were given up and have not ended")
            if len(self._reading) >= self._most:
                raise Unavailable(f"the hub reads {self._most} parts already", hint="repeat the query in a moment")
            self._reading.add(reader)

    def end(self, reader: Reader) -> None:
        """One less."""
        with self._lock:
            self._reading.discard(reader)

    def give_up(self, reader: Reader) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            reader.given_up = True


@dataclass(eq=False, slots=True)
class Reader:
    """A thread that reads somebody's part; whoever waits for it may give it up."""

    readers: Readers
    whose: Hashable
    given_up: bool = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The block reads, in the reader's thread.

        Raises:
            PeerUnavailable: too many readers of the same node were given up and have not ended.
            Unavailable: there are too many readers.
            Cancelled: it was given up before it began.
        """
        self.readers.begin(self)
        try:
            yield
        finally:
            self.readers.end(self)

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        self.readers.give_up(self)
