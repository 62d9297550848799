"""What every engine does, whichever ClickHouse stands behind it.

All methods are coroutines of a trio daemon and honour cancellation: a cancelled call cancels its query. SQL comes
from compiled plans, numbered migrations and this package only, never from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

INLINE_BYTES = 64 * 1024
"""Largest result that travels inside a control message; anything larger goes by Flight with a ticket."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query may use. Reaching a limit is a ``LimitExceeded``, never a shorter answer.

    Attributes:
        seconds: wall time inside the engine.
        memory_bytes: memory of the query inside the engine.
        result_rows: rows of the result.
        result_bytes: bytes of the result as Arrow.
    """

    seconds: float = 30.0
    memory_bytes: int = 2 * 1024**3
    result_rows: int = 50_000_000
    result_bytes: int = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class Scan:
    """What a query read: rows and bytes, and the seconds it took inside the engine."""

    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole result: the table and what it cost."""

    table: pa.Table
    scan: Scan


@dataclass(frozen=True, slots=True)
class Offer:
    """A result too large to travel inline, waiting at the Flight server for one reader.

    Attributes:
        ticket: unguessable, single use, void after ``expires_seconds``.
        location: Flight location to read it from, ``grpc+tls://host:port``.
        certificate: PEM of the server's certificate, to be trusted for this connection only.
    """

    ticket: bytes
    location: str
    certificate: str
    expires_seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a query is.

    Attributes:
        rows: rows read so far.
        bytes: bytes of these rows.
        total_rows: rows to read, as far as ClickHouse knows by now; 0 when it does not.
        seconds: since it began; a result that waits for its reader goes on counting.
    """

    rows: int = 0
    bytes: int = 0
    total_rows: int = 0
    seconds: float = 0.0


class Engine(Protocol):
    """One ClickHouse with the database ``syndb``."""

    async def execute(self, sql: str) -> None:
        """Run one statement without a result (DDL, maintenance)."""
        ...

    async def query(self, sql: str, *, limits: Limits | None = None, query_id: str | None = None) -> Answer:
        """Run one SELECT and return the whole result.

        Without a ``query_id`` it is a small read of the daemon's own, which does not wait behind the queries of users.

        Raises:
            LimitExceeded: a limit of ``limits`` was reached.
            EngineUnavailable: the engine stopped meanwhile and is being restarted.
        """
        ...

    async def answer(
        self,
        sql: str,
        *,
        limits: Limits | None = None,
        query_id: str | None = None,
        inline_bytes: int = INLINE_BYTES,
        reader: bytes = b"",
    ) -> Answer | Offer:
        """Run one SELECT once; return it whole when it is small, else an offer to stream it by Flight.

        The offer is for the reader whose secret has the SHA-256 ``reader``; without one, for whoever has the ticket.
        """
        ...

    async def merge(self, sql: str, partials: pa.Table, *, limits: Limits | None = None) -> Answer:
        """Run one SELECT over ``partials``, which stands as table ``partials`` for this query only."""
        ...

    async def insert(self, table: str, rows: pa.Table) -> int:
        """Append rows to a table of ours and return how many; all of them or, on error, none that is published."""
        ...

    async def cancel(self, query_id: str) -> None:
        """Stop the query of that id; nothing happens when it has ended already."""
        ...

    async def progress(self, query_id: str) -> Progress | None:
        """How far the query of that id is; None when there is none, or not any more."""
        ...
