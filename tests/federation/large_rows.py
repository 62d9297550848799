"""Nodes with millions of rows, whose transfers last long enough to be looked at and disturbed.

The rows are made inside the engine, and are as wide on the wire as rows of a connectome: two ids, a number, a word.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import trio

from syndb_common.engine.checks import content_hash
from syndb_common.engine.interface import Limits
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.records import COMMIT
from syndb_common.tables import schema
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.model import DATABASE
from syndb_common.tables.versions import DatasetMetadata

ROWS_AT_ONCE = 1_000_000
LIMITS = Limits(seconds=600.0)


def fill(folder: Path, name: str, rows: int) -> None:
    """Publish so many synapses as version 1 of a data set in the engine of a node that does not run."""
    folder.mkdir(mode=0o700, parents=True)
    trio.run(_fill, folder, name, rows)


async def _fill(folder: Path, name: str, rows: int) -> None:
    key = dataset_id(name)
    engine = LocalEngine(folder)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await schema.apply(engine, schema.migrations())
        for first in range(0, rows, ROWS_AT_ONCE):
            await engine.execute(
                f"INSERT INTO {DATABASE}.synapses (dataset_id, version, cid, source_id, pre_id, post_id, "
                "synapse_type, synapse_count, brain_region) "
                f"SELECT toUUID('{key}'), 1, reinterpretAsUUID(toUInt128(number)), '', toUUID('{key}'), "
                f"toUUID('{key}'), 'chemical', number % 1000, 'mushroom body' "
                f"FROM numbers({first}, {min(ROWS_AT_ONCE, rows - first)})"
            )
        commit = {
            "dataset_id": str(key),
            "version": 1,
            "metadata": DatasetMetadata(dataset=name).model_dump_json(),
            "row_counts": [("synapses", rows)],
            "content_hash": await _hash(engine, name),
            "schema_version": schema.CURRENT,
            "published_at": datetime.now(UTC),
        }
        await engine.insert("dataset_versions", pa.Table.from_pylist([commit], schema=COMMIT))
        nursery.cancel_scope.cancel()


def hash_of(folder: Path, name: str) -> str:
    """Content hash of version 1 as its rows are now; the node does not run."""

    async def compute() -> str:
        engine = LocalEngine(folder)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            found = await _hash(engine, name)
            nursery.cancel_scope.cancel()
        return found

    return trio.run(compute)


async def _hash(engine: LocalEngine, name: str) -> str:
    class Reader:
        """What hashing needs of an engine, from a thread."""

        def read_all(self, sql: str) -> pa.Table:
            return trio.from_thread.run(partial(engine.query, sql, limits=LIMITS)).table

    reader: Any = Reader()
    place = f"(SELECT * FROM {DATABASE}.synapses WHERE dataset_id = '{dataset_id(name)}' AND version = 1)"
    return await trio.to_thread.run_sync(content_hash, reader, {"synapses": place})
