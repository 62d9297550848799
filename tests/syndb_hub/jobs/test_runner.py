"""Jobs: how they end, what is kept of them, and what a restart does."""

from __future__ import annotations

import os
import sqlite3
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
import trio

from syndb_common.errors import (
    Conflict,
    DataError,
    EngineUnavailable,
    NotFound,
    PolicyRefused,
    TooManyRequests,
    Unavailable,
)
from syndb_common.syql.plan import Scope
from syndb_hub.ages import Ages
from syndb_hub.auth import TokenService
from syndb_hub.jobs import JobRunner, JobStatus
from syndb_hub.settings import JobSettings
from syndb_hub.store import Store
from syndb_hub.store.jobs import Job, Jobs

QUERY = "SELECT dataset, synapse_count FROM synapses SCOPE federation"


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def queries(make_queries):
    return make_queries()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def passed():
    """Seconds that went by."""
    return [0.0]


@pytest.fixture
def start(store, queries, tmp_path, nursery, clock, passed):
    async def started(settings: JobSettings | None = None, **options: int) -> JobRunner:
        ages = Ages(clock, clock=lambda: passed[0])
        objects = tmp_path / "objects"
        runner = JobRunner(store, queries, objects, settings or JobSettings(), now=clock, ages=ages, **options)
        await nursery.start(runner.run)
        return runner

    return started


async def ended(runner: JobRunner, job_id: UUID) -> Job:
    with trio.fail_after(20):
        return await runner.wait(job_id, 20)


async def test_a_job_completes_with_its_rows_and_where_they_came_from(start):
    runner = await start()
    submitted = await runner.submit(QUERY, owner="me", scope=Scope.FEDERATION, cluster_ids=[uuid4()], require="all")
    assert submitted.status is JobStatus.PENDING
    job = await ended(runner, submitted.id)
    assert (job.status, job.rows, job.error) == (JobStatus.COMPLETED, 13, None)
    assert job.provenance is not None
    assert [node.cluster for node in job.provenance.nodes] == ["worm-lab", "fly-lab", "mouse-lab"]
    assert (job.query, job.scope, job.require, job.cluster_ids) == (QUERY, "federation", "all", submitted.cluster_ids)
    _, path = await runner.result(job.id)
    assert pa.ipc.open_file(path).read_all().num_rows == 13


async def test_a_job_fails_with_the_error_of_its_query(start, queries):
    queries.error = PolicyRefused("The owner shares counts only.", hint="Ask for COUNT(*).", dataset="worm-a")
    runner = await start()
    job = await ended(runner, (await runner.submit(QUERY, owner="me")).id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.hint) == ("policy_refused", "Ask for COUNT(*).")
    assert job.error.details == {"dataset": "worm-a"}


async def test_an_unforeseen_error_fails_the_job_without_its_details_and_the_next_one_works(start, queries):
    runner = await start(JobSettings(max_workers=1))
    queries.error = RuntimeError("password=hunter2")
    job = await ended(runner, (await runner.submit(QUERY, owner="me")).id)
    assert job.error is not None
    assert job.error.code == "internal_error"
    assert "hunter2" not in job.error.model_dump_json()
    queries.error = None
    assert (await ended(runner, (await runner.submit(QUERY, owner="me")).id)).status is JobStatus.COMPLETED


async def test_no_more_jobs_run_at_once_than_there_are_workers(start, queries):
    queries.hold = trio.Event()
    runner = await start(JobSettings(max_workers=2))
    jobs = [await runner.submit(QUERY, owner="me") for _ in range(5)]
    await queries.until_running(2)
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert queries.running == 2
    queries.hold.set()
    assert {(await ended(runner, job.id)).status for job in jobs} == {JobStatus.COMPLETED}


async def test_a_full_line_refuses_another_job_and_takes_one_again_later(start, queries):
    queries.hold = trio.Event()
    runner = await start(JobSettings(max_workers=1), max_pending=2)
    first = await runner.submit(QUERY, owner="me")
    await queries.until_running(1)
    waiting = [await runner.submit(QUERY, owner="me") for _ in range(2)]
    with pytest.raises(TooManyRequests):
        await runner.submit(QUERY, owner="me")
    queries.hold.set()
    for job in (first, *waiting):
        await ended(runner, job.id)
    assert (await ended(runner, (await runner.submit(QUERY, owner="me")).id)).status is JobStatus.COMPLETED


async def test_one_token_cannot_fill_the_line_for_the_others(start, queries):
    queries.hold = trio.Event()
    runner = await start(JobSettings(max_workers=1), max_of_one_owner=3)
    mine = [await runner.submit(QUERY, owner="me") for _ in range(3)]
    with pytest.raises(TooManyRequests, match="3 jobs of yours"):
        await runner.submit(QUERY, owner="me")
    yours = await runner.submit(QUERY, owner="you")
    queries.hold.set()
    for job in (*mine, yours):
        assert (await ended(runner, job.id)).status is JobStatus.COMPLETED
    assert (await ended(runner, (await runner.submit(QUERY, owner="me")).id)).status is JobStatus.COMPLETED


