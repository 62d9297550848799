"""What lies between our work and ClickHouse, whichever way that is reached.

Two implementations: :mod:`~syndb_common.engine.embedded_backend` (chdb, in this process) and
:mod:`~syndb_common.engine.server_backend` (HTTP). Everything above them is the same code: limits, watching, results
on offer, uploads. All methods block and belong to threads; each connection is used by one thread at a time. What
ClickHouse refuses is raised as one of our errors, by :func:`~syndb_common.engine.failures.from_clickhouse`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

Setting = int | float | str
"""Value of a ClickHouse setting."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next part of a result. No batches: its proper end, which every implementation has verified.

    Attributes:
        schema: of the whole result; with the first chunk at the latest.
        batches: none of them empty.
        scanned_rows: rows read from tables since the last chunk, as far as ClickHouse says so.
        scanned_bytes: bytes of these rows.
    """

    schema: pa.Schema | None
    batches: list[pa.RecordBatch]
    scanned_rows: int = 0
    scanned_bytes: int = 0


class Stream(Protocol):
    """The result of one SELECT."""

    def read(self) -> Chunk:
        """The next chunk.

        Raises:
            IncompleteResult: the stream ended without its end record.
            SynDBError: the query failed; what was read is not the whole result.
        """
        ...


class Connection(Protocol):
    """One user's way to ClickHouse: with settings of its own, and one thing going on at a time."""

    def run(self, sql: str) -> None:
        """Run one statement without a result."""
        ...

    def protect(self) -> None:
        """From here on SELECT only, and no setting can be changed."""
        ...

    def start(self, sql: str) -> Stream:
        """Start one SELECT."""
        ...

    def insert(self, target: str, columns: Sequence[str], content: Iterator[bytes]) -> int:
        """Append an Arrow stream to the table ``target`` and return the rows that ClickHouse has written.

        What ``content`` raises ends the insert and comes out of here.
        """
        ...

    def catch_up(self, table: str) -> None:
        """Have reads of ``table`` find all that was written before, by whatever machine of a cluster.

        Raises:
            EngineUnavailable: this machine lags behind the others.
        """
        ...

    def abandon(self) -> None:
        """Wait no longer for a ClickHouse that was told to end a stream and does not. Called from another thread."""
        ...

    def close(self) -> None:
        """Give the connection back, which ends an unread stream inside ClickHouse. Called once."""
        ...


class Backend(Protocol):
    """One ClickHouse."""

    def connect(self, settings: Mapping[str, Setting], *, seconds: float, session: bool = False) -> Connection:
        """A connection with these settings.

        Args:
            settings: hold for all that it does.
            seconds: what any of it may take. A ClickHouse elsewhere that is silent for longer is unavailable.
            session: temporary tables are kept from one statement to the next.

        Raises:
            EngineUnavailable: ClickHouse cannot be reached.
        """
        ...

    def close(self) -> None:
        """Let go of ClickHouse; nothing may be going on."""
        ...


def literal(value: Setting) -> str:
    """A setting's value as SQL."""
    if not isinstance(value, str):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
