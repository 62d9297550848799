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

from syndb_common.engine.interface import Limits
from syndb_common.engine.work import Keeper
from syndb_common.flight.uploads import Begin, PublishResult

RECORDS = "syndb_records"
LIMITS = Limits(seconds=3600.0, memory_bytes=8 * 1024**3)
"""Of everything an upload does inside the engine."""

OWNER = "owner"
"""Who acts with the owner's token, in the audit."""

What = Literal["published", "deleting", "deleted"]

_TABLES = (
    f"CREATE TABLE IF NOT EXISTS {RECORDS}.uploads "
    "(upload_id UUID, revision UInt32, body String, at DateTime64(3, 'UTC')) "
    "ENGINE = ReplacingMergeTree(revision) ORDER BY upload_id "
    "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1",
    f"CREATE TABLE IF NOT EXISTS {RECORDS}.changes "
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
        self._revision = self.read(f"SELECT max(revision) AS n FROM {RECORDS}.uploads")[0]["n"]

    def uploads(self) -> dict[UUID, UploadRecord]:
        """All uploads that were not forgotten, as they stood last."""
        rows = self.read(
            f"SELECT toString(upload_id) AS id, argMax(body, revision) AS body FROM {RECORDS}.uploads "
            "GROUP BY upload_id HAVING body != ''"
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
            self._append("uploads", _UPLOAD, rows)

    def note(self, changes: Iterable[Change]) -> None:
        """Append to the audit."""
        now = datetime.now(UTC)
        rows = [{**change.model_dump(), "dataset_id": str(change.dataset_id), "at": now} for change in changes]
        if rows:
            self._append("changes", _CHANGE, rows)

    def changes(self, condition: str = "1") -> list[Change]:
        """The audit, oldest first; in ``condition`` the columns are texts and numbers."""
        rows = self.read(
            f"SELECT who, what, toString(dataset_id) AS dataset_id, version, dataset, content_hash, rows "
            f"FROM {RECORDS}.changes WHERE {condition} ORDER BY at"
        )
        return [Change.model_validate(row) for row in rows]

    def last_deleted(self, dataset: UUID) -> int:
        """Highest version number of a data set that was deleted; 0 when none was."""
        condition = f"dataset_id = toUUID('{dataset}') AND what = 'deleting'"
        return int(self.read(f"SELECT max(version) AS n FROM {RECORDS}.changes WHERE {condition}")[0]["n"])

    def read(self, sql: str) -> list[dict[str, Any]]:
        """The rows of one SELECT."""
        with self._keeper.working(LIMITS) as work:
            rows: list[dict[str, Any]] = work.read_all(sql).to_pylist()
            return rows

    def _append(self, table: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
        with self._keeper.working(LIMITS) as work:
            work.insert(f"{RECORDS}.{table}", schema, [pa.RecordBatch.from_pylist(rows, schema=schema)])
