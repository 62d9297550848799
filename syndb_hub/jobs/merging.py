"""Parts that are each in order become one result in order: a k-way merge, a batch of each part at a time.

Of the batches that the parts have come to, all rows up to the least of their last rows are known to come before every
row that was not read yet: these are sorted together and passed on. Arrow orders as ClickHouse does: text by bytes, NaN
behind all numbers, NULL behind all, in both directions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a row, comparable with others of its column."""

    value: Any
    descending: bool

    @property
    def _rank(self) -> int:
        return 2 if self.value is None else 1 if self.value != self.value else 0  # NaN is not equal to itself

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Value)
        return self._rank == other._rank and (self._rank > 0 or self.value == other.value)

    def __lt__(self, other: Value) -> bool:
        if self._rank != other._rank:
            return self._rank < other._rank
        if self._rank:
            return False
        return bool(other.value < self.value if self.descending else self.value < other.value)


Place = tuple[Value, ...]
"""Where a row belongs; rows compare as their places do."""


class Order:
    """What rows are ordered by: the last columns of their schema.

    Args:
        schema: of the rows.
        descending: for each of these columns, whether the greatest value comes first.
    """

    def __init__(self, schema: pa.Schema, descending: Sequence[bool]) -> None:
        self._descending = tuple(descending)
        first = len(schema) - len(self._descending)
        self._columns = range(first, len(schema))
        self.answer = pa.schema([schema.field(index) for index in range(first)])

    def sorted(self, rows: pa.Table) -> pa.Table:
        """The rows in order; equal ones stay as they were."""
        return rows.take(self._indices(rows.columns))

    def is_sorted(self, batch: pa.RecordBatch) -> bool:
        """Whether the rows of a batch are in order."""
        return bool(self._indices(batch.columns).cast(pa.int64()).equals(pa.arange(0, batch.num_rows)))

    def place(self, batch: pa.RecordBatch, row: int) -> Place:
        """Where a row of a batch belongs."""
        values = [batch.column(index)[row].as_py() for index in self._columns]
        return tuple(map(Value, values, self._descending))

    def without(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns of the answer."""
        return pa.RecordBatch.from_arrays(batch.columns[: len(self.answer)], schema=self.answer)

    def _indices(self, columns: list[Any]) -> pa.Array:
        keys = {f"k{index}": columns[index] for index in self._columns}
        ways = ["descending" if each else "ascending" for each in self._descending]
        return pc.sort_indices(pa.table(keys), sort_keys=list(zip(keys, ways, strict=True)))


def merged(parts: Iterable[Iterator[pa.RecordBatch]], order: Order) -> Iterator[pa.RecordBatch]:
    """All rows of all parts in order; batches without rows do not occur in the parts."""
    heads = [head for part in parts if (head := _Head.of(part, order)) is not None]
    while heads:
        least = min(head.last for head in heads)
        yield from order.sorted(pa.Table.from_batches([head.take(least) for head in heads])).to_batches()
        heads = [head for head in heads if head.fill()]


class _Head:
    """The batch that a part has come to."""

    def __init__(self, part: Iterator[pa.RecordBatch], order: Order, batch: pa.RecordBatch) -> None:
        self._part = part
        self._order = order
        self._batch = batch
        self.last = order.place(batch, batch.num_rows - 1)

    @classmethod
    def of(cls, part: Iterator[pa.RecordBatch], order: Order) -> _Head | None:
        """The beginning of a part; None if it has no rows."""
        batch = next(part, None)
        return None if batch is None else cls(part, order, batch)

    def take(self, least: Place) -> pa.RecordBatch:
        """The rows that do not come behind that place; the others stay."""
        batch = self._batch
        count = bisect_right(range(batch.num_rows), least, key=lambda row: self._order.place(batch, row))
        self._batch = batch.slice(count)
        return batch.slice(0, count)

    def fill(self) -> bool:
        """Go on to the next batch where this one is used up; False at the end of the part."""
        if self._batch.num_rows:
            return True
        batch = next(self._part, None)
        if batch is None:
            return False
        self._batch, self.last = batch, self._order.place(batch, batch.num_rows - 1)
        return True
