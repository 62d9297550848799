"""The staging tables of one upload, and its streams.

A staging table is like its table, with one more column: the mark of each row. Marks tell stream and batch, so a
stream's position is read from what is really there.
"""

# ruff: noqa: S608 - names come from the data model, ids are UUIDs

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import pyarrow as pa

from syndb_common.engine.checks import ROW_ID
from syndb_common.engine.groups import Item
from syndb_common.engine.records import LIMITS, StreamRecord, UploadRecord
from syndb_common.engine.room import RESERVE_BYTES, check_room, check_written
from syndb_common.engine.work import Keeper, Work
from syndb_common.errors import Conflict, EngineUnavailable, NotFound
from syndb_common.flight.uploads import MAX_BATCHES, UploadStatus
from syndb_common.tables.model import DATABASE, TABLES

STAGING = "syndb_staging"
MARK = "_mark"
GONE = "this upload does not exist any more; start the import again"
CLUSTER_SECONDS = 60.0
"""How long the machines of a cluster may take to change a table; one machine does it at once."""


class StagedStream:
    """One stream of rows. Use it with :attr:`writing` held.

    Attributes:
        writing: held by whoever stores rows or reads the position.
        sender: the newest call that brings its rows.
    """

    def __init__(self, keeper: Keeper, place: str, record: StreamRecord) -> None:
        self.record = record
        self.writing = threading.Lock()
        self.sender: object = None
        self._keeper = keeper
        self._place = place
        self._turn = 0
        self._position: tuple[int, int] | None = None
        self._unsure: str | None = None  # tag of an insert that may still be going on

    def take_over(self) -> int:
        """The turn of a new connection; the one before ends."""
        self._turn += 1
        return self._turn

    def check(self, turn: int) -> None:
        """Raise unless this is the stream's newest connection.

        Raises:
            Conflict: it is not.
        """
        if turn != self._turn:
            raise Conflict("this stream goes on in another connection")

    def settle(self) -> None:
        """Have an end to an insert whose answer was lost.

        Raises:
            EngineUnavailable: it may still be going on.
        """
        if self._unsure is not None:
            self._keeper.settle(self._unsure)
            self._unsure = None

    def position(self) -> tuple[int, int]:
        """Number of the next batch, and the rows that are stored."""
        self.settle()
        if self._position is None:
            low, high = self.record.number * MAX_BATCHES, (self.record.number + 1) * MAX_BATCHES
            with self._keeper.working(LIMITS) as work:
                (row,) = work.read_all(
                    f"SELECT count() AS rows, max({MARK}) AS last FROM {self._place} "
                    f"WHERE {MARK} >= {low} AND {MARK} < {high}"
                ).to_pylist()
            self._position = (row["last"] - low + 1 if row["rows"] else 0, row["rows"])
        return self._position

    def insert(self, schema: pa.Schema, items: list[Item]) -> None:
        """Store batches as one part of ClickHouse. After an error the position is read anew."""
        first = self.record.number * MAX_BATCHES
        marked = schema.append(pa.field(MARK, pa.uint64()))
        batches = []
        for item in items:
            if item.data is not None:
                mark = pa.repeat(pa.scalar(first + item.seq, pa.uint64()), item.rows)
                batches.append(pa.record_batch([*item.data.columns, mark], schema=marked))
        _, rows = self.position()
        whole = pa.concat_batches(batches)
        self._position = None
        if whole.num_rows:
            with self._keeper.working(LIMITS) as work:
                check_room(work, RESERVE_BYTES + whole.nbytes)
                self._unsure = work.tag
                work.insert(self._place, marked, [whole])
                self._unsure = None
                check_written(work, self._place)
        self._position = (items[-1].seq + 1, rows + whole.num_rows)


