"""Ids of rows are those of Python; the content hash depends on what was sent and on nothing of how."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syndb_common.engine.checks import ROW_ID
from syndb_common.engine.local import LocalEngine
from syndb_common.flight.uploads import Publish, PublishResult, Put
from syndb_common.tables.identity import dataset_id, row_id
from syndb_common.tables.model import TABLES
from syndb_common.tables.versions import DatasetMetadata
from tests.syndb_common.flight.uploading import RawClient, target_of

pytestmark = pytest.mark.slow

SCHEMA = pa.schema(
    [
        ("source_id", pa.string()),
        ("name", pa.string()),
        ("side", pa.string()),
        ("soma_x", pa.float64()),
        ("branch_count", pa.uint32()),
        ("is_tree", pa.uint8()),
    ]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
ROW = st.fixed_dictionaries(
    {
        "source_id": TEXT.filter(bool),
        "name": TEXT,
        "side": TEXT,
        "soma_x": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "branch_count": st.none() | st.integers(0, 2**32 - 1),
        "is_tree": st.none() | st.integers(0, 1),
    }
)
ROWS = st.lists(ROW, min_size=1, max_size=6, unique_by=lambda row: row["source_id"])
FEW = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))


def _publish(client: RawClient, name: str, rows: list[dict[str, Any]], chance: random.Random) -> str:
    """Publish rows in any order, in batches of any size and streams of any number; their content hash."""
    shuffled = chance.sample(rows, len(rows))
    streams: dict[UUID, list[tuple[int, pa.Table]]] = {uuid4(): [] for _ in range(chance.randint(1, 3))}
    while shuffled:
        size = chance.randint(1, len(shuffled))
        batches = chance.choice(list(streams.values()))
        batches.append((len(batches), pa.Table.from_pylist(shuffled[:size], SCHEMA)))
        shuffled = shuffled[size:]
    upload_id = client.begin("neurons", metadata=DatasetMetadata(dataset=name))
    for stream, batches in streams.items():
        if batches:
            client.put(Put(upload_id=upload_id, table="neurons", stream=stream), batches)
    return PublishResult.model_validate_json(client.act(Publish(upload_id=upload_id))).content_hash


def _changed(row: dict[str, Any], column: str) -> dict[str, Any]:
    value = row[column]
    if SCHEMA.field(column).type == pa.string():
        return {**row, column: f"{value}x"}
    return {**row, column: 1 if value != 1 else None}


async def _defined(engine: LocalEngine, dataset: UUID, count: int) -> str:
    """The hash of a version 1 of some neurons, word for word as it is defined."""
    columns = ", ".join(column.name for column in TABLES["neurons"].columns if column.name != "version")
    digest = f"sum(reinterpretAsUInt128(sipHash128(formatRow('RowBinary', {columns}))))"
    mine = f"dataset_id = toUUID('{dataset}') AND version = 1"
    answer = await engine.query(f"SELECT hex({digest}) AS d FROM syndb.neurons WHERE {mine}")
    return hashlib.sha256(json.dumps({"neurons": [count, answer.table["d"][0].as_py()]}).encode()).hexdigest()


async def test_the_content_hash_is_that_of_the_rows_however_they_came(engine: LocalEngine) -> None:
    with RawClient(target_of(engine)) as client:

        @FEW
        @given(ROWS, st.randoms(use_true_random=False), st.sampled_from(SCHEMA.names))
        def holds(rows: list[dict[str, Any]], chance: random.Random, column: str) -> None:
            name = f"d{uuid4().hex}"
            content = _publish(client, name, rows, chance)
            assert content == trio.from_thread.run(_defined, engine, dataset_id(name), len(rows))
            assert _publish(client, name, rows, chance) == content
            assert _publish(client, name, [_changed(rows[0], column), *rows[1:]], chance) != content
            assert _publish(client, name, [*rows, {**rows[0], "source_id": "one more row"}], chance) != content

        await trio.to_thread.run_sync(holds)


async def test_ids_of_rows_are_those_that_python_makes(engine: LocalEngine) -> None:
    def ids_of(dataset: UUID, table: str, texts: list[str]) -> list[UUID]:
        values = ", ".join(f"unhex('{text.encode().hex()}')" for text in texts)
        row = ROW_ID.format(namespace=dataset.hex, table=table)
        sql = f"SELECT toString({row}) AS id FROM (SELECT arrayJoin([{values}]) AS source_id)"
        answer = trio.from_thread.run(engine.query, sql)
        return [UUID(text) for text in answer.table["id"].to_pylist()]

    @FEW
    @given(TEXT, st.sampled_from(["neurons", "synapses"]), st.lists(TEXT, min_size=1, max_size=50))
    def holds(name: str, table: str, texts: list[str]) -> None:
        dataset = dataset_id(name)
        assert ids_of(dataset, table, texts) == [row_id(dataset, table, text) for text in texts]

    await trio.to_thread.run_sync(holds)
