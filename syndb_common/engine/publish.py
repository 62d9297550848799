"""Uploads: staging tables of their own, checks, and publication as one new version of a data set.

Rows are appended to staging tables that nobody queries. Publishing checks them, puts the partition
``(dataset_id, version)`` of every table in place, then writes one row into ``dataset_versions``: that row is the
commit. Whatever a crash leaves without such a row is dropped at the next start (:meth:`Uploads.recover`).
"""

# ruff: noqa: S608 - names come from the data model, ids are UUIDs

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
from pydantic import ValidationError

from syndb_common.engine.checks import ROW_ID, check_rows, content_hash
from syndb_common.engine.interface import Limits
from syndb_common.engine.rows import RowShape
from syndb_common.engine.work import Keeper, Work
from syndb_common.errors import Conflict, DataError, NotFound, SynDBError, TooManyRequests
from syndb_common.flight.uploads import Begin, PublishResult
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.model import DATABASE, TABLES
from syndb_common.tables.versions import DatasetMetadata

STAGING = "syndb_staging"
LEASE_SECONDS = 15.0
"""An upload that sends nothing for this long may be taken over by a new one: its client is gone."""
MAX_UPLOADS = 16
_LIMITS = Limits(seconds=3600.0, memory_bytes=8 * 1024**3)


class _Upload:
    def __init__(self, begin: Begin) -> None:
        self.id = uuid4()
        self.begin = begin
        self.version = 0
        self.streams = 0
        self.publishing = False
        self.touched = time.monotonic()

    @property
    def abandoned(self) -> bool:
        return not self.streams and not self.publishing and time.monotonic() - self.touched > LEASE_SECONDS

    def staging(self, table: str) -> str:
        return f"{STAGING}.u{self.id.hex}_{table}"