class Staged:
    """One upload. ``record`` is what is written down of it.

    Attributes:
        active: calls under way for it.
        sending: those of them that bring rows, without those whose stream goes on in a later one.
        changing: held by whoever adds a stream.
        dropped: whether it is gone, or going.
        checking: the work that checks its rows, as long as it may still be dropped.
        committing: tag of the work that writes its commit row and may still be going on.
    """

    def __init__(
        self, keeper: Keeper, upload_id: UUID, record: UploadRecord, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.id = upload_id
        self.record = record
        self.active = 0
        self.sending: set[object] = set()
        self.changing = threading.Lock()
        self.dropped = False
        self.checking: Work | None = None
        self.committing: str | None = None
        self._decided = False
        self._keeper = keeper
        self._clock = clock
        self._touched = clock()
        self._count = threading.Lock()
        self.streams = {
            name: StagedStream(keeper, self.place(stream.table), stream) for name, stream in record.streams.items()
        }

    @property
    def idle(self) -> float:
        """Seconds since anything was done with it; 0 while something is."""
        return 0.0 if self.active else self._clock() - self._touched

    def touch(self) -> None:
        """Something was done with it."""
        self._touched = self._clock()

    def enter(self, sender: object = None) -> None:
        """A call begins; :meth:`leave` must follow."""
        with self._count:
            self.active += 1
            if sender is not None:
                self.sending.add(sender)

    def take_over(self, stream: StagedStream, sender: object) -> int:
        """The turn of a new connection of a stream; the one before sends nothing more, whenever it notices."""
        with self._count:
            self.sending.discard(stream.sender)
            stream.sender = sender
        return stream.take_over()

    def leave(self, sender: object = None) -> None:
        """A call has ended."""
        with self._count:
            self.active -= 1
            self.sending.discard(sender)
        self.touch()

    def publishing(self, work: Work) -> None:
        """That work checks its rows; whoever drops the upload ends it.

        Raises:
            NotFound: it was dropped.
        """
        with self._count:
            self._check_there()
            self.checking = work

    def decide(self) -> None:
        """From here on nobody drops it until publishing has ended, with :meth:`undecide`.

        Raises:
            NotFound: it was dropped.
        """
        with self._count:
            self._check_there()
            self._decided, self.checking = True, None

    def undecide(self) -> None:
        """Publishing has ended."""
        with self._count:
            self._decided, self.checking = False, None

    def _check_there(self) -> None:
        if self.dropped:
            raise NotFound(GONE)

    def condemn(self) -> None:
        """Nothing of it is stored or published any more; :meth:`drop_tables` must follow.

        Raises:
            Conflict: it is being put in place.
        """
        with self._count:
            if self._decided:
                raise Conflict("this upload is being put in place", hint="wait a moment, then delete the version")
            self.dropped = True
            if self.checking is not None:
                self._keeper.end(self.checking, NotFound(GONE))

    def begun_for(self, dataset: UUID) -> bool:
        """Whether it is of this data set."""
        return self.record.begin.dataset_id == dataset

    def outdated(self, newest: int) -> bool:
        """Whether it was published and is not the newest version any more."""
        result = self.record.result
        return self.record.state == "published" and result is not None and result.version != newest

    def update(self, **fields: Any) -> None:
        """Change what is written down, before it is saved."""
        self.record = self.record.model_copy(update=fields)

    def tables(self) -> dict[str, str]:
        """Names of the staging tables, by table."""
        return {table: f"u{self.id.hex}_{table}" for table in TABLES if table in self.record.begin.tables}

    def place(self, table: str) -> str:
        """The staging table of ``table``, as SQL."""
        return f"{STAGING}.u{self.id.hex}_{table}"

    def places(self) -> Mapping[str, str]:
        """The staging tables as SQL, by table."""
        return {table: self.place(table) for table in self.tables()}

    def tables_with_ids(self) -> frozenset[str]:
        """Tables some of whose rows came with ids of their own."""
        return frozenset(stream.table for stream in self.record.streams.values() if stream.ids)

    def survived(self, tables: set[str]) -> bool:
        """Whether its client can go on after a restart, when these staging tables are left."""
        return set(self.tables().values()) <= tables and all(s.resumable for s in self.record.streams.values())

    def create(self) -> None:
        """Make the staging tables."""
        dataset = self.record.begin.dataset_id
        with self._keeper.working(LIMITS) as work:
            check_room(work)
            for table, place in self.places().items():
                work.run(f"CREATE TABLE {place} AS {DATABASE}.{table}")
                work.run(
                    f"ALTER TABLE {place} MODIFY COLUMN dataset_id UUID DEFAULT toUUID('{dataset}'), "
                    f"MODIFY COLUMN version UInt32 DEFAULT {self.record.version}, "
                    f"MODIFY COLUMN cid UUID DEFAULT {ROW_ID.format(namespace=dataset.hex, table=table)}, "
                    f"ADD COLUMN {MARK} UInt64"
                )

    def take_marks_off(self, work: Work, tables: Mapping[str, int]) -> None:
        """Make the staging tables like their tables again; may be repeated.

        Nobody waits for the parts to be rewritten, which a full disk would put off for ever: what a part still holds
        of the column is not read by anybody, and its next merge leaves it out.
        """
        for table in tables:
            work.run(
                f"ALTER TABLE {self.place(table)} DROP COLUMN IF EXISTS {MARK} "
                "SETTINGS mutations_sync = 0, alter_sync = 0"
            )
        names = ", ".join(f"'{self.tables()[table]}'" for table in tables)
        left = f"SELECT 1 FROM system.columns WHERE database = '{STAGING}' AND table IN ({names}) AND name = '{MARK}'"
        until = time.monotonic() + CLUSTER_SECONDS
        while work.read_all(left).num_rows:
            if time.monotonic() > until:
                raise EngineUnavailable("the cluster has not changed its staging tables in time", hint="publish again")
            time.sleep(0.05)

    def add(self, name: UUID, table: str, *, resumable: bool, ids: bool) -> StagedStream:
        """A new stream. Hold :attr:`changing`."""
        record = StreamRecord(number=len(self.streams) + 1, table=table, resumable=resumable, ids=ids)
        stream = self.streams[name] = StagedStream(self._keeper, self.place(table), record)
        self.update(streams={**self.record.streams, name: record})
        return stream

    def settle(self) -> None:
        """Return when no more rows come into the staging tables; nobody may be sending.

        Raises:
            EngineUnavailable: some may.
        """
        for stream in list(self.streams.values()):
            with stream.writing:
                stream.settle()

    def status(self) -> UploadStatus:
        """How far it is."""
        if self.record.state != "open":
            return UploadStatus(streams={}, rows={}, state=self.record.state, result=self.record.result)
        following, rows = {}, dict.fromkeys(self.tables(), 0)
        for name, stream in list(self.streams.items()):
            with stream.writing:
                following[name], stored = stream.position()
            rows[stream.record.table] += stored
        return UploadStatus(streams=following, rows=rows, state="open")

    def drop_tables(self) -> None:
        """Drop the staging tables."""
        with self._keeper.working(LIMITS) as work:
            for place in self.places().values():
                work.run(f"DROP TABLE IF EXISTS {place} SYNC")
