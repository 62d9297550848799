"""Work inside the engine process: each piece on a ClickHouse connection of its own, all of them watched.

Every query gets a fresh connection: its limits are set, ``readonly`` last, and nothing of them outlives the query.
One connection carries one stream at a time. The :class:`Keeper` ends what was
cancelled, has used its time, or waits for a reader who does not come: it repeats KILL QUERY until the query is
gone. ClickHouse ends a dropped stream without a word, so every way out of here that is not the end raises.
"""

# ruff: noqa: S608 - tags are ours

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa

from syndb_common.engine.backend import Backend, Connection, Setting, Stream
from syndb_common.engine.content import Content
from syndb_common.engine.interface import Limits, Progress, Scan
from syndb_common.errors import Cancelled, EngineUnavailable, IncompleteResult, LimitExceeded, SynDBError

_WATCH_SECONDS = 0.05
_END_SECONDS = 2.0
"""How long ClickHouse may take to end what it was told to end."""
_FORMER_SECONDS = 10.0
_QUIET_LOOKS = 3
"""In a row, without what was broken off: a server that stood still may be about to begin it."""
_PREFIX = "syndb-"
_TAG = "Settings['log_comment']"

_log = logging.getLogger(__name__)


class Work:
    """One query, statement or insert. Thread-safe: one thread works, others may ask for its end.

    Attributes:
        patience: seconds a started result may wait for its reader between two reads; None waits for ever.
        reason: why it has to end, once that is decided.
        rows: rows read from the result so far.
    """

    def __init__(
        self, backend: Backend, tag: str, limits: Limits, query_id: str | None = None, request: int | None = None
    ) -> None:
        self._backend = backend
        self.tag = tag
        self.limits = limits
        self.query_id = query_id
        self.request = request
        self.patience: float | None = None
        self.reason: SynDBError | None = None
        self.schema: pa.Schema | None = None
        self.rows = 0
        self.closed = False
        self.on_close: Callable[[Work], None] = lambda work: None
        self._result_bytes = 0
        self._scanned_rows = 0
        self._scanned_bytes = 0
        self._busy = 0.0
        self._since: float | None = None
        self._doomed_since: float | None = None
        self._idle_since = time.monotonic()
        self._using = threading.Lock()
        self._connection: Connection | None = None
        self._stream: Stream | None = None

    def check(self) -> None:
        """Raise the reason when it has to end."""
        if self.reason is not None:
            raise self.reason

    def open(self, *, readonly: bool, offered: bool = False, session: bool = False) -> None:
        """Connect and set the limits.

        Args:
            readonly: for SELECT only.
            offered: the result may outlive its time limit while waiting for a reader.
            session: temporary tables are kept from one statement to the next.
        """
        with self._engine():
            settings = _settings(self.tag, self.limits, offered=offered)
            self._connection = self._backend.connect(settings, seconds=self.limits.seconds, session=session)
        if readonly:
            self.protect()

    def protect(self) -> None:
        """From here on SELECT only, and no setting can be changed."""
        with self._engine() as connection:
            connection.protect()

    def run(self, sql: str) -> None:
        """Run one statement without a result."""
        with self._engine() as connection:
            connection.run(sql)

    def catch_up(self, table: str) -> None:
        """From here on reads of ``table`` find all that was written before, by whatever machine of a cluster."""
        with self._engine() as connection:
            connection.catch_up(table)

    def start(self, sql: str) -> list[pa.RecordBatch]:
        """Start one SELECT; sets :attr:`schema` and returns the first batches, empty when there are no rows."""
        self.schema, self.rows, self._result_bytes = None, 0, 0
        with self._engine() as connection:
            self._stream = connection.start(sql)
        return self.read()

    def read(self) -> list[pa.RecordBatch]:
        """The next batches of the result; an empty list is its proper end.

        Raises:
            LimitExceeded, Cancelled, SynDBError: the result is not complete and never will be.
        """
        with self._engine():
            if self._stream is None:
                raise Cancelled("no query was started")
            chunk = self._stream.read()
        self.schema = self.schema or chunk.schema
        self._scanned_rows += chunk.scanned_rows
        self._scanned_bytes += chunk.scanned_bytes
        self.rows += sum(batch.num_rows for batch in chunk.batches)
        self._result_bytes += sum(batch.nbytes for batch in chunk.batches)
        if self._result_bytes > self.limits.result_bytes:
            raise LimitExceeded(
                f"the result is larger than {self.limits.result_bytes} bytes",
                hint="ask for less: add a condition or a LIMIT, or select fewer columns",
            )
        return chunk.batches

    def read_all(self, sql: str) -> pa.Table:
        """The whole result of one SELECT."""
        batches = self.start(sql)
        found = list(batches)
        while batches:
            batches = self.read()
            found.extend(batches)
        return pa.Table.from_batches(found, schema=self.schema)

    def insert(self, target: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Append batches of ``schema`` to the table ``target`` and return the rows written."""
        content = Content(schema, self._waiting_for(batches))
        with self._engine() as connection:
            written: int = connection.insert(target, schema.names, content.pieces())
        if written != content.rows:
            raise IncompleteResult(f"{written} of {content.rows} rows were written; repeat the import")
        return written

    def _waiting_for(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches; the time until each of them comes is not the engine's."""
        following = iter(batches)
        while True:
            self._rest()
            batch = next(following, None)
            self.check()
            self._since = time.monotonic()
            if batch is None:
                return
            yield batch

    @property
    def scan(self) -> Scan:
        """What was read so far, and the seconds the engine worked."""
        return Scan(self._scanned_rows, self._scanned_bytes, self._busy)

    @contextmanager
    def _engine(self) -> Iterator[Any]:
        """The connection, for time spent inside ClickHouse; whatever that says, a reason to end comes first."""
        with self._using:
            self.check()
            if self.closed:
                raise Cancelled("the query has ended")
            self._since = time.monotonic()
            try:
                yield self._connection
            except SynDBError as error:
                raise self.reason or error from None
            finally:
                self._rest()

    def _rest(self) -> None:
        """Outside ClickHouse from now on."""
        self._idle_since = time.monotonic()
        if self._since is not None:
            self._busy += self._idle_since - self._since
        self._since = None

    def doomed(self) -> bool:
        """Whether it has to end, deciding so when time or patience is over."""
        now, since = time.monotonic(), self._since
        if self.reason is None and not self.closed:
            if since is not None and self._busy + now - since > self.limits.seconds:
                self.reason = LimitExceeded(
                    f"the query took longer than {self.limits.seconds:g} seconds",
                    hint="ask for less, or allow more time",
                )
            elif since is None and self.patience is not None and now - self._idle_since > self.patience:
                self.reason = Cancelled("nobody read the result in time", hint="repeat the query")
        if self.reason is None:
            return False
        self._doomed_since = self._doomed_since or now
        if now - self._doomed_since > _END_SECONDS and since is not None and self._connection is not None:
            self._connection.abandon()
        return True

    @property
    def waiting(self) -> bool:
        """Whether its result waits for a reader, and nothing else would close it."""
        return self.patience is not None and self._since is None

    def close(self) -> None:
        """End the work, whatever state it is in, and give its connection back. Safe to repeat.

        Closing the connection ends an unread stream inside ClickHouse; a later read raises instead of ending.
        """
        with self._using:
            self._close()

    def close_if_idle(self) -> None:
        """Close, unless a thread is inside ClickHouse for it: that one will."""
        if self._using.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._using.release()

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._stream = None
        try:
            if self._connection is not None:
                self._connection.close()
        finally:
            self.on_close(self)


class Keeper:
    """All work that is going on, and the thread that ends what has to end."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._works: dict[str, Work] = {}
        self._changed = threading.Condition()
        self._number = 0
        self._name = f"{_PREFIX}{secrets.token_hex(8)}"  # others may work on the same server
        threading.Thread(target=self._watch, name="keeper", daemon=True).start()

    def new(self, limits: Limits | None = None, *, query_id: str | None = None, request: int | None = None) -> Work:
        """Work that is watched from now on; it still has to be opened, and must be closed."""
        with self._changed:
            self._number += 1
            work = Work(self._backend, f"{self._name}-{self._number}", limits or Limits(), query_id, request)
            work.on_close = self._forget
            self._works[work.tag] = work
            if len(self._works) == 1:
                self._changed.notify()
        return work

    @contextmanager
    def working(self, limits: Limits | None = None, *, readonly: bool = False, session: bool = False) -> Iterator[Work]:
        """Open work that closes at the end of the block."""
        work = self.new(limits)
        try:
            work.open(readonly=readonly, session=session)
            yield work
        finally:
            work.close()

    def cancel(self, *, query_id: str | None = None, request: int | None = None) -> None:
        """End the work of that query or request; nothing happens when there is none."""
        with self._changed:
            for work in self._works.values():
                same_query = query_id is not None and work.query_id == query_id
                if (same_query or (request is not None and work.request == request)) and work.reason is None:
                    work.reason = Cancelled("the query was cancelled")
            self._changed.notify()

    def progress(self, query_id: str) -> Progress | None:
        """How far the query of that id is; None when there is none, or not any more."""
        with self._changed:
            work = next((work for work in self._works.values() if work.query_id == query_id), None)
        if work is None:
            return None
        with self._control() as connection:
            connection.protect()
            stream = connection.start(_PROGRESS.format(tag=work.tag))
            found: list[dict[str, Any]] = []
            while batches := stream.read().batches:
                found.extend(row for batch in batches for row in batch.to_pylist())
        return Progress(**found[0]) if found else Progress(work.scan.rows, work.scan.bytes, 0, work.scan.seconds)

    def end(self, work: Work, reason: SynDBError) -> None:
        """End this work for ``reason``, unless it has ended."""
        with self._changed:
            work.reason = work.reason or reason
            self._changed.notify()

    def end_tagged(self, tag: str, reason: SynDBError) -> None:
        """End the work of that tag for ``reason``, if it is ours and has not ended."""
        with self._changed:
            work = self._works.get(tag)
        if work is not None:
            self.end(work, reason)

    def end_former(self) -> None:
        """End what an engine process before this one, which was killed, has left running on a server.

        Raises:
            EngineUnavailable: something still writes; nothing may be recovered before that has ended.
        """
        self._end_writing(f"startsWith({_TAG}, '{_PREFIX}') AND NOT startsWith({_TAG}, '{self._name}')")

    def settle(self, tag: str) -> None:
        """End what still runs under that tag: what it has not written by now it never will.

        For writing whose answer was lost, so that nobody knows whether it happened.

        Raises:
            EngineUnavailable: it still writes, or nobody can say.
        """
        self._end_writing(f"{_TAG} = '{tag}'")

    def _end_writing(self, which: str) -> None:
        mine = f"{which} AND user = currentUser()"
        until = time.monotonic() + _FORMER_SECONDS
        quiet = 0
        with self._control() as connection:
            while quiet < _QUIET_LOOKS:
                connection.run(f"KILL QUERY WHERE {mine} ASYNC")
                writing = f"SELECT 1 FROM system.processes WHERE {mine} AND query_kind != 'Select' LIMIT 1"
                quiet = 0 if connection.start(writing).read().batches else quiet + 1
                if time.monotonic() > until:
                    raise EngineUnavailable("the ClickHouse server still runs what was broken off", hint="try again")
                time.sleep(_WATCH_SECONDS)

    def _forget(self, work: Work) -> None:
        with self._changed:
            self._works.pop(work.tag, None)

    def _watch(self) -> None:
        failing = False
        while True:
            with self._changed:
                while not self._works:
                    self._changed.wait()
                self._changed.wait(_WATCH_SECONDS)
                works = list(self._works.values())
            try:
                self._end_doomed(works)
                failing = False
            except Exception:  # nothing may end this thread; tried again at once
                if not failing:
                    _log.exception("what has to end could not be ended")
                failing = True

    def _end_doomed(self, works: list[Work]) -> None:
        doomed = [work for work in works if work.doomed()]
        for work in doomed:
            if work.waiting:
                work.close_if_idle()
        tags = ", ".join(f"'{work.tag}'" for work in doomed if not work.closed)
        if tags:
            with suppress(SynDBError), self._control() as connection:  # tried again at once
                connection.run(f"KILL QUERY WHERE {_TAG} IN ({tags}) ASYNC")

    @contextmanager
    def _control(self) -> Iterator[Connection]:
        """A connection beside those of the work, for questions about it."""
        connection = self._backend.connect(_CONTROL, seconds=_CONTROL_SECONDS)
        try:
            yield connection
        finally:
            connection.close()


_CONTROL_SECONDS = 5.0
_CONTROL: dict[str, Setting] = {"max_execution_time": _CONTROL_SECONDS}
"""Settings of our own questions about running queries."""

_PROGRESS = (
    "SELECT read_rows AS rows, read_bytes AS bytes, total_rows_approx AS total_rows, elapsed AS seconds "
    f"FROM system.processes WHERE {_TAG} = '{{tag}}' LIMIT 1"
)

MAX_STATEMENT_BYTES = 16 * 1024**2


def _settings(tag: str, limits: Limits, *, offered: bool) -> dict[str, Setting]:
    return {
        "log_comment": tag,
        # Inside ClickHouse the clock also runs while a reader is slow; the keeper counts working time only.
        "max_execution_time": 0 if offered else limits.seconds,
        "timeout_overflow_mode": "throw",
        "max_memory_usage": limits.memory_bytes,
        "max_result_rows": limits.result_rows,
        "result_overflow_mode": "throw",
        "async_insert": 0,
        # A plan over ten thousand data sets compiles to some megabytes; ClickHouse's default is a quarter of one.
        "max_query_size": MAX_STATEMENT_BYTES,
        "max_ast_elements": 1_000_000,
        "max_expanded_ast_elements": 1_000_000,
    }
