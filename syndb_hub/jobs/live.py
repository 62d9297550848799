"""Rows of a result that are handed out while they come: no more of them is written than its reader takes.

Whoever writes a part waits here while the reader has much before it. So does the thread that reads from the node, and
by Flight's window the node's scan. Parts are let on in the order in which they wait: no node is kept standing for the
sake of another.
"""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path

import pyarrow as pa

WINDOW_BYTES = 16 * 1024**2
"""What is written and not taken, but for a batch that is larger: a few batches, enough for a fast reader."""


class Live:
    """How far the reader of one result is. Thread-safe."""

    def __init__(self, window: int = WINDOW_BYTES) -> None:
        self._window = window
        self._changed = threading.Condition()
        self._ahead: deque[int] = deque()
        self._taken: int | None = None
        self._waiting: dict[int, None] = {}
        self._dropped: set[int] = set()
        self._open = False
        self.path: Path | None = None
        self.schema: pa.Schema | None = None

    def begin(self, path: Path, schema: pa.Schema) -> None:
        """The rows will be written there, as an Arrow IPC file."""
        self.path, self.schema = path, schema

    def wait(self, part: int, size: int) -> None:
        """Wait until the next batch of a part, of so many bytes, may be written; it then counts as written.

        Nobody waits for what is not wanted any more.
        """
        with self._changed:
            self._waiting[part] = None
            try:
                self._changed.wait_for(lambda: self._open or part in self._dropped or self._has_room(part, size))
            finally:
                del self._waiting[part]
                self._changed.notify_all()
            self._ahead.append(size)

    def _has_room(self, part: int, size: int) -> bool:
        first = next(iter(self._waiting)) == part
        return first and self._taken is not None and (not self._ahead or sum(self._ahead) + size <= self._window)

    def holds(self, part: int) -> bool:
        """Whether rows of the part are there and wait for the reader."""
        with self._changed:
            return part in self._waiting

    def take(self, batches: int) -> None:
        """The reader has taken so many batches since it began; until it says so for the first time all wait."""
        with self._changed:
            for _ in range(min(batches - (self._taken or 0), len(self._ahead))):
                self._ahead.popleft()
            self._taken = max(batches, self._taken or 0)
            self._changed.notify_all()

    def drop(self, part: int) -> None:
        """Nobody waits for this part any more."""
        with self._changed:
            self._dropped.add(part)
            self._changed.notify_all()

    def end(self) -> None:
        """The reader has all that it wants, or there is no result: nothing waits from now on."""
        with self._changed:
            self._open = True
            self._changed.notify_all()
