"""From nothing to the first federated answer, and what the daemons weigh when they have nothing to do.

The same steps as the demonstration, with its code: fresh folders, a hub and three nodes, the password proved, the
schema sent, ten connectomes imported by the commands a user types, one question answered. Downloads do not count. The
warm start is the same daemons again over the folders they left.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from bench.result import Result, measured
from demo.__main__ import IMPORTERS, load_data, start
from demo.local import LocalFederation, local_federation
from demo.processes import command
from demo.processes import run as run_command
from demo.reference import Expected, read_all
from demo.tour import CHEMICAL, HOLDINGS, Tour

ROUNDS = 3
GOAL = 25.0
IDLE_SECONDS = 5.0
"""Between the last query and the look at memory."""
MB = 1024**2


def run(rounds: int = ROUNDS, sources: Path | None = None) -> list[Result]:
    """Median seconds of cold and warm starts and median memory; ``sources`` is a folder with the data files."""
    cold: list[float] = []
    warm: list[float] = []
    hub: list[dict[str, float]] = []
    node: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="syndb-bench-") as temporary:
        files = sources or _download(Path(temporary) / "sources")
        expected = read_all(files)
        for i in range(rounds):
            folder = Path(temporary) / f"{i}"
            with local_federation(folder, list(HOLDINGS)) as federation:
                cold.append(_first_answer(federation, expected, files))
                time.sleep(IDLE_SECONDS)
                hub.append(memory(_pid(federation, "hub")))
                node.extend(memory(_pid(federation, name)) for name in HOLDINGS)
            with local_federation(folder, list(HOLDINGS)) as federation:
                warm.append(_first_answer(federation, expected))
    return [
        measured("cold_start_seconds", statistics.median(cold), "s", rounds, goal=GOAL),
        measured("warm_start_seconds", statistics.median(warm), "s", rounds),
        *_memory_results("hub", hub),
        *_memory_results("node", node),
    ]


def _download(folder: Path) -> Path:
    for importer in IMPORTERS.values():
        run_command(command("syndb", "etl", importer, "download", "--output-dir", str(folder)))
    return folder


def _first_answer(federation: LocalFederation, expected: dict[str, Expected], sources: Path | None = None) -> float:
    """Seconds from the start of the first daemon to the first right answer; imports when there are ``sources``."""
    began = time.monotonic()
    tour = Tour(federation, expected)
    start(federation, multicast=False)
    if sources is not None:
        load_data(federation, sources)
    federation.wait_for(lambda: tour.healthy() == set(HOLDINGS), "the catalogue", seconds=60)
    answer = tour.syndb("syql", CHEMICAL)
    seconds = time.monotonic() - began
    if wrong := tour.check_counts(answer):
        raise RuntimeError(f"the answer is wrong: {wrong}")
    return seconds


def memory(pid: int) -> dict[str, float]:
    """Memory in MB of a daemon and the processes below it: ``Pss`` shares common pages, ``Rss`` counts them in each."""
    total = {"Pss": 0.0, "Rss": 0.0}
    for member in (pid, *_below(pid)):
        for line in _read(Path(f"/proc/{member}/smaps_rollup")).splitlines():
            name, _, value = line.partition(":")
            if name in total:
                total[name] += int(value.split()[0]) * 1024 / MB
    return total


def _memory_results(who: str, found: list[dict[str, float]]) -> Iterable[Result]:
    for kind, name in (("Pss", f"idle_memory_{who}_MB"), ("Rss", f"idle_memory_{who}_rss_MB")):
        yield measured(name, statistics.median(one[kind] for one in found), "MB", len(found))


def _pid(federation: LocalFederation, name: str) -> int:
    process = federation.daemons[name].process
    assert process is not None
    return process.pid


def _below(pid: int) -> Iterable[int]:
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in _read(Path(f"/proc/{pid}/task/{task}/children")).split():
            yield int(child)
            yield from _below(int(child))


def _read(path: Path) -> str:
    """What a file of ``/proc`` says; nothing when its process or thread has ended meanwhile."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
