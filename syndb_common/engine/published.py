"""The published versions an engine holds, as their commit rows state them."""

from __future__ import annotations

import json
from datetime import UTC

from syndb_common.engine.interface import Engine
from syndb_common.errors import UnknownName
from syndb_common.tables.model import DATABASE
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion

_SQL = f"""
SELECT toString(dataset_id) AS dataset_id, version, metadata, row_counts, content_hash, schema_version, published_at
FROM {DATABASE}.dataset_versions
ORDER BY dataset_id, version
"""  # noqa: S608 - our own name


async def versions(engine: Engine) -> list[PublishedVersion]:
    """All published versions, by data set and number; empty before the first migration."""
    try:
        answer = await engine.query(_SQL)
    except UnknownName:
        return []
    return [
        PublishedVersion(
            dataset_id=row["dataset_id"],
            version=row["version"],
            metadata=DatasetMetadata.model_validate(json.loads(row["metadata"])),
            row_counts=dict(row["row_counts"]),
            content_hash=row["content_hash"],
            schema_version=row["schema_version"],
            published_at=row["published_at"].astimezone(UTC),
        )
        for row in answer.table.to_pylist()
    ]
