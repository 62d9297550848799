"""Taking a part in: out of an answer, or from the Flight server where it waits."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import trio

from syndb_common.engine.interface import Scan
from syndb_common.errors import DataError, IncompleteResult
from syndb_common.flight import client as flight
from syndb_common.messages import FlightEndpoint
from syndb_hub.federation.gathering import Budget, Gathering, Whole

CHECKED_HERE_BYTES = 1024**2
"""A part up to this size is checked in well under a millisecond; a larger one in a thread."""
MAX_READERS = 16
"""Parts read at once, over all queries."""
_readers = trio.CapacityLimiter(MAX_READERS)
MAX_CHECKERS = 2
"""Large parts checked at once; more would not be faster."""
checkers = trio.CapacityLimiter(MAX_CHECKERS)

Taken = tuple[pa.Table | None, Scan]
"""A part that was taken in: its rows if they are kept, and what was read for them."""


async def read(endpoint: FlightEndpoint, secret: str, gathering: Gathering, budget: Budget, seconds: float) -> Taken:
    """Take a part from a Flight server, in a thread; at most as fast as it is taken in here.

    Raises:
        PeerUnavailable, DeadlineExceeded, IncompleteResult: it did not come, or not to its end.
        SynDBError: whatever ended it where it is made.
    """
    reading = flight.Reading(endpoint, seconds=seconds, max_bytes=sys.maxsize, secret=secret)
    try:
        drain = partial(_drain, reading, gathering, budget)
        table = await trio.to_thread.run_sync(drain, abandon_on_cancel=True, limiter=_readers)
    except trio.Cancelled:
        reading.cancel()
        raise
    return table, reading.scan


def _drain(reading: flight.Reading, gathering: Gathering, budget: Budget) -> pa.Table | None:
    """A whole result, every batch counted as it comes; blocks."""
    for batch in reading.batches():
        budget.spend(batch.nbytes)
        gathering.add(batch)
    return gathering.end(reading.schema)


async def take(gathering: Gathering, table: pa.Table) -> pa.Table | None:
    """Take in a part that is here. What is large, or is written to a disk, is not for the loop."""
    if table.nbytes <= CHECKED_HERE_BYTES and isinstance(gathering, Whole):
        return _add_all(gathering, table)
    return await trio.to_thread.run_sync(_add_all, gathering, table, abandon_on_cancel=True, limiter=checkers)


def _add_all(gathering: Gathering, table: pa.Table) -> pa.Table | None:
    for batch in table.to_batches():
        gathering.add(batch)
    return gathering.end(table.schema)


@contextlib.contextmanager
def damage() -> Iterator[None]:
    """A peer's Arrow is foreign until every offset is checked: whatever pyarrow raises over it is one failed part."""
    try:
        yield
    except (DataError, pa.ArrowException, OSError, ValueError, LookupError, NotImplementedError) as error:
        raise IncompleteResult(f"the node sent a part that cannot be used: {error}") from error