async def test_a_running_job_is_cancelled_down_to_its_query(start, queries):
    queries.hold = trio.Event()
    runner = await start()
    job = await runner.submit(QUERY, owner="me")
    with trio.fail_after(20):
        await queries.until_running(1)
        cancelled = await runner.cancel(job.id)
    assert cancelled.status is JobStatus.CANCELLED
    assert cancelled.finished_at is not None
    assert queries.running == 0
    assert (await runner.cancel(job.id)).status is JobStatus.CANCELLED


async def test_the_jobs_of_a_token_that_is_revoked_are_cancelled_and_nobody_elses(start, queries, store):
    queries.hold = trio.Event()
    runner = await start(JobSettings(max_workers=2))
    tokens = TokenService(store)
    gone, stays = (await tokens.create("gone")).record.id, (await tokens.create("stays")).record.id
    running, other, waiting = [await runner.submit(QUERY, owner=owner) for owner in (gone, stays, gone)]
    await queries.until_running(2)
    await tokens.revoke("gone")
    for job in (running, waiting):
        assert (await ended(runner, job.id)).status is JobStatus.CANCELLED
    assert queries.running == 1
    queries.hold.set()
    assert (await ended(runner, other.id)).status is JobStatus.COMPLETED


async def test_a_waiting_job_is_cancelled_and_never_asked(start, queries):
    queries.hold = trio.Event()
    runner = await start(JobSettings(max_workers=1))
    first = await runner.submit(QUERY, owner="me")
    second = await runner.submit("SELECT synapse_count FROM synapses", owner="me")
    assert (await runner.cancel(second.id)).status is JobStatus.CANCELLED
    queries.hold.set()
    await ended(runner, first.id)
    third = await ended(runner, (await runner.submit(QUERY, owner="me")).id)
    assert third.status is JobStatus.COMPLETED
    assert queries.asked == [QUERY, QUERY]


async def test_a_completed_job_cannot_be_cancelled(start):
    runner = await start()
    job = await ended(runner, (await runner.submit(QUERY, owner="me")).id)
    with pytest.raises(Conflict, match="completed"):
        await runner.cancel(job.id)


async def test_a_job_is_nobody_elses(start):
    runner = await start()
    job = await runner.submit(QUERY, owner="me")
    await ended(runner, job.id)
    for call in (runner.get, runner.cancel, runner.result):
        with pytest.raises(NotFound):
            await call(job.id, owner="you")
    assert await runner.list(owner="you") == []
    assert [each.id for each in await runner.list(owner="me")] == [job.id]
    assert [each.id for each in await runner.list()] == [job.id]


async def test_a_job_without_a_result_has_none_to_give(start, queries):
    queries.error = EngineUnavailable("The engine stopped.")
    runner = await start()
    job = await ended(runner, (await runner.submit(QUERY, owner="me")).id)
    with pytest.raises(Conflict, match="failed"):
        await runner.result(job.id)
    with pytest.raises(NotFound):
        await runner.result(uuid4())


async def test_a_result_beyond_the_limit_fails_the_job_and_leaves_no_file(start, tmp_path):
    runner = await start(JobSettings(max_result_bytes=100))
    job = await ended(runner, (await runner.submit(QUERY, owner="me")).id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error.code == "limit_exceeded"
    assert list((tmp_path / "objects").iterdir()) == []


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.RUNNING])
async def test_a_restart_fails_what_had_not_ended_and_says_what_to_do(start, store, status):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    lost = Job(uuid4(), "me", JobStatus.PENDING, QUERY, None, None, "any", at)
    await Jobs(store).add(lost)
    if status is JobStatus.RUNNING:
        assert await Jobs(store).start(lost.id, at)
    runner = await start()
    job = await runner.get(lost.id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert "restarted" in job.error.error
    assert job.error.hint == "Run it again."


async def test_a_runner_that_was_stopped_can_run_again(store, queries, tmp_path):
    queries.hold = trio.Event()
    runner = JobRunner(store, queries, tmp_path / "objects", JobSettings(max_workers=1))
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run)
        jobs = [await runner.submit(QUERY, owner="me") for _ in range(2)]
        await queries.until_running(1)
        nursery.cancel_scope.cancel()
    queries.hold.set()
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run)
        for job in jobs:
            assert (await ended(runner, job.id)).status is JobStatus.FAILED
        again = await runner.submit(QUERY, owner="me")
        assert (await ended(runner, again.id)).status is JobStatus.COMPLETED
        assert queries.asked == [QUERY, QUERY]
        nursery.cancel_scope.cancel()


