"""Nodes come, die and return while questions are asked: hub and surviving nodes stay as large as they were.

``SOAK_SECONDS`` says for how long, a minute by default; ``make soak`` takes an hour. The first part of the time warms
caches and allocators; the part after it is compared with the last one, by medians, so that the bounds hold for any
length: what leaks, leaks in an hour.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from bench.cold_start import memory
from demo.local import LocalFederation, local_federation
from demo.processes import free_ports
from tests.federation.processes import eventually

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
WARM_UP, COMPARED = 0.4, 0.2
"""Shares of the time: before the first comparison, and of each of the two parts that are compared."""
SAMPLE_SECONDS = 1.0

GROWTH_MB = 24.0
"""Of a daemon with its engines, proportional set size. ClickHouse keeps some caches of its own choosing."""
GROWTH_DESCRIPTORS = 12
"""Streams, connections and files in use differ from moment to moment by some; a leak per visit is more."""
GROWTH_TASKS = 24
"""Tasks that answer requests come and go; a leak per visit is more."""

SURVIVORS, VISITORS = ("north", "south"), ("east", "west")
STAYING = ("hub", *SURVIVORS)
QUERIES = (
    "SELECT dataset, COUNT(*), AVG(synapse_count) FROM synapses GROUP BY dataset SCOPE federation",
    "SELECT cid, pre_id, post_id, synapse_count FROM synapses SCOPE federation",
    "SELECT no_such_column FROM synapses SCOPE federation",
)

pytestmark = [pytest.mark.largest, pytest.mark.timeout(SECONDS + 240)]


@dataclass(frozen=True)
class Size:
    """How large a daemon is."""

    megabytes: float
    descriptors: int
    tasks: int


class Soak:
    """What goes on at the same time, and what was counted of it."""

    def __init__(self, federation: LocalFederation, metrics: dict[str, str]) -> None:
        self.federation = federation
        self.sizes: dict[str, list[tuple[float, Size]]] = {name: [] for name in STAYING}
        self.answered = self.returned = 0
        self.failures: list[BaseException] = []
        self._metrics = metrics
        headers = {"Authorization": f"Bearer {federation.token}"}
        # One client, as a program has: the hub keeps every connection for a while that a client has left.
        self._http = httpx.Client(base_url=federation.url, headers=headers, timeout=60)
        self._over = threading.Event()

    def run(self) -> None:
        """All of it, for as long as was asked."""
        threads = [threading.Thread(target=self._repeat, args=(loop,)) for loop in (self._ask, self._measure)]
        end = threading.Timer(SECONDS, self._over.set)
        for thread in (*threads, end):
            thread.start()
        # In this thread: a daemon ends with the thread that started it.
        self._repeat(self._visit)
        end.cancel()
        for thread in threads:
            thread.join()
        self._http.close()

    def _repeat(self, loop: Callable[[], None]) -> None:
        try:
            while not self._over.is_set():
                loop()
        except BaseException as error:
            self.failures.append(error)
            self._over.set()

    def _ask(self) -> None:
        answer = self._http.post("/v1/syql/exec", json={"query": random.choice(QUERIES), "wait": 50}).json()
        if "code" in answer:
            assert answer["code"] == "syql_unknown_name", answer
        elif answer["status"] == "completed":
            result = self._http.get(f"/v1/jobs/{answer['job_id']}/result", params={"format": "json"})
            self.answered += result.is_success and answer["provenance"]["complete"]
        self._over.wait(0.2)

    def _visit(self) -> None:
        """A node dies, or stands still for a while, or ends in order, and returns."""
        name = random.choice(VISITORS)
        daemon = self.federation.daemons[name]
        assert daemon.process is not None
        how = random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP))
        daemon.process.send_signal(how)
        if how is signal.SIGSTOP:
            self._over.wait(10)
            daemon.process.send_signal(signal.SIGCONT)
        else:
            daemon.process.wait(30)
            self.federation.start_node(name)
        # One that comes and goes so often is held back as degraded, on purpose.
        left_alone = self._over.wait(3)
        while not left_alone and self._health(name) not in ("healthy", "degraded"):
            left_alone = self._over.wait(0.5)
        self.returned += not left_alone

    def _health(self, name: str) -> str:
        nodes = self._http.get("/v1/federation/clusters").json()
        return next(str(node["health"]) for node in nodes if node["name"] == name)

    def _measure(self) -> None:
        for name in STAYING:
            self.sizes[name].append((time.monotonic(), self._size(name)))
        self._over.wait(SAMPLE_SECONDS)

    def _size(self, name: str) -> Size:
        process = self.federation.daemons[name].process
        assert process is not None
        metrics = self._http.get(self._metrics[name]).text
        tasks = next(line for line in metrics.splitlines() if line.startswith("syndb_tasks "))
        return Size(
            megabytes=memory(process.pid)["Pss"],
            descriptors=len(os.listdir(f"/proc/{process.pid}/fd")),
            tasks=int(float(tasks.split()[1])),
        )


def growth(sizes: list[tuple[float, Size]]) -> Size:
    """The medians of the last part less those of the part after the warm-up."""
    began, ended = sizes[0][0], sizes[-1][0]

    def part(start: float) -> Size:
        low, high = (began + (ended - began) * share for share in (start, start + COMPARED))
        found = [size for at, size in sizes if low <= at <= high]
        middle = statistics.median_low
        return Size(
            middle(s.megabytes for s in found), middle(s.descriptors for s in found), middle(s.tasks for s in found)
        )

    first, last = part(WARM_UP), part(1.0 - COMPARED)
    return Size(last.megabytes - first.megabytes, last.descriptors - first.descriptors, last.tasks - first.tasks)


def test_joins_kills_and_queries_let_nothing_grow(tmp_path: Path, real_files: Path) -> None:
    nodes = (*SURVIVORS, *VISITORS)
    ports = iter(free_ports(1 + 3 * len(nodes)))
    metrics = {name: f"127.0.0.1:{next(ports)}" for name in STAYING}
    with local_federation(tmp_path, nodes, hub={"metrics": {"listen": metrics["hub"]}}) as federation:
        for name in SURVIVORS:
            federation.write_node(name, next(ports), next(ports), {"metrics": {"listen": metrics[name]}})
        federation.start_hub()
        for name in nodes:
            federation.start_node(name)
        federation.wait_healthy(nodes, seconds=90)
        for stage, name in enumerate(nodes, 1):
            federation.import_data(name, "c-elegans-dev", real_files, "--stage", str(stage))
        federation.wait_datasets(dict.fromkeys(nodes, 1))
        soak = Soak(federation, {name: f"http://{address}/metrics" for name, address in metrics.items()})
        soak.run()
        for name, sizes in soak.sizes.items():
            print(name, sizes[0][1], sizes[len(sizes) // 2][1], sizes[-1][1])
        if soak.failures:
            raise soak.failures[0]
        assert soak.answered > 0
        assert soak.returned > 0
        for name, sizes in soak.sizes.items():
            grown = growth(sizes)
            said = f"{name} grew by {grown}; whole answers: {soak.answered}, returns: {soak.returned}"
            assert grown.megabytes <= GROWTH_MB, said
            assert grown.descriptors <= GROWTH_DESCRIPTORS, said
            assert grown.tasks <= GROWTH_TASKS, said
        assert eventually(lambda: set(federation.health().values()) <= {"healthy", "degraded"}, seconds=60)
