"""A node's part and the hub's answer, through the real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pyarrow as pa
import pytest
import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.syql import Plan, conform, needs_care, partial_schema, to_clickhouse
from syndb_common.tables.identity import dataset_id, row_id
from syndb_common.tables.schema import apply, migrations

MALE = dataset_id("cook-2019-male")


@pytest.fixture
async def engine(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[LocalEngine]:
    running = LocalEngine(tmp_path)
    await nursery.start(running.run)
    await apply(running, migrations())
    yield running
    nursery.cancel_scope.cancel()


def neurons(volumes: list[float]) -> pa.Table:
    """Neurons of version 2 of the male, in two classes that lie 1e9 apart."""
    ids = [row_id(MALE, "neurons", str(i)).bytes for i in range(len(volumes))]
    return pa.table(
        {
            "dataset_id": pa.array([MALE.bytes] * len(volumes), pa.uuid()),
            "version": pa.array([2] * len(volumes), pa.uint32()),
            "cid": pa.array(ids, pa.uuid()),
            "source_id": pa.array([str(i) for i in range(len(volumes))]),
            "cell_class": pa.array(["far" if volume > 1e6 else "near" for volume in volumes]),
            "mesh_volume": pa.array(volumes, pa.float64()),
        }
    )


async def test_a_part_that_lost_digits_is_computed_again(engine: LocalEngine, planned: Callable[[str], Plan]) -> None:
    await engine.insert("neurons", neurons([0.0, 1.0, 2.0, 1e9, 1e9 + 1, 1e9 + 2]))
    asked = planned(
        "SELECT cell_class, VAR_POP(mesh_volume) AS v, SUM(branch_count) AS b FROM neurons GROUP BY 1 ORDER BY 1"
    )
    expected = partial_schema(asked)
    first = await engine.query(to_clickhouse(asked, "node"))
    assert needs_care(conform(expected, first.table))
    again = await engine.query(to_clickhouse(asked.model_copy(update={"careful": True}), "node"))
    part = conform(expected, again.table)
    assert not needs_care(part)
    both = pa.concat_tables([part, part, expected.empty_table()])
    merged = await engine.merge(to_clickhouse(asked, "hub"), both)
    assert [(row["cell_class"], row["b"]) for row in merged.table.to_pylist()] == [("far", None), ("near", None)]
    assert merged.table.column("v").to_pylist() == pytest.approx([2 / 3, 2 / 3], rel=1e-12)
