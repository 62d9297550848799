"""Rows instead of aggregates: one stream made of three nodes', and what a large result costs in memory.

A row query is asked by HTTP as a user does, and has ended when its result is stored at the hub. Its seconds stand
against those of the node that took longest in the same run, as the answer itself states them: all processes share this
machine's cores. Memory is the proportional set size (shared pages counted once) of a daemon with the engine processes
below it, sampled while the queries run, above what it was before the first. The rows are synthetic.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from bench.cold_start import memory
from bench.federated import fill
from bench.result import Result, compared, measured
from demo.local import LocalFederation, local_federation

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
COLUMNS = "SELECT pre_id, post_id, connection_score, brain_region FROM synapses"


def run(rows: int = ROWS, large_rows: int = LARGE_ROWS, rounds: int = ROUNDS) -> list[Result]:
    """Seconds of a union of ``rows`` rows, and MB of hub and node while ``rows`` and ``large_rows`` rows pass."""
    with tempfile.TemporaryDirectory(prefix="syndb-bench-") as temporary:
        folder = Path(temporary)
        share = rows // len(NODES)
        holdings = {name: {name: share} for name in NODES} | {NODES[0]: {NODES[0]: share, LARGE: large_rows}}
        trio.run(fill, {folder / name / "engine": held for name, held in holdings.items()})
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
            names = ", ".join(f"'bench-{name}'" for name in NODES)
            union = f"{COLUMNS} WHERE dataset IN ({names}) SCOPE remote"
            runs = [_ask(federation, union, share * len(NODES)) for _ in range(1 + rounds)][1:]
    whole, slowest = (statistics.median(each) for each in zip(*runs, strict=True))
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


def _ask(federation: LocalFederation, text: str, rows: int) -> tuple[float, float]:
    """Seconds until the result is stored, and those of the slowest node."""
    began = time.perf_counter()
    job: dict[str, Any] = federation.post("/v1/syql/exec", {"query": text, "wait": 50, "require": "all"})
    while job["status"] in ("pending", "running"):
        job = federation.get(f"/v1/jobs/{job['job_id']}", params={"wait": 50})
    seconds = time.perf_counter() - began
    if job["status"] != "completed" or job["rows"] != rows:
        raise RuntimeError(f"the query {job['status']} with {job['rows']} of {rows} rows: {job['error_message']}")
    return seconds, max(node["seconds"] for node in job["provenance"]["nodes"])


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
