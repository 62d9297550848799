"""What the tests of a node's actors share."""

from __future__ import annotations

import base64
import json
from typing import Any

import pyarrow as pa
import trio

from syndb_common.engine.interface import Answer, Scan
from syndb_common.tables.versions import PublishedVersion
from tests.actors.federation_parts import published


def derived(secret: str) -> bytes:
    """The key of a generated secret."""
    return base64.urlsafe_b64decode(secret.removeprefix("syndb1_") + "=")


class Commits:
    """An engine that holds nothing but commit rows, and counts how often they are read."""

    def __init__(self, *versions: PublishedVersion) -> None:
        self.publications = 0
        self.ready = True
        self.reads = 0
        self._rows = [_row(version) for version in versions]
        self._published = trio.Event()

    def publish(self, name: str, *, heard: bool = True) -> None:
        """Publish a data set; ``heard`` as an upload does, else as a restored backup would."""
        self._rows.append(_row(published(name)))
        if heard:
            self.publications += 1
            self._published.set()
            self._published = trio.Event()

    async def wait_published(self, seen: int) -> int:
        while self.publications == seen:
            await self._published.wait()
        return self.publications

    async def query(self, sql: str, **options: Any) -> Answer:
        await trio.lowlevel.checkpoint()
        if "dataset_versions" in sql:
            self.reads += 1
            return Answer(pa.Table.from_pylist(self._rows, _SCHEMA), Scan())
        return Answer(pa.table({"version": [1]}), Scan())


_SCHEMA = pa.schema(
    {
        "dataset_id": pa.string(),
        "version": pa.uint32(),
        "metadata": pa.string(),
        "row_counts": pa.map_(pa.string(), pa.uint64()),
        "content_hash": pa.string(),
        "schema_version": pa.uint32(),
        "published_at": pa.timestamp("ms", "UTC"),
    }
)


def _row(version: PublishedVersion) -> dict[str, Any]:
    return {
        "dataset_id": str(version.dataset_id),
        "version": version.version,
        "metadata": json.dumps(version.metadata.model_dump()),
        "row_counts": list(version.row_counts.items()),
        "content_hash": version.content_hash,
        "schema_version": version.schema_version,
        "published_at": version.published_at,
    }
