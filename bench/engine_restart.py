"""How long the rows are away when the engine process is killed: from SIGKILL to the first answer of its successor.

The engine is supervised as in a node, holds rows, and the question counts them in one data set: it cannot be
answered before the new process has taken the lock, opened its tables and dropped what was left half done.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

import trio

from actors.runtime import ChildSpec, Intensity, Supervisor, run_tree
from actors.service import Service
from bench.result import Result, measured
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import EngineUnavailable
from syndb_common.flight.settings import FlightSettings
from syndb_common.tables import schema
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.model import DATABASE

ROWS = 1_000_000
ROUNDS = 7
GOAL = 1.5
SETTLE_SECONDS = 1.0
"""An engine that answers runs for a while before it dies, as in life."""
LIMIT_SECONDS = 60.0
DATASET = dataset_id("bench-restart")
FILL = (
    f"INSERT INTO {DATABASE}.neurons (dataset_id, version, cid, source_id) "
    f"SELECT toUUID('{DATASET}'), 1, reinterpretAsUUID(sipHash128(number)), toString(number) FROM numbers({{rows}})"
)
COMMIT = (
    f"INSERT INTO {DATABASE}.dataset_versions (dataset_id, version, metadata, row_counts, content_hash, "
    f"schema_version, published_at) SELECT toUUID('{DATASET}'), 1, '{{}}', map(), repeat('0', 64), "
    f"{schema.CURRENT}, now64()"
)
QUESTION = f"SELECT count() AS n FROM {DATABASE}.neurons WHERE dataset_id = '{DATASET}' AND version = 1"


def run(rows: int = ROWS, rounds: int = ROUNDS) -> list[Result]:
    """Median seconds from SIGKILL to the first answer."""
    with tempfile.TemporaryDirectory(prefix="syndb-bench-") as temporary:
        times = trio.run(_measure, Path(temporary), rows, rounds)
    return [measured("engine_restart_seconds", statistics.median(times), "s", rounds, goal=GOAL)]


async def _measure(folder: Path, rows: int, rounds: int) -> list[float]:
    times = []
    path = folder / "engine"
    path.mkdir(mode=0o700)
    engine = LocalEngine(path, flight=FlightSettings("127.0.0.1", 0, folder / "flight"))
    each = Intensity(within=SETTLE_SECONDS / 2)  # every death is the first of its kind: no pause grows
    tree = Supervisor("bench", [ChildSpec("engine", lambda: Service(engine.run))], intensity=each)
    async with trio.open_nursery() as nursery:
        await nursery.start(run_tree, tree)
        await schema.apply(engine, schema.migrations())
        for statement in (FILL.format(rows=rows), COMMIT):
            await engine.execute(statement)
        for _ in range(rounds):
            await trio.sleep(SETTLE_SECONDS)
            assert engine.pid is not None
            began = time.perf_counter()
            os.kill(engine.pid, signal.SIGKILL)
            if (found := await _answer(engine)) != rows:
                raise RuntimeError(f"{found} of {rows} rows are left")
            times.append(time.perf_counter() - began)
        nursery.cancel_scope.cancel()
    return times


async def _answer(engine: LocalEngine) -> int:
    """Ask until there is an answer: a call that the dead engine had taken fails."""
    with trio.fail_after(LIMIT_SECONDS):
        while True:
            try:
                return int((await engine.query(QUESTION)).table["n"][0].as_py())
            except EngineUnavailable:
                await trio.sleep(0.005)
