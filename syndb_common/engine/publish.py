"""Uploads: staging tables of their own, checks, and publication as one new version of a data set.

Rows are appended to staging tables that nobody queries. Each carries a mark, the number of its stream and of its batch,
and one insert is one part of ClickHouse, which is there or not: the staged rows themselves say what was stored, also
after a crash. Publishing checks them, takes the marks off, puts the partition ``(dataset_id, version)`` of every table
in place, then writes one row into ``dataset_versions``: that row is the commit. Whatever a crash leaves without such
a row is dropped at the next start (:meth:`Uploads.recover`); staging stays, and its client goes on.
"""

# ruff: noqa: S608 - names come from the data model, ids are UUIDs

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from typing import Final
from uuid import UUID, uuid4

import pyarrow as pa

from syndb_common.engine.checks import check_rows, content_hash
from syndb_common.engine.commits import Commits
from syndb_common.engine.deletion import Deletions
from syndb_common.engine.groups import Budget, Gathering, Item
from syndb_common.engine.records import LIMITS, OWNER, Change, Records, UploadRecord
from syndb_common.engine.room import check_cause, check_room
from syndb_common.engine.rows import RowShape
from syndb_common.engine.staging import GONE, STAGING, Staged, StagedStream
from syndb_common.engine.work import Keeper, Work
from syndb_common.errors import Conflict, DataError, NotFound, SynDBError, TooManyRequests
from syndb_common.flight.uploads import Begin, PublishResult, UploadStatus
from syndb_common.tables.model import DATABASE, TABLES

LEASE_SECONDS: Final = 15.0
"""An upload that sends nothing for this long may be taken over by a new one: its client is gone."""
ABANDONED_SECONDS: Final = 24 * 3600.0
"""An upload that sends nothing for this long is dropped, and the outcome of a published one forgotten."""
SWEEP_SECONDS: Final = 60.0
MAX_UPLOADS: Final = 16
MAX_STREAMS: Final = 10_000
"""Streams of one upload, over its whole life."""

_log = logging.getLogger(__name__)

Stored = Callable[[int, int], None]
"""Told number and rows of every batch that is durable."""


