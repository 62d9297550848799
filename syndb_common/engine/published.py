"""The published versions an engine holds, as their commit rows state them."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pyarrow as pa
import structlog
from pydantic import ValidationError

from syndb_common.engine.interface import Engine
from syndb_common.errors import UnknownName
from syndb_common.tables.model import DATABASE
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion

_SQL = f"""
SELECT toString(dataset_id) AS dataset_id, version, metadata, row_counts, content_hash, schema_version, published_at
FROM {DATABASE}.dataset_versions
ORDER BY dataset_id, version
"""  # noqa: S608 - our own name

_log = structlog.get_logger(__name__)


async def versions(engine: Engine) -> list[PublishedVersion]:
    """All published versions, by data set and number; empty before the first migration."""
    found = await rows(engine)
    return [] if found is None else parse(found)


async def rows(engine: Engine) -> pa.Table | None:
    """The commit rows of all published versions; equal tables mean that nothing was published in between.

    None before the first migration.
    """
    try:
        return (await engine.query(_SQL)).table
    except UnknownName:
        return None


def parse(rows: pa.Table) -> list[PublishedVersion]:
    """The versions of these commit rows.

    A commit row that cannot be read is left out and logged: one damaged row must not hide the others.
    """
    found = []
    for row in rows.to_pylist():
        try:
            found.append(_version(row))
        except ValidationError as error:
            _log.error(
                "published version left out: its commit row cannot be read",
                dataset_id=row["dataset_id"],
                version=row["version"],
                fields=[".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False)],
            )
    return found


def _version(row: dict[str, Any]) -> PublishedVersion:
    return PublishedVersion(
        dataset_id=row["dataset_id"],
        version=row["version"],
        metadata=DatasetMetadata.model_validate_json(row["metadata"]),
        row_counts=dict(row["row_counts"]),
        content_hash=row["content_hash"],
        schema_version=row["schema_version"],
        published_at=row["published_at"].astimezone(UTC),
    )
