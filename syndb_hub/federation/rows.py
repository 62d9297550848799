"""Where the rows of an answer go that is too large to be held."""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa


class Rows(Protocol):
    """Where the rows of an answer are written, a batch at a time. What is not complete never shows.

    All but the last two may be called from any thread; the first three block.
    """

    def open(self, schema: pa.Schema, descending: tuple[bool, ...] = ()) -> None:
        """Say what columns there will be; called once, first.

        Args:
            descending: what the answer is ordered by, NULL last: as many columns follow those of the answer, and the
                rows of each part come in this order.
        """
        ...

    def add(self, part: int, batch: pa.RecordBatch) -> None:
        """Take rows of a part, of which no other is taken meanwhile; returns when they are written.

        Raises:
            DataError: they do not come in the order that was said.
        """
        ...

    def drop(self, part: int) -> None:
        """Forget every row of a part, and take no more of it."""
        ...

    def holds(self, part: int) -> bool:
        """Whether :meth:`add` has rows of the part and waits until earlier ones are wanted."""
        ...

    async def select(self, offset: int, limit: int | None) -> int:
        """The parts are complete: of their rows skip some, keep at most so many, and return how many are left."""
        ...

    async def write(self, table: pa.Table) -> int:
        """Take a whole answer instead, and return its rows."""
        ...
