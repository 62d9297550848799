"""Commit rows: each makes one version of a data set visible, and what has none is not there.

The rows of a version are put in place first, as the partition ``(dataset_id, version)`` of every table; the commit row
follows. Numbers are never given twice, and a name belongs to one data set.
"""

# ruff: noqa: S608 - names come from the data model, ids are UUIDs

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pyarrow as pa
from pydantic import ValidationError

from syndb_common.engine.failures import disk_full, said_by_clickhouse
from syndb_common.engine.records import COMMIT, LIMITS, Records
from syndb_common.engine.staging import Staged
from syndb_common.engine.work import Keeper, Work
from syndb_common.errors import Conflict, SynDBError
from syndb_common.flight.uploads import Begin, PublishResult
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.model import DATABASE, TABLES
from syndb_common.tables.versions import DatasetMetadata

_ROWS = f"{DATABASE}.dataset_versions"


class Commits:
    """The commit rows of this engine."""

    def __init__(self, keeper: Keeper, records: Records) -> None:
        self._keeper = keeper
        self._records = records

    def drop_uncommitted(self) -> None:
        """Drop partitions without a commit row. Nothing may be being published."""
        committed = f"SELECT toString((dataset_id, version)) FROM {_ROWS}"
        with self._keeper.working(LIMITS) as work:
            work.catch_up(_ROWS)
            self._drop_partitions(work, f"partition NOT IN ({committed})")

    def _drop_partitions(self, work: Work, which: str) -> None:
        names = ", ".join(f"'{name}'" for name in TABLES)
        found = self._records.read(
            f"SELECT DISTINCT table, partition_id FROM system.parts WHERE active AND database = '{DATABASE}' "
            f"AND table IN ({names}) AND {which}"
        )
        for row in found:
            work.run(f"ALTER TABLE {DATABASE}.{row['table']} DROP PARTITION ID '{row['partition_id']}'")

    def write(self, work: Work, upload: Staged, result: PublishResult) -> None:
        """Make the rows of an upload visible as the version that ``result`` names.

        Raises:
            SynDBError: the engine failed; it may be done again, unless it was :meth:`made` after all.
        """
        dataset = upload.record.begin.dataset_id
        schema_version = self._records.read(f"SELECT max(version) AS version FROM {DATABASE}.schema_migrations")
        row = {
            "dataset_id": str(dataset),
            "version": result.version,
            "metadata": upload.record.begin.metadata.model_dump_json(),
            "row_counts": list(result.row_counts.items()),
            "content_hash": result.content_hash,
            "schema_version": schema_version[0]["version"],
            "published_at": datetime.now(UTC),
        }
        place = f"(toUUID('{dataset}'), {result.version})"
        partition = f"PARTITION {place}"
        try:
            # Who failed to publish under this number before may have left rows, also in tables of which this has none.
            self._drop_partitions(work, f"partition = toString({place})")
            for table in result.row_counts:
                work.run(f"ALTER TABLE {DATABASE}.{table} REPLACE {partition} FROM {upload.place(table)}")
            upload.committing = work.tag
            work.insert(_ROWS, COMMIT, [pa.RecordBatch.from_pylist([row], schema=COMMIT)])
            upload.committing = None
        except SynDBError as error:
            if self.made(upload):
                return
            if said_by_clickhouse(error):  # else the row may still come, and must find its rows
                self._drop(result, partition)
            raise
        if not self.made(upload):  # the disk filled up, of which ClickHouse was seen to say nothing
            self._drop(result, partition)
            raise disk_full()

    def _drop(self, result: PublishResult, partition: str) -> None:
        """Drop the rows in place if that can be done; who publishes under this number next drops what is left."""
        with suppress(SynDBError), self._keeper.working(LIMITS) as work:
            for table in result.row_counts:
                work.run(f"ALTER TABLE {DATABASE}.{table} DROP {partition}")

    def newest(self, dataset: UUID) -> dict[str, Any] | None:
        """Version, metadata and content hash of the newest version; None when there is none."""
        rows = self._records.read(
            f"SELECT version, metadata, content_hash FROM {_ROWS} "
            f"WHERE dataset_id = toUUID('{dataset}') ORDER BY version DESC LIMIT 1",
            of=_ROWS,
        )
        return rows[0] if rows else None

    def made(self, upload: Staged) -> bool:
        """Whether the version that this upload was to become is there.

        Raises:
            EngineUnavailable: nobody can say yet.
        """
        self.settle(upload)
        result = upload.record.result
        if result is None:
            return False
        found = self._records.read(
            f"SELECT content_hash FROM {_ROWS} "
            f"WHERE dataset_id = toUUID('{upload.record.begin.dataset_id}') AND version = {result.version}",
            of=_ROWS,
        )
        return found == [{"content_hash": result.content_hash}]

    def settle(self, upload: Staged) -> None:
        """Have an end to the writing of a commit row whose answer was lost.

        Raises:
            EngineUnavailable: it may still be going on.
        """
        if (tag := upload.committing) is not None:
            self._keeper.settle(tag)
            upload.committing = None

    def same(self, begin: Begin, content_hash: str) -> int | None:
        """Number of the newest version when it has this content and metadata already."""
        newest = self.newest(begin.dataset_id)
        if newest and newest["content_hash"] == content_hash and _metadata(newest["metadata"]) == begin.metadata:
            return int(newest["version"])
        return None

    def last_number(self, dataset: UUID) -> int:
        """Highest version number that was ever given, to a version that is published or deleted."""
        newest = self.newest(dataset)
        return max(newest["version"] if newest else 0, self._records.last_deleted(dataset))

    def check_name(self, begin: Begin) -> None:
        """Refuse a name that any version of another data set has: queries group by name, they would pool the two.

        Raises:
            Conflict: it is taken.
        """
        name = begin.metadata.dataset
        holders = self._records.read(
            f"SELECT toString(dataset_id) AS id FROM {_ROWS} "
            f"WHERE JSONExtractString(metadata, 'dataset') = '{name}' AND dataset_id != toUUID('{begin.dataset_id}') "
            f"LIMIT 1",
            of=_ROWS,
        )
        if holders:
            holder = holders[0]["id"]
            same = "leave out --dataset-id" if holder == str(dataset_id(name)) else f"use --dataset-id {holder}"
            raise Conflict(
                f"the name {name} belongs to data set {holder}",
                hint=f"{same} to publish a new version of that one, or choose another name",
            )


def _metadata(text: str) -> DatasetMetadata | None:
    """Metadata of a commit row; None when they cannot be read."""
    try:
        return DatasetMetadata.model_validate_json(text)
    except ValidationError:
        return None
