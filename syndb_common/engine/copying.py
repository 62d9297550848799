"""Published versions as they are, out of one ClickHouse and into another, or into an archive and back.

A version keeps everything that its commit row states: id, number, metadata, time, counts and content hash. Its rows
are written first and are seen by nobody; then the hash is computed anew over what was written; then comes the commit
row. So a copy that was cut short leaves nothing visible and is simply made again.
"""

# ruff: noqa: S608 - names come from the data model, ids are UUIDs

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from syndb_common.engine.checks import content_hash
from syndb_common.engine.interface import Limits
from syndb_common.engine.records import COMMIT, RECORDS, Records
from syndb_common.engine.work import Keeper
from syndb_common.errors import Conflict, DataError, IncompleteResult, SynDBError, UnknownName
from syndb_common.tables.model import DATABASE, TABLES
from syndb_common.tables.versions import Count, SchemaVersion

_LIMITS = Limits(seconds=86_400.0, memory_bytes=8 * 1024**3, result_rows=10**15, result_bytes=10**18)
"""A copy takes what it takes; its operator sees it going on."""


_STORED = "import that version again from its source, or restore an earlier backup"
_WRITTEN = "nothing of it is visible: see that there is room for it and do this again, or take another source"
"""ClickHouse was seen to lose rows on a full disk without a word."""


