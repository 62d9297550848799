"""chdb: ClickHouse as a library of this process. Nothing else imports it.

A connection costs half a millisecond, so everybody gets a fresh one and nothing of it outlives its use. One
connection carries one stream or insert at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from chdb import ChdbError
from chdb.state import connect

from syndb_common.engine.backend import Chunk, Setting, literal
from syndb_common.engine.failures import from_clickhouse
from syndb_common.errors import IncompleteResult


class EmbeddedBackend:
    """The ClickHouse of one folder. One process owns a folder, see :mod:`syndb_common.engine.lock`."""

    def __init__(self, path: str) -> None:
        self._path = path
        with _translated():
            self._anchor = connect(path)  # ClickHouse shuts down with its last connection

    def connect(self, settings: Mapping[str, Setting], *, seconds: float, session: bool = False) -> EmbeddedConnection:
        """A connection with these settings; each has a session of its own."""
        with _translated():
            connection = EmbeddedConnection(connect(self._path))
        if settings:
            connection.run("SET " + ", ".join(f"{name} = {literal(value)}" for name, value in settings.items()))
        return connection

    def close(self) -> None:
        """Shut ClickHouse down."""
        self._anchor.close()


class EmbeddedConnection:
    """A connection of chdb."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, sql: str) -> None:
        """Run one statement without a result."""
        with _translated():
            self._connection.query(sql)

    def protect(self) -> None:
        """From here on SELECT only, and no setting can be changed."""
        self.run("SET readonly = 1")

    def start(self, sql: str) -> _Stream:
        """Start one SELECT."""
        with _translated():
            return _Stream(self._connection.send_query(sql, "Arrow"))

    def insert(self, target: str, columns: Sequence[str], content: Iterator[bytes]) -> int:
        """Append an Arrow stream to the table ``target`` and return the rows written."""
        names = ", ".join(f"`{name}`" for name in columns)
        with _translated():
            inserter = self._connection.send_insert(f"INSERT INTO {target} ({names})", "ArrowStream")
        try:
            for piece in content:
                with _translated():
                    inserter.append(piece)
            with _translated():
                return int(inserter.finish().rows_written)
        finally:
            inserter.close()

    def catch_up(self, table: str) -> None:
        """There is one machine."""

    def abandon(self) -> None:
        """What is in this process always answers."""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self) -> Chunk:
        with _translated():
            # The stream's own fetch() hides an empty result's schema and what was scanned: ask beneath it.
            chunk = self._stream._conn.streaming_fetch_result(self._stream._result)
            expected = int(chunk.rows_read())
            scanned = int(chunk.storage_rows_read()), int(chunk.storage_bytes_read())
            content = chunk.bytes()
        schema, batches = None, []
        if content:
            with pa.ipc.open_file(content) as file:
                schema = file.schema
                batches = [batch for i in range(file.num_record_batches) if (batch := file.get_batch(i)).num_rows]
        rows = sum(batch.num_rows for batch in batches)
        if rows != expected:
            raise IncompleteResult(f"the engine announced {expected} rows and delivered {rows}; repeat the query")
        return Chunk(schema, batches, *scanned)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (ChdbError, RuntimeError) as error:
        raise from_clickhouse(str(error)) from None
