"""Rows instead of aggregates: one stream made of three nodes', and what a large result costs in memory.

A row query is asked by HTTP as a user does, and has ended when its result is stored at the hub. It takes turns with
bare readings, without hub and daemons: three engines with the same rows run the very statements of the nodes at the
same time, and each stream is read over TLS by the product's client, checked, and thrown away. The reference is the
slowest of the three, counted from their common start: all processes share this machine's cores in both cases. Memory
is the proportional set size (shared pages counted once) of a daemon with the engine processes below it, sampled while
the queries run, above what it was before the first. The rows are synthetic.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from bench.cold_start import memory
from bench.federated import fill
from bench.result import Result, compared, measured
from demo.local import LocalFederation, local_federation
from syndb_common.engine.interface import Limits, Offer
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.published import versions
from syndb_common.flight.client import Reading
from syndb_common.flight.settings import FlightSettings
from syndb_common.syql.clickhouse import to_clickhouse
from syndb_common.syql.parse import parse
from syndb_common.syql.planner import plan

ROWS = 5_000_000
LARGE_ROWS = 20_000_000
ROUNDS = 5
GOAL = 1.2
MEMORY_GOAL = 200.0
NODES = ("one", "two", "three")
LARGE = "large"
"""The data set of the large results; node one holds it beside its own."""
SAMPLE_SECONDS = 0.2
IDLE_SECONDS = 3.0
LIMIT_SECONDS = 600.0
LIMIT_BYTES = 4 * 1024**3
LIMITS = Limits(seconds=LIMIT_SECONDS)
COLUMNS = "SELECT pre_id, post_id, connection_score, brain_region FROM synapses"


def run(rows: int = ROWS, large_rows: int = LARGE_ROWS, rounds: int = ROUNDS) -> list[Result]:
    """Seconds of a union of ``rows`` rows, and MB of hub and node while ``rows`` and ``large_rows`` rows pass."""
    with tempfile.TemporaryDirectory(prefix="syndb-bench-") as temporary:
        folder = Path(temporary)
        share = rows // len(NODES)
        holdings = {name: {name: share} for name in NODES} | {NODES[0]: {NODES[0]: share, LARGE: large_rows}}
        bare = {name: folder / "bare" / name for name in NODES}
        trio.run(
            fill,
            {folder / name / "engine": held for name, held in holdings.items()}
            | {bare[name]: {name: share} for name in NODES},
        )
        with local_federation(
            folder,
            NODES,
            hub={"jobs": {"max_result_bytes": LIMIT_BYTES}},
            node={"limits": {"seconds": LIMIT_SECONDS}},
        ) as federation:
            _start(federation)
            _ask(federation, f"{COLUMNS} LIMIT 1000 SCOPE remote", 1000)
            time.sleep(IDLE_SECONDS)
            idle = _memory(federation)
            of_rows, of_large = (_weigh(federation, count, idle) for count in (rows, large_rows))
            whole, slowest = trio.run(_take_turns, federation, bare, share, rounds)
    results = [compared("federated_rows_vs_slowest_node", whole, slowest, "s", rounds, goal=GOAL)]
    for what, found in (("5M", of_rows), ("20M", of_large)):
        for who, weight in found.items():
            results.append(measured(f"{who}_memory_during_{what}_rows", weight, "MB", 1, goal=MEMORY_GOAL))
    return results


def _start(federation: LocalFederation) -> None:
    federation.start_hub()
    for name in NODES:
        federation.start_node(name)
    federation.wait_healthy(NODES)
    federation.wait_datasets({name: 2 if name == NODES[0] else 1 for name in NODES})


async def _take_turns(
    federation: LocalFederation, bare: Mapping[str, Path], share: int, rounds: int
) -> tuple[float, float]:
    """Median seconds of the union, and of the slowest of as many bare readings at once; ``share`` rows per node."""
    union = f"{COLUMNS} WHERE {_among(NODES)} SCOPE remote"
    ours, reference = [], []
    async with trio.open_nursery() as nursery:
        engines = {}
        for name, path in bare.items():
            engine = LocalEngine(path, flight=FlightSettings("127.0.0.1", 0, path / "flight"))
            await nursery.start(engine.run)
            query = parse(f"{COLUMNS} WHERE {_among([name])}")
            engines[engine] = to_clickhouse(plan(query, await versions(engine)), "node")
        for _ in range(1 + rounds):
            ours.append(await trio.to_thread.run_sync(_ask, federation, union, share * len(NODES)))
            began = time.perf_counter()
            async with trio.open_nursery() as reading:
                for engine, statement in engines.items():
                    reading.start_soon(_read, engine, statement, share)
            reference.append(time.perf_counter() - began)
        nursery.cancel_scope.cancel()
    return statistics.median(ours[1:]), statistics.median(reference[1:])


def _among(names: Sequence[str]) -> str:
    return f"dataset IN ({', '.join(repr(f'bench-{name}') for name in names)})"


async def _read(engine: LocalEngine, statement: str, rows: int) -> None:
    """Read what a statement returns, by Flight, and keep nothing."""
    offer = await engine.answer(statement, limits=LIMITS, inline_bytes=0)
    if not isinstance(offer, Offer):
        raise TypeError("so few rows that they came inline")
    reading = Reading(offer, seconds=LIMIT_SECONDS, max_bytes=LIMIT_BYTES)
    came = await trio.to_thread.run_sync(lambda: sum(batch.num_rows for batch in reading.batches()))
    if came != rows:
        raise RuntimeError(f"{came} of {rows} rows came")


def _ask(federation: LocalFederation, text: str, rows: int) -> float:
    """Seconds until the result is stored."""
    began = time.perf_counter()
    job: dict[str, Any] = federation.post("/v1/syql/exec", {"query": text, "wait": 50, "require": "all"})
    while job["status"] in ("pending", "running"):
        job = federation.get(f"/v1/jobs/{job['job_id']}", params={"wait": 50})
    seconds = time.perf_counter() - began
    if job["status"] != "completed" or job["rows"] != rows:
        raise RuntimeError(f"the query {job['status']} with {job['rows']} of {rows} rows: {job['error_message']}")
    return seconds


def _memory(federation: LocalFederation) -> dict[str, float]:
    """MB of the hub and of a node with their engine processes."""
    found = {}
    for who, name in (("hub", "hub"), ("node", NODES[0])):
        process = federation.daemons[name].process
        assert process is not None
        found[who] = memory(process.pid)["Pss"]
    return found


def _weigh(federation: LocalFederation, rows: int, idle: dict[str, float]) -> dict[str, float]:
    """MB above ``idle`` of the hub and of a node while so many rows of one data set pass through both."""
    with _peaks(federation) as peaks:
        _ask(federation, f"{COLUMNS} WHERE dataset = 'bench-{LARGE}' LIMIT {rows} SCOPE remote", rows)
    return {who: peak - idle[who] for who, peak in peaks.items()}


@contextmanager
def _peaks(federation: LocalFederation) -> Iterator[dict[str, float]]:
    """The most memory that was seen, in MB, complete at the end of the block."""
    peaks = _memory(federation)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            for who, megabytes in _memory(federation).items():
                peaks[who] = max(peaks[who], megabytes)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()
