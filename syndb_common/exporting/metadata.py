"""What stands beside the rows of a version: what they are, their units and licence, and how to cite them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from syndb_common.exporting.files import Saved
from syndb_common.tables.model import TABLES
from syndb_common.tables.versions import PublishedVersion

METADATA_FILE = "metadata.json"


def metadata(version: PublishedVersion, announced_by: str, files: Mapping[str, tuple[str, Saved]]) -> bytes:
    """The metadata of a version as JSON.

    Args:
        version: as it was announced.
        announced_by: name of its holder, whose word rows and content hash are.
        files: the files of rows by name, each with its table.
    """
    described = version.metadata.model_dump()
    tables = [table for table, _ in files.values()]
    document = {
        "dataset": described.pop("dataset"),
        "dataset_id": str(version.dataset_id),
        "version": version.version,
        "published_at": version.published_at.isoformat(),
        "licence": described.pop("licence"),
        "citation": citation(version),
        "content_hash": version.content_hash,
        "announced_by": announced_by,
        "schema_version": version.schema_version,
        **described,
        "files": [
            {"name": name, "table": table, "rows": saved.rows, "bytes": saved.bytes, "sha256": saved.sha256}
            for name, (table, saved) in files.items()
        ],
        "columns": {table: _columns(table) for table in tables},
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def citation(version: PublishedVersion) -> str:
    """How to cite a version: title, number, year, identifiers."""
    described = version.metadata
    parts = [
        f"{described.title or described.dataset}, version {version.version} ({version.published_at.year})",
        f"data set {version.dataset_id}",
        f"content SHA-256 {version.content_hash}",
    ]
    if described.publication:
        parts.append(described.publication)
    return "; ".join(parts) + "."


def _columns(table: str) -> dict[str, dict[str, str]]:
    return {column.name: {"unit": column.unit, "description": column.description} for column in TABLES[table].columns}