class Uploads:
    """All uploads of this engine. Thread-safe; one at a time per data set.

    Args:
        keeper: runs what they do.
        clock: seconds that never go back; replaceable in tests.
    """

    def __init__(self, keeper: Keeper, clock: Callable[[], float] = time.monotonic) -> None:
        self._keeper = keeper
        self._clock = clock
        self._records = Records(keeper)
        self._commits = Commits(keeper, self._records)
        self._uploads: dict[UUID, Staged] = {}
        self._lock = threading.Lock()
        self._budget = Budget()
        self._publishing = threading.Lock()
        self.deletions = Deletions(keeper, self._records)

    def recover(self) -> None:
        """Take up the uploads under way; drop partitions without a commit row, and staging without an upload."""
        with self._keeper.working(LIMITS) as work:
            work.run(f"CREATE DATABASE IF NOT EXISTS {STAGING}")
        self._records.prepare()
        if self._records.read(
            f"SELECT 1 FROM system.tables WHERE database = '{DATABASE}' AND name = 'dataset_versions'"
        ):
            self.deletions.recover()
            self._commits.drop_uncommitted()
        tables = {row["name"] for row in self._records.read(_STAGED)}
        lost = []
        for upload_id, record in self._records.uploads().items():
            upload = Staged(self._keeper, upload_id, record, self._clock)
            if record.state == "publishing" and record.result is not None and self._commits.made(upload):
                self._finish(upload, record.result)
            if upload.record.state != "published" and not upload.survived(tables):
                lost.append(upload_id)
                continue
            self._uploads[upload_id] = upload
            if upload.record.state != "published":
                tables -= set(upload.tables().values())
        with self._keeper.working(LIMITS) as work:
            for table in tables:
                work.run(f"DROP TABLE IF EXISTS {STAGING}.{table} SYNC")
        self._records.forget(lost)
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()

    def _sweep(self) -> None:
        while True:
            time.sleep(SWEEP_SECONDS)
            try:
                self.drop_abandoned()
                with self._publishing:
                    self.deletions.resume()
            except Exception:  # nothing may end this thread; the next round tries again
                _log.exception("what was abandoned could not be cleared away")

    def drop_abandoned(self, seconds: float = ABANDONED_SECONDS) -> None:
        """Drop the uploads that nobody has touched for so long."""
        with self._lock:
            idle = [upload for upload in self._uploads.values() if upload.idle > seconds]
        for upload in idle:
            with suppress(Conflict):  # it is not idle any more
                self._drop(upload)

    def begin(self, begin: Begin) -> UUID:
        """Start an upload and return its id; the same ``key`` finds the upload it started before.

        Raises:
            DataError: a table does not exist.
            Conflict: the data set is being uploaded already, its name belongs to another, or the key to another
                upload.
        """
        unknown = set(begin.tables) - set(TABLES)
        if unknown:
            raise DataError(f"unknown table {', '.join(sorted(unknown))[:200]}", hint=f"tables are {', '.join(TABLES)}")
        self._commits.check_name(begin)
        upload = Staged(self._keeper, uuid4(), UploadRecord(begin=begin, version=0), self._clock)
        newest = self._commits.newest(begin.dataset_id)
        with self._lock:
            same = self._of_key(begin)
            if same is not None and not same.outdated(newest["version"] if newest else 0):
                same.touch()
                return same.id
            others = [each for each in self._uploads.values() if each.record.state != "published"]
            gone = [other for other in others if other.idle > LEASE_SECONDS and other.begun_for(begin.dataset_id)]
            if any(other.begun_for(begin.dataset_id) and other not in gone for other in others):
                raise Conflict(
                    f"data set {begin.metadata.dataset} is being uploaded already",
                    hint=f"wait until that ends, or {LEASE_SECONDS:.0f} seconds if it was interrupted",
                )
            if len(others) - len(gone) >= MAX_UPLOADS:
                raise TooManyRequests(f"{MAX_UPLOADS} uploads are going on", hint="wait until one ends")
            upload.enter()
            self._uploads[upload.id] = upload
        try:
            for other in gone if same is None else [*gone, same]:
                self._drop(other)
            upload.update(version=self._commits.last_number(begin.dataset_id) + 1)
            upload.create()
            self._records.save(upload.id, upload.record)
        except SynDBError:
            self._drop(upload)
            raise
        finally:
            upload.leave()
        return upload.id

    def _of_key(self, begin: Begin) -> Staged | None:
        for upload in self._uploads.values():
            if begin.key is not None and upload.record.begin.key == begin.key and not upload.dropped:
                if upload.record.begin != begin:
                    raise Conflict("this key belongs to an upload of something else", hint="use a fresh UUID as key")
                return upload
        return None

    def append(
        self,
        upload_id: UUID,
        table: str,
        stream_id: UUID | None,
        schema: pa.Schema,
        incoming: Iterable[tuple[int | None, pa.RecordBatch]],
        stored: Stored = lambda seq, rows: None,
    ) -> int:
        """Add rows to one table of an upload, and return how many were durable when the connection ended.

        ``incoming`` are numbers and batches. A stream whose batches have no numbers has no ``stream_id``, and when
        it breaks off the upload is dropped; it is dropped as well when rows do not fit.

        Raises:
            DataError: the rows do not fit the table.
            Conflict: a batch is missing before this one, or the stream goes on in another connection.
        """
        resumable = stream_id is not None
        shape_table = TABLES.get(table)
        with self._lock:
            upload = self._get(upload_id)
            if upload.record.state != "open" or shape_table is None or table not in upload.record.begin.tables:
                raise Conflict(f"this upload takes no rows for {table[:100]}")
            upload.enter(sender := object())
        try:
            shape = RowShape(shape_table, schema)
            stream, turn = self._stream(upload, sender, stream_id or uuid4(), table, shape, resumable=resumable)
            return self._store(upload, stream, turn, shape, incoming, stored)
        except BaseException as error:
            if not resumable or isinstance(error, DataError):
                with suppress(Conflict):  # its stream goes on in another connection, which has brought all
                    self._drop(upload)
            raise
        finally:
            upload.leave(sender)

    def _stream(
        self, upload: Staged, sender: object, stream_id: UUID, table: str, shape: RowShape, *, resumable: bool
    ) -> tuple[StagedStream, int]:
        with upload.changing:
            stream = upload.streams.get(stream_id)
            if stream is None:
                if len(upload.streams) >= MAX_STREAMS:
                    raise TooManyRequests(f"an upload has at most {MAX_STREAMS} streams", hint="use fewer streams")
                stream = upload.add(stream_id, table, resumable=resumable, ids=shape.brings_ids)
                self._records.save(upload.id, upload.record)
            elif (stream.record.table, stream.record.ids) != (table, shape.brings_ids):
                raise Conflict(f"this stream is one of {stream.record.table}, with other columns")
            return stream, upload.take_over(stream, sender)

    def _store(
        self,
        upload: Staged,
        stream: StagedStream,
        turn: int,
        shape: RowShape,
        incoming: Iterable[tuple[int | None, pa.RecordBatch]],
        stored: Stored,
    ) -> int:
        def check() -> None:
            stream.check(turn)
            if upload.dropped:
                raise NotFound(GONE)

        with stream.writing:
            check()
            following, rows = stream.position()
        gathering = Gathering(incoming, shape, following, rows, self._budget)
        with closing(gathering.groups(check)) as groups:
            for group in groups:
                with stream.writing:
                    check()
                    if any(item.data is not None for item in group):
                        self._insert(upload, stream, shape, group)
                upload.touch()
                for item in group:
                    stored(item.seq, item.rows)
        with stream.writing:
            return stream.position()[1]

    def _insert(self, upload: Staged, stream: StagedStream, shape: RowShape, items: list[Item]) -> None:
        try:
            stream.insert(shape.schema, items)
        except SynDBError:
            if upload.dropped:
                raise NotFound(GONE) from None
            raise

    def status(self, upload_id: UUID) -> UploadStatus:
        """How far an upload is.

        Raises:
            NotFound: there is none.
        """
        with self._lock:
            upload = self._get(upload_id)
            upload.enter()
        try:
            return upload.status()
        finally:
            upload.leave()

    def abort(self, upload_id: UUID) -> None:
        """Drop an upload; nothing happens when there is none. Checks of its rows that are going on end.

        Raises:
            Conflict: it has passed them and is being put in place, or it has become a version without anybody's
                having heard of it.
            EngineUnavailable: the server does not answer.
        """
        with self._lock:
            upload = self._uploads.get(upload_id)
        if upload is not None and (result := self._drop(upload)) is not None:
            raise Conflict(f"this upload has become version {result.version}", hint="delete that version")

    def _drop(self, upload: Staged) -> PublishResult | None:
        """Drop an upload; what it had become, if its publisher was not told."""
        upload.condemn()
        # Otherwise its commit row could come to the next upload of that number.
        result = upload.record.result if upload.record.state == "publishing" and self._commits.made(upload) else None
        if result is not None:
            self._note(upload, result)
        with self._lock:
            self._uploads.pop(upload.id, None)
        upload.drop_tables()
        with suppress(SynDBError):  # on a full disk: the next start finds it without tables
            self._records.forget([upload.id])
        return result

    def publish(self, upload_id: UUID, who: str = OWNER) -> PublishResult:
        """Check the upload and make it the newest version of its data set.

        Asked again it answers the same. Afterwards its rows are gone from staging, also when they break a rule;
        after an error of the engine publishing may be asked for again.

        Raises:
            DataError: rows break a rule; the message has counts and examples, and nothing was published.
            NotFound: it was dropped meanwhile.
            Conflict: rows are still being sent, or another upload of the data set, or of its name, was published
                meanwhile.
        """
        with self._lock:
            upload = self._get(upload_id)
            if upload.sending:
                raise Conflict("rows of this upload are still being sent")
            upload.update(state="publishing" if upload.record.state == "open" else upload.record.state)
            upload.enter()
        try:
            with self._publishing:
                if upload.record.result is None or upload.record.state != "published":
                    try:
                        self._publish(upload, who)
                    finally:
                        upload.undecide()
        except (DataError, Conflict):
            self._drop(upload)
            raise
        finally:
            upload.leave()
        assert upload.record.result is not None, "it was published"
        return upload.record.result

    def _publish(self, upload: Staged, who: str) -> None:
        upload.update(publisher=who)
        result = upload.record.result
        with self._keeper.working(LIMITS) as work:
            upload.publishing(work)
            if result is None or not self._commits.made(upload):
                result = self._make(work, upload)
        upload.decide()
        self._finish(upload, result)

    def _make(self, work: Work, upload: Staged) -> PublishResult:
        """Check, hash and commit; or find that the newest version is the same."""
        begin, places = upload.record.begin, upload.places()
        upload.settle()
        counts = check_rows(work, places, begin.dataset_id, upload.tables_with_ids())
        digest = content_hash(work, places)
        self._commits.check_name(begin)
        if (same := self._commits.same(begin, digest)) is not None:
            return PublishResult(version=same, unchanged=True, row_counts=counts, content_hash=digest)
        version = upload.record.version
        if (last := self._commits.last_number(begin.dataset_id)) >= version:  # what is published never changes
            raise Conflict(
                f"version {last} of {begin.metadata.dataset} was published meanwhile", hint="start the import again"
            )
        check_room(work)
        upload.decide()
        result = PublishResult(version=version, unchanged=False, row_counts=counts, content_hash=digest)
        upload.update(result=result)
        self._records.save(upload.id, upload.record)  # a crash from here on knows what was meant
        try:
            upload.take_marks_off(work, counts)
            self._commits.write(work, upload, result)
        except SynDBError as error:
            check_cause(self._keeper, error, places.values())
            raise
        return result

    def _finish(self, upload: Staged, result: PublishResult) -> None:
        """Write down what became of it, in the audit too; may be repeated after a crash."""
        if not result.unchanged:
            self._note(upload, result)
        upload.update(state="published", result=result)
        self._records.save(upload.id, upload.record)
        upload.drop_tables()

    def _note(self, upload: Staged, result: PublishResult) -> None:
        begin = upload.record.begin
        change = Change(
            who=upload.record.publisher,
            what="published",
            dataset_id=begin.dataset_id,
            version=result.version,
            dataset=begin.metadata.dataset,
            content_hash=result.content_hash,
            rows=sum(result.row_counts.values()),
        )
        if change not in self._records.changes(f"dataset_id = '{begin.dataset_id}'"):
            self._records.note([change])

    def delete(self, dataset: UUID, version: int | None, who: str = OWNER) -> tuple[int, ...]:
        """Delete one published version, or the whole data set with its uploads, and return the versions' numbers.

        Raises:
            NotFound: there is no such version.
        """
        with self._publishing:
            deleted = self.deletions.delete(dataset, version, who)
            with self._lock:
                of_dataset = [each for each in self._uploads.values() if each.begun_for(dataset)]
            for upload in of_dataset:
                if version is None or (upload.record.result and upload.record.result.version in deleted):
                    self._drop(upload)
            return deleted

    def _get(self, upload_id: UUID) -> Staged:
        upload = self._uploads.get(upload_id)
        if upload is None or upload.dropped:
            raise NotFound(GONE)
        upload.touch()
        return upload


_STAGED = f"SELECT name FROM system.tables WHERE database = '{STAGING}'"
