"""What an engine writes down beside the data: the state of its uploads, and who published or deleted what.

Two tables in a database of their own. Rows are only ever appended: asked on a full disk to change rows that are there,
ClickHouse was seen to leave an empty file with which it does not start again. The audit stays for ever; the state of an
upload is its last row, and an empty one once it is forgotten.
"""

# ruff: noqa: S608 - names are ours, ids are UUIDs

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from syndb_common.engine.failures import disk_full
from syndb_common.engine.interface import Limits
from syndb_common.engine.work import Keeper
from syndb_common.flight.uploads import Begin, PublishResult

RECORDS = "syndb_records"
LIMITS = Limits(seconds=3600.0, memory_bytes=8 * 1024**3)
"""Of everything an upload does inside the engine."""

OWNER = "owner"
"""Who acts with the owner's token, in the audit."""

What = Literal["published", "deleting", "deleted"]

_UPLOADS, _CHANGES = f"{RECORDS}.uploads", f"{RECORDS}.changes"

_TABLES = (
    f"CREATE TABLE IF NOT EXISTS {_UPLOADS} "
    "(upload_id UUID, revision UInt32, body String, at DateTime64(3, 'UTC')) "
    "ENGINE = ReplacingMergeTree(revision) ORDER BY upload_id "
    "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1",
    f"CREATE TABLE IF NOT EXISTS {_CHANGES} "
    "(at DateTime64(3, 'UTC'), who String, what String, dataset_id UUID, version UInt32, dataset String, "
    "content_hash String, rows UInt64) "
    "ENGINE = MergeTree ORDER BY (dataset_id, version, at) "
    "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1",
)
_UPLOAD = pa.schema(
    [("upload_id", pa.string()), ("revision", pa.uint32()), ("body", pa.string()), ("at", pa.timestamp("ms", "UTC"))]
)
_CHANGE = pa.schema(
    [
        ("at", pa.timestamp("ms", "UTC")),
        ("who", pa.string()),
        ("what", pa.string()),
        ("dataset_id", pa.string()),
        ("version", pa.uint32()),
        ("dataset", pa.string()),
        ("content_hash", pa.string()),
        ("rows", pa.uint64()),
    ]
)

COMMIT = pa.schema(
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
"""A row of ``dataset_versions``, which makes a version visible."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class StreamRecord(_Record):
    """One stream of an upload.

    Attributes:
        number: its place in the upload; the marks of its rows begin with it.
        resumable: its batches are numbered.
        ids: it brings ids that have to be checked.
    """

    number: int
    table: str
    resumable: bool
    ids: bool


class UploadRecord(_Record):
    """State of an upload; the rows themselves say how far each stream is. ``publisher`` asked to publish it."""

    begin: Begin
    version: int
    state: Literal["open", "publishing", "published"] = "open"
    streams: dict[UUID, StreamRecord] = {}
    result: PublishResult | None = None
    publisher: str = OWNER


class Change(_Record):
    """One entry of the audit. ``who`` is ``owner`` for the owner's token."""

    who: str
    what: What
    dataset_id: UUID
    version: int
    dataset: str
    content_hash: str
    rows: int


class Records:
    """The two tables. Thread-safe."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._lock = threading.Lock()
        self._revision = 0

    def prepare(self) -> None:
        """Make the tables where they are missing."""
        with self._keeper.working(LIMITS) as work:
            work.run(f"CREATE DATABASE IF NOT EXISTS {RECORDS}")
            for table in _TABLES:
                work.run(table)
        self._revision = self.read(f"SELECT max(revision) AS n FROM {_UPLOADS}", of=_UPLOADS)[0]["n"]

    def uploads(self) -> dict[UUID, UploadRecord]:
        """All uploads that were not forgotten, as they stood last."""
        rows = self.read(
            f"SELECT toString(upload_id) AS id, argMax(body, revision) AS body FROM {_UPLOADS} "
            "GROUP BY upload_id HAVING body != ''",
            of=_UPLOADS,
        )
        return {UUID(row["id"]): UploadRecord.model_validate_json(row["body"]) for row in rows}

    def save(self, upload: UUID, record: UploadRecord) -> None:
        """Write the state of an upload down; it is durable afterwards."""
        self._write([(upload, record.model_dump_json())])

    def forget(self, uploads: Iterable[UUID]) -> None:
        """Forget uploads."""
        self._write([(upload, "") for upload in uploads])

    def _write(self, bodies: list[tuple[UUID, str]]) -> None:
        now, rows = datetime.now(UTC), []
        with self._lock:
            for upload, body in bodies:
                self._revision += 1
                rows.append({"upload_id": str(upload), "revision": self._revision, "body": body, "at": now})
        if rows:
            ids = ", ".join(f"toUUID('{row['upload_id']}')" for row in rows)
            kept = f"uniqExact(upload_id) AS n FROM {_UPLOADS} WHERE upload_id IN ({ids}) AND revision >= "
            self._append(_UPLOADS, _UPLOAD, rows, f"{kept}{rows[0]['revision']}")

    def note(self, changes: Iterable[Change]) -> None:
        """Append to the audit, each change once."""
        now = datetime.now(UTC)
        rows = [{**change.model_dump(), "dataset_id": str(change.dataset_id), "at": now} for change in changes]
        if rows:
            keys = ", ".join(f"(toUUID('{row['dataset_id']}'), {row['version']}, '{row['what']}')" for row in rows)
            key = "dataset_id, version, what"
            kept = f"uniqExact({key}) AS n FROM {_CHANGES} WHERE ({key}) IN ({keys})"
            self._append(_CHANGES, _CHANGE, rows, kept)

    def changes(self, condition: str = "1") -> list[Change]:
        """The audit, oldest first; in ``condition`` the columns are texts and numbers."""
        rows = self.read(
            f"SELECT who, what, toString(dataset_id) AS dataset_id, version, dataset, content_hash, rows "
            f"FROM {_CHANGES} WHERE {condition} ORDER BY at",
            of=_CHANGES,
        )
        return [Change.model_validate(row) for row in rows]

    def last_deleted(self, dataset: UUID) -> int:
        """Highest version number of a data set that was deleted; 0 when none was."""
        condition = f"dataset_id = toUUID('{dataset}') AND what = 'deleting'"
        return int(self.read(f"SELECT max(version) AS n FROM {_CHANGES} WHERE {condition}", of=_CHANGES)[0]["n"])

    def read(self, sql: str, *, of: str = "") -> list[dict[str, Any]]:
        """The rows of one SELECT; with all that was written into the table ``of``, whatever machine has it."""
        with self._keeper.working(LIMITS) as work:
            if of:
                work.catch_up(of)
            rows: list[dict[str, Any]] = work.read_all(sql).to_pylist()
            return rows

    def _append(self, table: str, schema: pa.Schema, rows: list[dict[str, Any]], kept: str) -> None:
        """Append rows; ``kept`` counts them, for ClickHouse was seen to say nothing when the disk filled up."""
        with self._keeper.working(LIMITS) as work:
            work.insert(table, schema, [pa.RecordBatch.from_pylist(rows, schema=schema)])
        if self.read(f"SELECT {kept}", of=table)[0]["n"] < len(rows):
            raise disk_full()
