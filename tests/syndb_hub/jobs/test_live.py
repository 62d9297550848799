"""Results that are read while they are written: no further ahead of their reader than a window."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio

from syndb_common.errors import Cancelled, TooManyRequests
from syndb_hub.jobs.live import Live
from syndb_hub.jobs.runner import MAX_LIVE_OF_ONE_OWNER, JobRunner
from syndb_hub.jobs.writing import ResultWriter
from syndb_hub.settings import JobSettings
from syndb_hub.store import Store

BATCH = pa.record_batch({"n": pa.array(range(100), pa.int64())})
WINDOW = 3 * BATCH.nbytes
LONG = 60.0
QUERY = "SELECT dataset, synapse_count FROM synapses SCOPE federation"


class Writing:
    """Parts that are written, each in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.live = Live(WINDOW)
        self.result = ResultWriter(
            folder / "result.part", max_bytes=10**8, limiter=trio.CapacityLimiter(1), live=self.live
        )
        self.result.open(BATCH.schema)
        self.written: list[int] = []
        self.failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()

    def add(self, part: int, batches: int, batch: pa.RecordBatch = BATCH) -> None:
        """Begin to write a batch so many times."""

        def write() -> None:
            try:
                for _ in range(batches):
                    self.result.add(part, batch)
                    with self._changed:
                        self.written.append(part)
                        self._changed.notify_all()
            except Cancelled as error:
                self.failures.append(error)

        self._threads.append(threading.Thread(target=write))
        self._threads[-1].start()

    def until(self, batches: int) -> None:
        """Wait until exactly so many are written, and whoever has more waits."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.written) >= batches, LONG)
        while not any(self.live.holds(part) for part in range(3)):
            assert any(thread.is_alive() for thread in self._threads)
        assert len(self.written) == batches

    def end(self) -> None:
        """Wait for the threads."""
        for thread in self._threads:
            thread.join(LONG)
            assert not thread.is_alive()


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Writing]:
    found = Writing(tmp_path)
    yield found
    found.result.abandon()
    found.end()


def test_nothing_is_written_before_the_reader_is_there_and_then_a_window_ahead_of_it(writing: Writing) -> None:
    writing.add(0, 10)
    writing.until(0)
    writing.live.take(0)
    writing.until(3)
    writing.live.take(1)
    writing.until(4)
    writing.live.take(6)
    writing.until(7)
    writing.live.end()
    writing.end()
    assert len(writing.written) == 10


def test_what_is_larger_than_the_window_is_written_when_all_before_it_was_taken(writing: Writing) -> None:
    writing.live.take(0)
    writing.add(0, 1)
    writing.end()
    writing.add(1, 1, pa.concat_batches([BATCH] * 4))
    writing.until(1)
    writing.live.take(1)
    writing.end()
    assert writing.written == [0, 1]


def test_parts_that_wait_are_let_on_in_turn(writing: Writing) -> None:
    for part in range(3):
        writing.add(part, 8)
        while not writing.live.holds(part):
            assert not writing.written
    for taken in range(3, 18):
        writing.live.take(max(0, taken - 3))
        writing.until(taken)
        while not all(writing.live.holds(part) for part in range(3)):
            assert not writing.failures
    assert all(abs(writing.written.count(part) - 5) <= 1 for part in range(3)), writing.written
    writing.live.end()
    writing.end()


def test_a_part_that_is_dropped_and_a_result_that_is_given_up_wait_for_nobody(writing: Writing) -> None:
    writing.live.take(0)
    writing.add(0, 4)
    writing.until(3)
    writing.add(1, 1)
    writing.result.drop(0)
    while not writing.failures:
        assert len(writing.written) == 3
    assert not writing.live.holds(0)
    writing.result.abandon()
    writing.end()
    assert len(writing.failures) == 2
    assert len(writing.written) == 3


async def test_jobs_whose_rows_are_taken_while_they_come_keep_no_worker_and_are_few(
    store: Store, make_queries: Any, nursery: trio.Nursery, tmp_path: Path
) -> None:
    queries = make_queries()
    queries.hold = trio.Event()
    runner = JobRunner(store, queries, tmp_path / "objects", JobSettings(max_workers=1))
    await nursery.start(runner.run)
    for _ in range(MAX_LIVE_OF_ONE_OWNER):
        await runner.submit(QUERY, owner="me", live=Live())
    await queries.until_running(MAX_LIVE_OF_ONE_OWNER)
    with pytest.raises(TooManyRequests, match="4 of them yours"):
        await runner.submit(QUERY, owner="me", live=Live())
    await runner.submit(QUERY, owner="me")
    await runner.submit(QUERY, owner="another", live=Live())
    await queries.until_running(MAX_LIVE_OF_ONE_OWNER + 2)
    assert runner.unfinished == {"pending": 0, "running": MAX_LIVE_OF_ONE_OWNER + 2}
    queries.hold.set()
    await queries.until_running(0)
