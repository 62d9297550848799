"""Batches of one stream on their way into ClickHouse: checked by one thread, stored in groups by another.

While one group is being stored the next one gathers, so a fast client fills large inserts and a slow one does not wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import pyarrow as pa

from syndb_common.engine.rows import RowShape
from syndb_common.errors import Conflict, LimitExceeded

GROUP_ROWS = 1_000_000
"""Rows of one insert. ClickHouse makes one part of up to 1,048,449 rows, and a part is there or not."""
GROUP_BYTES = 96 * 1024**2
HELD_BYTES = 256 * 1024**2
"""Of batches that are not stored yet, of all streams together; each may have one more. Storing copies a group."""
LINGER_SECONDS = 0.01
"""How long a small group waits for one more batch: less than an insert takes."""
SMALL_ROWS = 50_000
LOOK_SECONDS = 0.2
"""Between two looks at whether the stream goes on elsewhere, while its client is silent."""


@dataclass(frozen=True, slots=True)
class Item:
    """One batch as it came: its number, the rows it had, and the rows themselves unless they are stored already."""

    seq: int
    rows: int
    data: pa.RecordBatch | None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.data.nbytes if self.data is not None else 0


class Budget:
    """The bytes of batches that streams may hold together. Thread-safe."""

    def __init__(self, size: int = HELD_BYTES) -> None:
        self._left = size
        self._freed = threading.Condition()

    def take(self, size: int, anyhow: Callable[[], bool]) -> None:
        """Take so many bytes when they are left, or when ``anyhow`` says so; until then wait."""
        with self._freed:
            self._freed.wait_for(lambda: self._left >= size or anyhow())
            self._left -= size

    def give(self, size: int) -> None:
        """Give so many bytes back."""
        with self._freed:
            self._left += size
            self._freed.notify_all()


class Gathering:
    """The batches of one connection.

    Args:
        incoming: number, or None where batches have none, and batch.
        shape: makes the batches fit.
        following: number of the first batch that is not stored yet.
        stored: rows of the stream that are stored already.
        budget: shared with other streams.
    """

    def __init__(
        self,
        incoming: Iterable[tuple[int | None, pa.RecordBatch]],
        shape: RowShape,
        following: int,
        stored: int,
        budget: Budget,
    ) -> None:
        self._incoming = incoming
        self._shape = shape
        self._following = following
        self._row = stored
        self._budget = budget
        self._held = 0
        self._waiting: deque[Item] = deque()
        self._rows = self._bytes = 0
        self._ended = False
        self._left = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def groups(self, check: Callable[[], None]) -> Generator[list[Item], None, None]:
        """Groups, each to be stored before the next is asked for, which empties it; close it in the end.

        ``check`` is called while waiting and may raise.

        Raises:
            DataError, Conflict, LimitExceeded: of a batch, after all before it were given out.
        """
        threading.Thread(target=self._gather, name="gather", daemon=True).start()
        try:
            while group := self._next(check):
                yield group
                size = sum(item.size for item in group)
                group.clear()
                with self._changed:
                    self._held -= size
                self._budget.give(size)
        finally:
            with self._changed:
                self._left = True
                self._changed.notify_all()
                self._waiting.clear()
                held, self._held = self._held, 0
            self._budget.give(held)

    def _next(self, check: Callable[[], None]) -> list[Item]:
        with self._changed:
            while not self._waiting and not self._ended:
                self._changed.wait(LOOK_SECONDS)
                check()
            if self._rows < SMALL_ROWS and not self._ended:
                self._changed.wait_for(lambda: self._rows >= SMALL_ROWS or self._ended, LINGER_SECONDS)
            if not self._waiting and self._error is not None:
                raise self._error
            group: list[Item] = []
            rows = 0
            while self._waiting and (not group or rows + self._waiting[0].rows <= GROUP_ROWS):
                item = self._waiting.popleft()
                rows += item.rows
                group.append(item)
            self._rows -= rows
            self._bytes -= sum(item.size for item in group)
            self._changed.notify_all()
            return group

    def _gather(self) -> None:
        error: BaseException | None = None
        try:
            for seq, batch in self._incoming:
                if not self._put(self._item(seq, batch)):
                    return
        except BaseException as raised:
            error = raised
        with self._changed:
            self._error = error
            self._ended = True
            self._changed.notify_all()

    def _item(self, seq: int | None, batch: pa.RecordBatch) -> Item:
        number = self._following if seq is None else seq
        if number > self._following:
            raise Conflict(
                f"batch {number} came where {self._following} was due",
                hint="ask for the status of the upload and go on from there",
            )
        if number < self._following:
            return Item(number, batch.num_rows, None)
        if batch.num_rows > GROUP_ROWS:
            raise LimitExceeded(f"a batch of more than {GROUP_ROWS} rows", hint="send smaller batches")
        fitted = self._shape.fit(batch, self._row)
        self._following += 1
        self._row += batch.num_rows
        return Item(number, batch.num_rows, fitted)

    def _put(self, item: Item) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._left
                    or not self._waiting
                    or (self._bytes + item.size <= GROUP_BYTES and self._rows + item.rows <= GROUP_ROWS)
                )
            )
        self._budget.take(item.size, lambda: self._left or not self._held)
        with self._changed:
            if not self._left:
                self._held += item.size
                self._waiting.append(item)
                self._rows += item.rows
                self._bytes += item.size
                self._changed.notify_all()
                return True
        self._budget.give(item.size)
        return False