class Uploads:
    """All uploads of this engine. Thread-safe; one at a time per data set."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._uploads: dict[UUID, _Upload] = {}
        self._lock = threading.Lock()
        self._publishing = threading.Lock()
        self.published = 0

    def recover(self) -> None:
        """Drop all staging and every partition without a commit row: what a crash left behind."""
        with self._keeper.working(_LIMITS) as work:
            work.run(f"DROP DATABASE IF EXISTS {STAGING} SYNC")
            work.run(f"CREATE DATABASE {STAGING}")
        self._drop_uncommitted()

    def _drop_uncommitted(self) -> None:
        names = ", ".join(f"'{name}'" for name in TABLES)
        if not self._rows(f"SELECT 1 FROM system.tables WHERE database = '{DATABASE}' AND name = 'dataset_versions'"):
            return
        stray = self._rows(
            f"SELECT DISTINCT table, partition_id FROM system.parts WHERE active AND database = '{DATABASE}' "
            f"AND table IN ({names}) AND partition NOT IN "
            f"(SELECT toString((dataset_id, version)) FROM {DATABASE}.dataset_versions)"
        )
        with self._keeper.working(_LIMITS) as work:
            for row in stray:
                work.run(f"ALTER TABLE {DATABASE}.{row['table']} DROP PARTITION ID '{row['partition_id']}'")

    def begin(self, begin: Begin) -> UUID:
        """Start an upload and return its id.

        Raises:
            DataError: a table does not exist.
            Conflict: the data set is being uploaded already, or its name belongs to another.
        """
        unknown = set(begin.tables) - set(TABLES)
        if unknown:
            raise DataError(f"unknown table {', '.join(sorted(unknown))[:200]}", hint=f"tables are {', '.join(TABLES)}")
        self._check_name(begin)
        upload = _Upload(begin)
        with self._lock:
            gone = [other for other in self._uploads.values() if other.abandoned]
            for other in gone:
                del self._uploads[other.id]
            if any(other.begin.dataset_id == begin.dataset_id for other in self._uploads.values()):
                raise Conflict(
                    f"data set {begin.metadata.dataset} is being uploaded already",
                    hint=f"wait until that ends, or {LEASE_SECONDS:.0f} seconds if it was interrupted",
                )
            if len(self._uploads) >= MAX_UPLOADS:
                raise TooManyRequests(f"{MAX_UPLOADS} uploads are going on", hint="wait until one ends")
            self._uploads[upload.id] = upload
        for other in gone:
            self._drop_staging(other)
        try:
            upload.version = _number(self._newest(begin.dataset_id)) + 1
            self._create_staging(upload)
        except SynDBError:
            self.abort(upload.id)
            raise
        return upload.id

    def _create_staging(self, upload: _Upload) -> None:
        dataset = upload.begin.dataset_id
        with self._keeper.working(_LIMITS) as work:
            for table in set(upload.begin.tables):
                staging = upload.staging(table)
                work.run(f"CREATE TABLE {staging} AS {DATABASE}.{table}")
                work.run(
                    f"ALTER TABLE {staging} MODIFY COLUMN dataset_id UUID DEFAULT toUUID('{dataset}'), "
                    f"MODIFY COLUMN version UInt32 DEFAULT {upload.version}, "
                    f"MODIFY COLUMN cid UUID DEFAULT {ROW_ID.format(namespace=dataset.hex, table=table)}"
                )

    def append(self, upload_id: UUID, table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Add rows to one table of an upload; when that fails the whole upload is dropped.

        Raises:
            DataError: the rows do not fit the table.
        """
        with self._lock:
            upload = self._get(upload_id)
            if upload.publishing or table not in upload.begin.tables:
                raise Conflict(f"this upload takes no rows for {table[:100]}")
            upload.streams += 1
        try:
            shape = RowShape(TABLES[table], schema)
            with self._keeper.working(_LIMITS) as work:
                return work.insert(upload.staging(table), shape.schema, (shape.fit(batch) for batch in batches))
        except BaseException:
            self.abort(upload_id)
            raise
        finally:
            upload.streams -= 1
            upload.touched = time.monotonic()

    def abort(self, upload_id: UUID) -> None:
        """Drop an upload; nothing happens when there is none."""
        with self._lock:
            upload = self._uploads.pop(upload_id, None)
        if upload is not None:
            self._drop_staging(upload)

    def publish(self, upload_id: UUID) -> PublishResult:
        """Check the upload and make it the newest version of its data set; afterwards it is gone, also on error.

        Raises:
            DataError: rows break a rule; the message has counts and examples, and nothing was published.
            Conflict: rows are still being sent, or another upload of the data set, or of its name, was published
                meanwhile.
        """
        with self._lock:
            upload = self._get(upload_id)
            if upload.streams or upload.publishing:
                raise Conflict("rows of this upload are still being sent")
            upload.publishing = True
        try:
            with self._publishing, self._keeper.working(_LIMITS) as work:
                staging = {table: upload.staging(table) for table in TABLES if table in upload.begin.tables}
                counts = check_rows(work, staging, upload.begin.dataset_id)
                return self._commit(work, upload, counts, content_hash(work, staging))
        finally:
            self.abort(upload_id)

    def _commit(self, work: Work, upload: _Upload, counts: dict[str, int], digest: str) -> PublishResult:
        dataset, metadata = upload.begin.dataset_id, upload.begin.metadata
        self._check_name(upload.begin)
        newest = self._newest(dataset)
        if newest and newest["content_hash"] == digest and _metadata(newest["metadata"]) == metadata:
            return PublishResult(version=newest["version"], unchanged=True, row_counts=counts, content_hash=digest)
        if _number(newest) >= upload.version:  # what is published never changes
            raise Conflict(
                f"version {_number(newest)} of {metadata.dataset} was published meanwhile",
                hint="start the import again",
            )
        schema_version = self._rows(f"SELECT max(version) AS version FROM {DATABASE}.schema_migrations")[0]["version"]
        row = {
            "dataset_id": str(dataset),
            "version": upload.version,
            "metadata": metadata.model_dump_json(),
            "row_counts": list(counts.items()),
            "content_hash": digest,
            "schema_version": schema_version,
            "published_at": datetime.now(UTC),
        }
        try:
            for table in counts:
                work.run(
                    f"ALTER TABLE {DATABASE}.{table} REPLACE PARTITION (toUUID('{dataset}'), {upload.version}) "
                    f"FROM {upload.staging(table)}"
                )
            commit = pa.RecordBatch.from_pylist([row], schema=_COMMIT)
            work.insert(f"{DATABASE}.dataset_versions", _COMMIT, [commit])
        except SynDBError:
            self._drop_uncommitted()
            raise
        self.published += 1
        return PublishResult(version=upload.version, unchanged=False, row_counts=counts, content_hash=digest)

    def _check_name(self, begin: Begin) -> None:
        """Refuse a name that any version of another data set has: queries group by name, they would pool the two."""
        name = begin.metadata.dataset
        holders = self._rows(
            f"SELECT toString(dataset_id) AS id FROM {DATABASE}.dataset_versions "
            f"WHERE JSONExtractString(metadata, 'dataset') = '{name}' AND dataset_id != toUUID('{begin.dataset_id}') "
            f"LIMIT 1"
        )
        if holders:
            holder = holders[0]["id"]
            same = "leave out --dataset-id" if holder == str(dataset_id(name)) else f"use --dataset-id {holder}"
            raise Conflict(
                f"the name {name} belongs to data set {holder}",
                hint=f"{same} to publish a new version of that one, or choose another name",
            )

    def _newest(self, dataset: UUID) -> dict[str, Any] | None:
        rows = self._rows(
            f"SELECT version, metadata, content_hash FROM {DATABASE}.dataset_versions "
            f"WHERE dataset_id = toUUID('{dataset}') ORDER BY version DESC LIMIT 1"
        )
        return rows[0] if rows else None

    def _get(self, upload_id: UUID) -> _Upload:
        upload = self._uploads.get(upload_id)
        if upload is None:
            raise NotFound("this upload does not exist any more", hint="start the import again")
        upload.touched = time.monotonic()
        return upload

    def _drop_staging(self, upload: _Upload) -> None:
        with self._keeper.working(_LIMITS) as work:
            for table in upload.begin.tables:
                work.run(f"DROP TABLE IF EXISTS {upload.staging(table)} SYNC")

    def _rows(self, sql: str) -> Sequence[dict[str, Any]]:
        with self._keeper.working(_LIMITS) as work:
            rows: list[dict[str, Any]] = work.read_all(sql).to_pylist()
            return rows


_COMMIT = pa.schema(
    [
        ("dataset_id", pa.string()),
        ("version", pa.uint32()),
        ("metadata", pa.string()),
        ("row_counts", pa.map_(pa.string(), pa.uint64())),
        ("content_hash", pa.string()),
        ("schema_version", pa.uint32()),
        ("published_at", pa.timestamp("ms", "UTC")),
    ]
)


def _number(newest: dict[str, Any] | None) -> int:
    return int(newest["version"]) if newest else 0


def _metadata(text: str) -> DatasetMetadata | None:
    """Metadata of a commit row; None when they cannot be read."""
    try:
        return DatasetMetadata.model_validate_json(text)
    except ValidationError:
        return None