class Commit(BaseModel):
    """A commit row, word for word. What a newer release wrote into ``metadata`` is kept though it is not understood."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset_id: UUID
    version: int = Field(ge=1, le=2**32 - 1)
    metadata: str = Field(max_length=1_000_000)
    row_counts: dict[Annotated[str, Field(max_length=100)], Count]
    content_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    schema_version: SchemaVersion
    published_at: AwareDatetime

    def __str__(self) -> str:
        try:
            name = json.loads(self.metadata)["dataset"]
        except (ValueError, KeyError, TypeError):
            name = self.dataset_id
        return f"version {self.version} of {str(name)[:100]}"

    @property
    def tables(self) -> tuple[str, ...]:
        """Its tables that hold rows.

        Raises:
            DataError: this software does not know one of them.
        """
        unknown = set(self.row_counts) - set(TABLES)
        if unknown:
            raise DataError(
                f"{self} has the table {min(unknown)[:100]}, which this release does not know",
                hint="update SynDB and do this again",
            )
        return tuple(name for name in TABLES if self.row_counts.get(name))


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one table: ``batches`` may be read once."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


Source = Callable[[str], AbstractContextManager[Rows]]
"""Opens one table of a version by its name."""


class Versions:
    """The published versions of one ClickHouse. Used by one thread; nothing else may publish meanwhile."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def schema_version(self) -> int:
        """Number of the last migration; 0 for an empty ClickHouse."""
        try:
            (row,) = self._select(f"SELECT max(version) AS version FROM {DATABASE}.schema_migrations").to_pylist()
        except UnknownName:
            return 0
        return int(row["version"])

    def published(self) -> list[Commit]:
        """All of them, by data set and number.

        Raises:
            DataError: a commit row cannot be read. Leaving it out would lose a version.
        """
        try:
            found = self._select(
                f"SELECT toString(dataset_id) AS dataset_id, version, metadata, row_counts, content_hash, "
                f"schema_version, published_at FROM {DATABASE}.dataset_versions ORDER BY dataset_id, version"
            )
        except UnknownName:
            return []
        return [_commit(row) for row in found.to_pylist()]

    def verify(self, commit: Commit, hint: str = _STORED) -> None:
        """Compare the content with the commit row, by counting and hashing all its rows.

        Raises:
            IncompleteResult: they differ; ``hint`` says what to do.
        """
        places = {table: f"(SELECT * FROM {DATABASE}.{table} WHERE {_mine(commit)})" for table in commit.tables}
        with self._keeper.working(_LIMITS, readonly=True) as work:
            found = content_hash(work, places)
        if found != commit.content_hash:
            raise IncompleteResult(
                f"{commit} is damaged: its content hash is {found}, its commit row says {commit.content_hash}",
                hint=hint,
            )

    @contextmanager
    def rows(self, commit: Commit, table: str) -> Iterator[Rows]:
        """All rows of one table of a version, as a stream that raises when it cannot be completed."""
        with self._keeper.working(_LIMITS, readonly=True) as work:
            first = work.start(f"SELECT * FROM {DATABASE}.{table} WHERE {_mine(commit)}")
            if work.schema is None:
                raise IncompleteResult(f"{table} of {commit} has no columns")

            def batches() -> Iterator[pa.RecordBatch]:
                found = first
                while found:
                    yield from found
                    found = work.read()

            yield Rows(work.schema, batches())

    def put(self, commit: Commit, source: Source) -> bool:
        """Publish a copy of a version; False when it is there already, which is verified.

        Raises:
            Conflict: another version has this id and number.
            IncompleteResult: what was written, or is there, has another content hash; nothing was published.
        """
        there = [held for held in self.published() if _id(held) == _id(commit)]
        if there and there[0] != commit:
            raise Conflict(
                f"{commit} is there already with other content or another description",
                hint="choose an empty ClickHouse, or delete that version there",
            )
        if there:
            self.verify(commit)
            return False
        for table in TABLES:
            self._drop(commit, table)
        try:
            for table in commit.tables:
                self._write(commit, table, source)
            self.verify(commit, _WRITTEN)
        except SynDBError:
            for table in commit.tables:
                self._drop(commit, table)
            raise
        with self._keeper.working(_LIMITS) as work:
            row = {**commit.model_dump(), "dataset_id": str(commit.dataset_id)}
            row["row_counts"] = list(commit.row_counts.items())
            batch = pa.RecordBatch.from_pylist([row], schema=COMMIT)
            work.insert(f"{DATABASE}.dataset_versions", COMMIT, [batch])
        return True

    def audit(self) -> pa.Table | None:
        """Who published and deleted what, oldest first; None before there was anything to write down."""
        try:
            return self._select(f"SELECT * FROM {RECORDS}.changes ORDER BY at")
        except UnknownName:
            return None

    def put_audit(self, entries: pa.Table) -> None:
        """Append those of these entries that are not there yet."""
        Records(self._keeper).prepare()
        held = self.audit()
        there = set() if held is None else {tuple(row.values()) for row in held.to_pylist()}
        missing = [number for number, row in enumerate(entries.to_pylist()) if tuple(row.values()) not in there]
        if missing:
            self._insert(f"{RECORDS}.changes", Rows(entries.schema, iter(entries.take(missing).to_batches())))

    def _write(self, commit: Commit, table: str, source: Source) -> None:
        with source(table) as rows:
            self._insert(f"{DATABASE}.{table}", rows)

    def _insert(self, target: str, rows: Rows) -> None:
        """Append rows; the names of their columns come from an archive and become part of a statement."""
        there = self._select(f"SELECT * FROM {target} LIMIT 0").schema.names
        if unknown := sorted(set(rows.schema.names) - set(there)):
            raise DataError(f"{target} has no column {unknown[0][:100]!r}", hint="update SynDB and do this again")
        with self._keeper.working(_LIMITS) as work:
            work.insert(target, rows.schema, rows.batches)

    def _drop(self, commit: Commit, table: str) -> None:
        """Remove what a copy that was cut short has left."""
        with self._keeper.working(_LIMITS) as work:
            work.run(f"ALTER TABLE {DATABASE}.{table} DROP PARTITION (toUUID('{commit.dataset_id}'), {commit.version})")

    def _select(self, sql: str) -> pa.Table:
        with self._keeper.working(_LIMITS, readonly=True) as work:
            return work.read_all(sql)


def _id(commit: Commit) -> tuple[UUID, int]:
    return commit.dataset_id, commit.version


def _mine(commit: Commit) -> str:
    return f"dataset_id = toUUID('{commit.dataset_id}') AND version = {commit.version}"


def _commit(row: dict[str, object]) -> Commit:
    published = row["published_at"]
    assert isinstance(published, datetime)
    try:
        return Commit.model_validate(
            {**row, "row_counts": dict(row["row_counts"]), "published_at": published.astimezone(UTC)}  # type: ignore[call-overload]
        )
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False))
        raise DataError(
            f"the commit row of version {row['version']} of {row['dataset_id']} cannot be read: {fields}",
            hint="delete that version, or import it again under a new number",
        ) from None
