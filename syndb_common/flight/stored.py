"""Results that are files: Arrow IPC files, written once, read in ranges of their batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from syndb_common.engine.interface import Scan
from syndb_common.errors import NotFound

PARTS = 4
"""Endpoints of a large result: more streams than that gain nothing on a machine or a network."""

PART_BYTES = 8 * 1024**2
"""Least bytes of a part: below it one stream is as fast."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The batches ``first`` to ``last``, without ``last``, of an Arrow IPC file."""

    path: Path
    schema: pa.Schema
    first: int
    last: int

    @property
    def gone(self) -> bool:
        """Whether the file was deleted."""
        return not self.path.exists()

    def read(self) -> Iterator[pa.RecordBatch]:
        """Its batches, read as they are taken."""
        with _opened(self.path) as source:
            reader = pa.ipc.open_file(source)
            for index in range(self.first, self.last):
                yield reader.get_batch(index)

    def scan(self) -> Scan:
        """It costs no query."""
        return Scan()

    def end(self) -> None:
        """Nothing is held."""


def parts_of(path: Path, *, least_bytes: int = PART_BYTES) -> list[Stored]:
    """The file as ranges of about the same number of batches, in order; one where it is smaller than ``least_bytes``.

    Raises:
        NotFound: it is not there any more.
    """
    with _opened(path) as source:
        reader = pa.ipc.open_file(source)
        count = max(1, min(PARTS, reader.num_record_batches, source.size() // least_bytes))
        ends = [reader.num_record_batches * n // count for n in range(count + 1)]
        return [Stored(path, reader.schema, first, last) for first, last in pairwise(ends)]


def _opened(path: Path) -> pa.OSFile:
    """Not mapped: pages of a mapped file would count as memory of this process, as many as its readers have taken."""
    try:
        return pa.OSFile(str(path))
    except FileNotFoundError:
        raise NotFound("the result is not kept any more", hint="repeat the query") from None
