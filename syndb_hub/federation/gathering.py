"""What becomes of the parts of an answer while they come in.

Parts of an aggregate are small and are kept whole until they are merged (:class:`Whole`). Parts of a row query are not
kept: each batch goes on to the result as it comes (:class:`Streamed`), and the thread that reads from a node waits
until it is written. So a slow disk slows the readers, Flight's windows close, and the nodes' scans wait: nothing is
queued in between, and a result of any size takes the memory of one batch per node.
"""

from __future__ import annotations

import threading
from typing import Protocol

import pyarrow as pa

from syndb_common.errors import Cancelled, DataError, LimitExceeded
from syndb_common.syql import Plan, conform, partial_schema
from syndb_hub.federation.rows import Rows


class Budget:
    """Bytes that all parts of one query may have together. May be drawn on from any thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._spent = 0
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """Bytes not yet spent."""
        return max(self._max_bytes - self._spent, 0)

    @property
    def exceeded(self) -> bool:
        """Whether more came than may."""
        return self._spent > self._max_bytes

    def spend(self, size: int) -> None:
        """Count what has come.

        Raises:
            LimitExceeded: it is more than all parts may have together.
        """
        with self._lock:
            self._spent += size
        if self.exceeded:
            raise self.error()

    def give_back(self, size: int) -> None:
        """Count no more what was thrown away."""
        with self._lock:
            self._spent -= size

    def error(self) -> LimitExceeded:
        """What the query is told."""
        return LimitExceeded(
            f"the parts of the answer are larger than {self._max_bytes} bytes together",
            hint="Aggregate, add LIMIT, or select fewer data sets.",
        )


class Gathering(Protocol):
    """What is done with the batches of one part.

    Attributes:
        rows, bytes: of the batches that came.
    """

    rows: int
    bytes: int

    @property
    def held(self) -> bool:
        """Whether more has come and waits until it is wanted."""

    def add(self, batch: pa.RecordBatch) -> None:
        """The next batch, foreign until it is checked here; blocks.

        Raises:
            DataError: it is not what was asked for.
        """
        ...

    def end(self, schema: pa.Schema) -> pa.Table | None:
        """The part is complete, and has this schema; returns it if it was kept.

        Raises:
            DataError: these are not the columns that were asked for.
        """
        ...

    def drop(self) -> None:
        """The part will never be complete: nothing of it counts."""
        ...


class Whole:
    """Keeps a part until it is merged."""

    held = False

    def __init__(self, plan: Plan) -> None:
        self._expected = partial_schema(plan)
        self._kept: list[pa.Table] = []
        self.rows = 0
        self.bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """See the protocol."""
        if not batch.num_rows:  # it costs a peer nothing, and here it would be kept
            return
        self._kept.append(conform(self._expected, pa.Table.from_batches([batch])))
        self.rows += batch.num_rows
        self.bytes += batch.nbytes

    def end(self, schema: pa.Schema) -> pa.Table:
        """See the protocol."""
        return pa.concat_tables([conform(self._expected, schema.empty_table()), *self._kept])

    def drop(self) -> None:
        """See the protocol."""
        self._kept.clear()


class Union:
    """All rows of all parts as one result: what the hub's half of such a plan amounts to. Nodes put their parts in the
    plan's order, and the rows go on with what they are ordered by."""

    def __init__(self, plan: Plan, rows: Rows) -> None:
        self._rows = rows
        self.expected = partial_schema(plan)
        names = [output.name for output in plan.outputs]
        fields = [field.with_name(names[i]) if i < len(names) else field for i, field in enumerate(self.expected)]
        self._schema = pa.schema(fields)
        self._descending = tuple(order.descending for order in plan.order_by)
        self.failure: BaseException | None = None

    @staticmethod
    def suits(plan: Plan) -> bool:
        """Whether the answer is the union of the parts, but for LIMIT and OFFSET."""
        return not plan.is_aggregate

    def open(self) -> None:
        """Begin the result; blocks."""
        self._rows.open(self._schema, self._descending)

    def add(self, part: int, batch: pa.RecordBatch) -> None:
        """Write checked rows of a part. What fails here is the hub's fault and ends the query, but for these two.

        Raises:
            DataError: the rows are not in order.
            Cancelled: the part was dropped.
        """
        try:
            self._rows.add(part, pa.RecordBatch.from_arrays(batch.columns, schema=self._schema))
        except (DataError, Cancelled):  # of this part alone: nobody waits for it any more
            raise
        except BaseException as error:
            self.failure = self.failure or error
            raise

    def drop(self, part: int) -> None:
        """Forget a part."""
        self._rows.drop(part)

    def holds(self, part: int) -> bool:
        """Whether rows of a part wait until they are wanted."""
        return self._rows.holds(part)


class Streamed:
    """Passes a part on to the union of all parts."""

    def __init__(self, union: Union, part: int) -> None:
        self._union = union
        self._part = part
        self.rows = 0
        self.bytes = 0

    @property
    def held(self) -> bool:
        """See the protocol."""
        return self._union.holds(self._part)

    def add(self, batch: pa.RecordBatch) -> None:
        """See the protocol."""
        checked = conform(self._union.expected, pa.Table.from_batches([batch]))
        for piece in checked.to_batches():
            self._union.add(self._part, piece)
        self.rows += batch.num_rows
        self.bytes += batch.nbytes

    def end(self, schema: pa.Schema) -> None:
        """See the protocol."""
        conform(self._union.expected, schema.empty_table())

    def drop(self) -> None:
        """See the protocol."""
        self._union.drop(self._part)
