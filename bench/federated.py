"""One GROUP BY over three nodes against the same rows in one ClickHouse.

The rows are synthetic: a category with 200 values, a measurement that is sometimes missing. They are made by a
function of their number inside each engine, so that the three nodes and the one engine beside them hold the same.
Ours is what a user waits for: a question by HTTP to the hub, checked, planned, computed at the nodes, merged, stored,
and its rows fetched. The reference is the statement a person would write, sent to an engine process of its own.
All processes share this machine's cores, so three nodes are no faster than one: the ratio is the cost of federation.
"""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import trio

from bench.result import Result, compared
from demo.local import LocalFederation, local_federation
from syndb_common.engine.interface import Limits
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.records import COMMIT
from syndb_common.tables import schema
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.model import DATABASE
from syndb_common.tables.versions import DatasetMetadata

ROWS = 5_000_000
INSERT_ROWS = 500_000
ROUNDS = 15
WARM_UP = 2
GOAL = 1.5
NODES = ("one", "two", "three")
CATEGORIES = 200
TOLERANCE = 1e-9
LIMITS = Limits(seconds=300.0)
SYQL = (
    "SELECT brain_region, COUNT(*) AS n, AVG(connection_score) AS mean, VARIANCE(connection_score) AS spread "
    "FROM synapses GROUP BY brain_region SCOPE federation"
)

Rows = dict[str, tuple[int, float, float]]
"""Count, mean and variance by category."""


def run(rows: int = ROWS, rounds: int = ROUNDS) -> list[Result]:
    """Median seconds of the federated answer and of the plain statement, ``rows`` per node."""
    with tempfile.TemporaryDirectory(prefix="syndb-bench-") as temporary:
        folder = Path(temporary)
        alone = folder / "alone"
        trio.run(
            fill,
            {folder / name / "engine": {name: rows} for name in NODES} | {alone: dict.fromkeys(NODES, rows)},
        )
        with local_federation(folder, NODES) as federation:
            _start(federation)
            ours, reference = trio.run(_measure, federation, LocalEngine(alone), rounds)
    name = "federated_aggregate_vs_one_clickhouse"
    return [compared(name, statistics.median(ours), statistics.median(reference), "s", rounds, goal=GOAL)]


async def fill(engines: Mapping[Path, Mapping[str, int]]) -> None:
    """Fill the engine of each folder with data sets of so many rows, each published as ``bench-`` and its name.

    A row is a function of its number, and the numbers of a data set begin where those of the one before it end.
    """
    begins = _begins(engines)
    for folder, held in engines.items():
        folder.mkdir(mode=0o700, parents=True)
        engine = LocalEngine(folder)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            await schema.apply(engine, schema.migrations())
            for name, rows in held.items():
                await _publish(engine, name, begins[name], rows)
            await engine.execute(f"OPTIMIZE TABLE {DATABASE}.synapses FINAL")
            nursery.cancel_scope.cancel()


def _begins(engines: Mapping[Path, Mapping[str, int]]) -> dict[str, int]:
    """The first number of each data set."""
    sizes = {name: rows for held in engines.values() for name, rows in held.items()}
    return dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))


async def _publish(engine: LocalEngine, name: str, first: int, rows: int) -> None:
    """Rows and the row that commits them, as an upload leaves them."""
    key = dataset_id(f"bench-{name}")
    end = first + rows
    for begin in range(first, end, INSERT_ROWS):
        await engine.execute(
            f"INSERT INTO {DATABASE}.synapses (dataset_id, version, cid, source_id, pre_id, post_id, synapse_type, "
            f"synapse_count, brain_region, connection_score) SELECT toUUID('{key}'), 1, "
            "reinterpretAsUUID(sipHash128(number)), toString(number), reinterpretAsUUID(sipHash128(number % 20011)), "
            f"reinterpretAsUUID(sipHash128(number % 20021)), 'chemical', 1, "
            f"concat('region ', toString(intHash64(number) % {CATEGORIES})), "
            "if(number % 31 = 0, NULL, intHash64(number) % 7 + intHash32(number) / 4294967296) "
            f"FROM numbers({begin}, {min(INSERT_ROWS, end - begin)})"
        )
    commit = {
        "dataset_id": str(key),
        "version": 1,
        "metadata": DatasetMetadata(dataset=f"bench-{name}", title="synthetic rows").model_dump_json(),
        "row_counts": [("synapses", rows)],
        "content_hash": f"{first:064x}",
        "schema_version": schema.CURRENT,
        "published_at": datetime.now(UTC),
    }
    await engine.insert("dataset_versions", pa.Table.from_pylist([commit], schema=COMMIT))


def _start(federation: LocalFederation) -> None:
    federation.start_hub()
    for name in NODES:
        federation.start_node(name)
    federation.wait_healthy(NODES)
    federation.wait_datasets(dict.fromkeys(NODES, 1))


async def _measure(federation: LocalFederation, engine: LocalEngine, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of both, turn by turn, after their answers were found equal."""
    ours, reference = [], []
    headers = {"Authorization": f"Bearer {federation.token}"}
    async with (
        httpx.AsyncClient(base_url=federation.url, headers=headers, timeout=LIMITS.seconds) as client,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(engine.run)
        compare(await _ask_federation(client), await _ask_alone(engine))
        for _ in range(WARM_UP + rounds):
            started = time.perf_counter()
            await _ask_federation(client)
            between = time.perf_counter()
            await _ask_alone(engine)
            reference.append(time.perf_counter() - between)
            ours.append(between - started)
        nursery.cancel_scope.cancel()
    return ours[WARM_UP:], reference[WARM_UP:]


async def _ask_federation(client: httpx.AsyncClient) -> Rows:
    job = await _json(await client.post("/v1/syql/exec", json={"query": SYQL, "wait": 50, "require": "all"}))
    if job["status"] != "completed":
        raise RuntimeError(f"the query {job['status']}: {job['error_message']}")
    answer = await _json(await client.get(f"/v1/jobs/{job['job_id']}/result", params={"format": "json"}))
    return {row[0]: (row[1], row[2], row[3]) for row in answer["rows"]}


async def _json(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise RuntimeError(f"{response.status_code} {response.text}")
    content: dict[str, Any] = response.json()
    return content


async def _ask_alone(engine: LocalEngine) -> Rows:
    keys = ", ".join(f"'{dataset_id(f'bench-{name}')}'" for name in NODES)
    answer = await engine.query(
        "SELECT brain_region, count() AS n, avg(connection_score) AS mean, varSampStable(connection_score) AS spread "
        f"FROM {DATABASE}.synapses WHERE dataset_id IN ({keys}) AND version = 1 GROUP BY brain_region",
        limits=LIMITS,
    )
    return {row["brain_region"]: (row["n"], row["mean"], row["spread"]) for row in answer.table.to_pylist()}


def compare(ours: Rows, reference: Rows) -> None:
    """Raise when the answers differ: a wrong answer has no speed."""
    counts = {key: row[0] for key, row in ours.items()}
    if counts != {key: row[0] for key, row in reference.items()}:
        raise RuntimeError("the counts differ")
    for key, row in ours.items():
        if not all(math.isclose(a, b, rel_tol=TOLERANCE) for a, b in zip(row[1:], reference[key][1:], strict=True)):
            raise RuntimeError(f"{key}: {row} and {reference[key]} differ")
