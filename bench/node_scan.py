"""Rows of a query from the embedded engine through Flight to a client, against the engine's own Arrow stream.

Ours is an engine process as a node runs it: the query is started, offered by ticket, and read over TLS by the product's
client in this process, every batch checked. The reference reads the same rows of a table like it inside the process
that ClickHouse runs in. Both have their data from the same statement and take turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import trio

from bench.bare_engine import BareEngine, bare_engine
from bench.result import Result, compared
from syndb_common.engine.interface import Limits, Offer
from syndb_common.engine.local import LocalEngine
from syndb_common.flight.client import Reading
from syndb_common.flight.settings import FlightSettings

ROWS = 5_000_000
ROUNDS = 9
GOAL = 1.5
LIMITS = Limits(seconds=120.0)
DEFINITION = (
    "CREATE TABLE rows (pre_id UUID, post_id UUID, score Float64, region LowCardinality(String)) "
    "ENGINE = MergeTree ORDER BY pre_id"
)
FILL = (
    "INSERT INTO rows SELECT reinterpretAsUUID(sipHash128(number)), reinterpretAsUUID(sipHash128(number, 1)), "
    "intHash64(number) / 18446744073709551616, concat('region ', toString(intHash32(number) % 200)) "
    "FROM numbers({rows})"
)
SCAN = "SELECT pre_id, post_id, score, region FROM rows"


def run(rows: int = ROWS, rounds: int = ROUNDS) -> list[Result]:
    """Median seconds of a whole scan, ours and bare."""
    with tempfile.TemporaryDirectory(prefix="syndb-bench-") as temporary:
        folder = Path(temporary)
        with bare_engine(folder / "bare") as bare:
            ours, reference = trio.run(_measure, folder, bare, rows, rounds)
    middle = statistics.median(ours), statistics.median(reference)
    return [compared("node_scan_vs_engine", *middle, "s", rounds, goal=GOAL)]


async def _measure(folder: Path, bare: BareEngine, rows: int, rounds: int) -> tuple[list[float], list[float]]:
    ours, reference = [], []
    path = folder / "node"
    path.mkdir(mode=0o700)
    engine = LocalEngine(path, flight=FlightSettings("127.0.0.1", 0, folder / "flight"))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        for statement in (DEFINITION, FILL.format(rows=rows)):
            await engine.execute(statement)
            bare.run(statement)
        for _ in range(1 + rounds):
            began = time.perf_counter()
            await _scan(engine, rows)
            between = time.perf_counter()
            ours.append(between - began)
            reference.append(bare.scan(SCAN))
        nursery.cancel_scope.cancel()
    return ours[1:], reference[1:]


async def _scan(engine: LocalEngine, rows: int) -> None:
    offer = await engine.answer(SCAN, limits=LIMITS)
    if not isinstance(offer, Offer):
        raise TypeError("so few rows that they came inline")
    reading = Reading(offer, seconds=LIMITS.seconds, max_bytes=LIMITS.result_bytes)
    came = await trio.to_thread.run_sync(lambda: sum(batch.num_rows for batch in reading.batches()))
    if came != rows:
        raise RuntimeError(f"{came} of {rows} rows came")