async def test_results_survive_a_restart_and_strange_files_do_not(queries, tmp_path):
    folder = tmp_path / "objects"
    store = await Store.open(tmp_path / "hub.sqlite")
    async with trio.open_nursery() as nursery:
        runner = JobRunner(store, queries, folder, JobSettings())
        await nursery.start(runner.run)
        job = await ended(runner, (await runner.submit(QUERY, owner="me")).id)
        nursery.cancel_scope.cancel()
    await store.close()
    (folder / f"{uuid4()}.arrow").write_bytes(b"of a job nobody knows")
    (folder / f"{uuid4()}.part").write_bytes(b"half")
    store = await Store.open(tmp_path / "hub.sqlite")
    async with trio.open_nursery() as nursery:
        runner = JobRunner(store, queries, folder, JobSettings())
        await nursery.start(runner.run)
        _, path = await runner.result(job.id)
        assert list(folder.iterdir()) == [path]
        nursery.cancel_scope.cancel()
    await store.close()


async def test_a_stopped_runner_takes_no_jobs(store, queries, tmp_path):
    runner = JobRunner(store, queries, tmp_path / "objects", JobSettings())
    with pytest.raises(Unavailable):
        await runner.submit(QUERY, owner="me")


async def test_an_expired_result_is_deleted_and_its_job_is_remembered(start, clock, passed, tmp_path):
    runner = await start(JobSettings(result_ttl_hours=1))
    job = await ended(runner, (await runner.submit(QUERY, owner="me")).id)
    passed[0] += 3600
    await runner.clean()
    await runner.result(job.id)
    passed[0] += 1
    await runner.clean()
    with pytest.raises(NotFound, match="not kept"):
        await runner.result(job.id)
    assert list((tmp_path / "objects").iterdir()) == []
    assert (await runner.get(job.id)).rows == 13
    clock.time += timedelta(days=31)
    await runner.clean()
    with pytest.raises(NotFound):
        await runner.get(job.id)


@pytest.mark.parametrize("step", [timedelta(days=20), timedelta(days=-20)], ids=["forward", "back"])
async def test_a_result_lives_as_long_wherever_the_machines_clock_is_set_to(start, clock, passed, step):
    runner = await start(JobSettings(result_ttl_hours=1))
    job = await ended(runner, (await runner.submit(QUERY, owner="me")).id)
    clock.time += step
    await runner.clean()
    await runner.result(job.id)
    passed[0] += 3601
    await runner.clean()
    with pytest.raises(NotFound, match="not kept"):
        await runner.result(job.id)


async def test_the_oldest_results_give_way_when_the_folder_is_full(start, clock, queries):
    queries.tables["synapses"] = queries.tables["synapses"].slice(0, 0)
    runner = await start(JobSettings())
    jobs = []
    for _ in range(25):
        jobs.append(await ended(runner, (await runner.submit(QUERY, owner="me")).id))
        clock.time += timedelta(seconds=1)
    sizes = {job.result.bytes for job in jobs if job.result}
    runner._settings = JobSettings(max_result_bytes=max(sizes))
    await runner.clean()
    kept = [(await runner.get(job.id)).result is not None for job in jobs]
    assert kept == [False] * 5 + [True] * 20


async def test_a_damaged_result_is_not_given_away_also_when_it_was_whole_before(start, tmp_path):
    runner = await start()
    job = await ended(runner, (await runner.submit(QUERY, owner="me")).id)
    _, path = await runner.result(job.id)
    whole = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(whole.st_atime_ns, whole.st_mtime_ns))
    with pytest.raises(DataError, match="checksum"):
        await runner.result(job.id)


async def test_a_disk_that_cannot_be_written_fails_the_job_clearly(start, tmp_path):
    runner = await start()
    folder = tmp_path / "objects"
    folder.rmdir()
    folder.write_text("a file where a folder was")
    job = await ended(runner, (await runner.submit(QUERY, owner="me")).id)
    assert job.error is not None
    assert job.error.code == "unavailable"
    folder.unlink()


async def test_a_job_that_ends_while_the_store_cannot_be_written_is_recorded_later(
    tmp_path, queries, nursery, monkeypatch
):
    monkeypatch.setattr("syndb_hub.store.database.BUSY_SECONDS", 0.05)
    monkeypatch.setattr("syndb_hub.jobs.runner.STORE_SECONDS", 0.05)
    store = await Store.open(tmp_path / "hub.sqlite")
    runner = JobRunner(store, queries, tmp_path / "objects", JobSettings())
    await nursery.start(runner.run)
    queries.hold = trio.Event()
    submitted = await runner.submit(QUERY, owner="me")
    await queries.until_running(1)
    other = sqlite3.connect(tmp_path / "hub.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    queries.hold.set()
    assert (await runner.wait(submitted.id, 0.5)).status is JobStatus.RUNNING
    other.execute("ROLLBACK")
    other.close()
    assert (await ended(runner, submitted.id)).status is JobStatus.COMPLETED
    nursery.cancel_scope.cancel()
    await store.close()
