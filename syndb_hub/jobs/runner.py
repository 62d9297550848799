"""The job queue: submitted questions wait in line, a few workers answer them, results are kept for a while.

=========  ============================================================================
status     meaning
=========  ============================================================================
pending    waits for a worker
running    a worker is on it
completed  the result can be downloaded until it expires
failed     ``error`` says why; a restart of the hub fails whatever had not ended
cancelled  stopped by its owner, or because the token was revoked that it was submitted with
=========  ============================================================================
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ParamSpec
from uuid import UUID, uuid4

import structlog
import trio

from syndb_common import tracing
from syndb_common.errors import Conflict, ErrorBody, NotFound, SynDBError, TooManyRequests, Unavailable
from syndb_common.exporting import ExportFormat
from syndb_common.syql.plan import Scope
from syndb_hub.ages import Ages
from syndb_hub.federation.answers import Queries, Require
from syndb_hub.jobs.conversions import Conversions, Exported
from syndb_hub.jobs.live import Live
from syndb_hub.jobs.results import ResultFiles
from syndb_hub.settings import JobSettings
from syndb_hub.store.database import Store
from syndb_hub.store.jobs import Job, Jobs, JobStatus, StoredResult
from syndb_hub.store.tokens import Tokens

MAX_PENDING = 200
"""Jobs that may wait: at a minute each and four workers, an hour of work."""

MAX_OF_ONE_OWNER = 50
"""Jobs of one token that have not ended: a quarter of the line, so that nobody fills it for the others."""

MAX_LIVE, MAX_LIVE_OF_ONE_OWNER = 16, 4
"""Jobs whose rows are taken while they come. Their readers may take their time: they keep no worker from the others."""

CLEANING_SECONDS = 300.0
"""Between two searches for expired results: short against their life, which is hours."""

HISTORY = timedelta(days=30)
"""How long a job is remembered after its result is gone."""

STORE_SECONDS = 1.0
"""Between two attempts to record what became of a job while the store cannot be written."""

STORED_RESULTS = 20
"""Results of the largest allowed size that fit into the folder; the oldest give way."""

REVOKED_SECONDS = 1.0
"""Between two looks at whether the tokens of unfinished jobs were revoked, which another process does."""

P = ParamSpec("P")

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Active:
    """A job in line or at work, whose it is, the request that it answers, and how far a reader is who follows it."""

    owner: str
    work: tracing.Work
    live: Live | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


class JobRunner:
    """Accepts, runs and remembers jobs. :meth:`run` must be running for anything to happen.

    Args:
        store: where jobs are remembered.
        queries: what answers them.
        objects_dir: folder of the result files; it belongs to the runner.
        settings: workers, size and life of results, time of a query.
        now: the machine's clock, for the dates.
        ages: how old results are.
        max_pending: jobs that may wait in line.
        max_of_one_owner: jobs of the same token that may be there.
    """

    def __init__(
        self,
        store: Store,
        queries: Queries,
        objects_dir: Path,
        settings: JobSettings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        ages: Ages | None = None,
        max_pending: int = MAX_PENDING,
        max_of_one_owner: int = MAX_OF_ONE_OWNER,
    ) -> None:
        self._jobs = Jobs(store)
        self._tokens = Tokens(store)
        self._queries = queries
        self._files = ResultFiles(objects_dir, max_result_bytes=settings.max_result_bytes)
        room = STORED_RESULTS * settings.max_result_bytes
        self._conversions = Conversions(objects_dir / "converted", self._files, max_bytes=room)
        self._settings = settings
        self._now = now
        self._ages = ages or Ages(now)
        self._max_pending = max_pending
        self._max_of_one_owner = max_of_one_owner
        self._active: dict[UUID, _Active] = {}
        self._waiting = 0
        self._put, self._take = trio.open_memory_channel[Job](math.inf)  # bounded by _waiting
        self._accepting = False
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Clear up after the last run, then work until cancelled."""
        lost = ErrorBody(
            error="the hub was restarted before this job ended", code=Unavailable.code, hint="Run it again."
        )
        await self._jobs.fail_unfinished(self._now(), lost)
        await self._files.prepare(keep=[job.id for job in await self._jobs.with_results()])
        await self.clean()
        kept = [job.id for job in await self._jobs.with_results()]
        try:
            async with trio.open_nursery() as self._nursery:
                nursery = self._nursery
                await nursery.start(self._conversions.run, kept)
                for _ in range(self._settings.max_workers):
                    nursery.start_soon(self._work)
                nursery.start_soon(self._clean_regularly)
                nursery.start_soon(self._end_revoked_regularly)
                self._accepting = True
                task_status.started()
        finally:
            self._accepting = False

    @property
    def unfinished(self) -> dict[str, int]:
        """Jobs that have not ended, by status."""
        running = len(self._active) - self._waiting
        return {JobStatus.PENDING.value: self._waiting, JobStatus.RUNNING.value: running}

    async def submit(
        self,
        query: str,
        *,
        owner: str,
        scope: Scope | None = None,
        cluster_ids: Sequence[UUID] | None = None,
        require: Require = "any",
        live: Live | None = None,
    ) -> Job:
        """Put a question in line, or begin at once with one whose rows somebody takes while they come: ``live``.

        Raises:
            TooManyRequests: the line is full, or the owner has too many jobs that have not ended.
            Unavailable: the runner is stopping or has not started.
        """
        if not self._accepting:
            raise Unavailable("the hub takes no jobs right now: it is starting or stopping", hint="Try again soon.")
        if self._waiting >= self._max_pending:
            raise TooManyRequests(f"{self._waiting} jobs are waiting already", hint="Wait until some have ended.")
        own = sum(active.owner == owner for active in self._active.values())
        if own >= self._max_of_one_owner:
            raise TooManyRequests(f"{own} jobs of yours have not ended", hint="Wait until some have, or cancel them.")
        job = Job(
            id=uuid4(),
            owner=owner,
            status=JobStatus.PENDING,
            query=query,
            scope=scope,
            cluster_ids=None if cluster_ids is None else tuple(cluster_ids),
            require=require,
            created_at=self._now(),
        )
        if live is not None:
            self._check_live(owner)
        self._waiting += 1
        asked_by = tracing.current_work.get()
        self._active[job.id] = _Active(owner, asked_by or tracing.Work(str(job.id)), live)
        _log.info("job accepted", job_id=str(job.id))
        try:
            await self._jobs.add(job)
        except BaseException:
            self._waiting -= 1
            self._end(job.id)
            raise
        if live is None:
            self._put.send_nowait(job)
        elif self._nursery is not None:
            self._nursery.start_soon(self._work_on, job)
        return job

    def _check_live(self, owner: str) -> None:
        live = [active.owner for active in self._active.values() if active.live is not None]
        if len(live) >= MAX_LIVE or live.count(owner) >= MAX_LIVE_OF_ONE_OWNER:
            raise TooManyRequests(
                f"the rows of {len(live)} queries are being taken while they come, {live.count(owner)} of them yours",
                hint="Ask without live, or wait until some have ended.",
            )

    async def get(self, job_id: UUID, *, owner: str | None = None) -> Job:
        """A job; with ``owner``, only if it is theirs.

        Raises:
            NotFound: there is none, or it is somebody else's.
        """
        job = await self._jobs.get(job_id)
        if job is None or owner not in (None, job.owner):
            raise NotFound(f"there is no job {job_id}", hint="See GET /v1/jobs for yours.")
        return job

    async def list(self, *, owner: str | None = None, limit: int = 100) -> list[Job]:
        """The latest jobs of an owner, or of everyone, newest first."""
        return await self._jobs.latest(owner=owner, limit=limit)

    async def wait(self, job_id: UUID, seconds: float, *, owner: str | None = None) -> Job:
        """The job as soon as it has ended, or as it is after ``seconds``."""
        active = self._active.get(job_id)
        if active is not None:
            with trio.move_on_after(seconds):
                await active.ended.wait()
        return await self.get(job_id, owner=owner)

    async def cancel(self, job_id: UUID, *, owner: str | None = None) -> Job:
        """Stop a job, at the nodes too, and return it; one that is cancelled already is returned as it is.

        Raises:
            NotFound: there is none, or it is somebody else's.
            Conflict: it has completed or failed.
        """
        await self.get(job_id, owner=owner)
        if await self._jobs.cancel(job_id, self._now(), when=JobStatus.PENDING):
            self._end(job_id)
        elif (active := self._active.get(job_id)) is not None:
            active.scope.cancel()
            await active.ended.wait()
        job = await self.get(job_id, owner=owner)
        if job.status is not JobStatus.CANCELLED:
            raise Conflict(f"the job cannot be cancelled: it has {job.status.value}", status=job.status.value)
        return job

    async def result(self, job_id: UUID, *, owner: str | None = None) -> tuple[Job, Path]:
        """A completed job and its verified result file, an Arrow IPC file.

        Raises:
            NotFound: there is no such job, or its result is not kept any more.
            Conflict: the job has not completed.
            DataError: the file was damaged.
        """
        job, kept = await self._kept(job_id, owner)
        return job, await self._files.verified(job.id, kept)

    async def exported(self, job_id: UUID, form: ExportFormat, *, owner: str | None = None) -> Exported:
        """The result of a completed job as a file in some format. It goes on being made when the caller gives up.

        Raises:
            NotFound, Conflict, DataError: as of :meth:`result`.
            LimitExceeded: it would be too large in this format.
            Unavailable: the disk is full, or the hub is starting or stopping.
        """
        job, kept = await self._kept(job_id, owner)
        return await self._conversions.get(job, kept, form)

    async def _kept(self, job_id: UUID, owner: str | None) -> tuple[Job, StoredResult]:
        job = await self.get(job_id, owner=owner)
        if job.status is not JobStatus.COMPLETED:
            raise Conflict(
                f"the job has no result: it is {job.status.value}",
                hint="Wait until it has completed." if not job.status.finished else "See its error_message.",
                status=job.status.value,
            )
        if job.result is None:
            raise NotFound("the result is not kept any more", hint="Run the query again.")
        return job, job.result

    async def discard(self, job_id: UUID) -> None:
        """Delete the result of a job, which nobody will ask for any more; the job is remembered."""
        await self._jobs.forget_results([job_id])
        self._ages.forget(job_id)
        await self._files.remove(job_id)
        await self._conversions.remove(job_id)

    async def clean(self) -> None:
        """Delete expired results, the oldest ones where all together are too large, and old jobs."""
        kept = await self._jobs.with_results()
        life = timedelta(hours=self._settings.result_ttl_hours)
        room = STORED_RESULTS * self._settings.max_result_bytes - sum(job.result.bytes for job in kept if job.result)
        for job in kept:
            if job.result is None or job.finished_at is None:
                continue
            if self._ages.of(job.id, job.finished_at) <= life and room >= 0:
                continue
            room += job.result.bytes
            await self.discard(job.id)
        await self._jobs.prune(self._now() - HISTORY)

    async def _clean_regularly(self) -> None:
        while True:
            await trio.sleep(CLEANING_SECONDS)
            try:
                await self.clean()
            except (SynDBError, OSError):
                _log.exception("results could not be cleaned up")

    async def _end_revoked_regularly(self) -> None:
        while True:
            await trio.sleep(REVOKED_SECONDS)
            try:
                await self._end_revoked()
            except SynDBError as error:
                _log.warning("whose tokens were revoked could not be found out", cause=error.message)

    async def _end_revoked(self) -> None:
        if not self._active:
            return
        revoked = await self._tokens.revoked({active.owner for active in self._active.values()})
        for job_id in [job_id for job_id, active in self._active.items() if active.owner in revoked]:
            with suppress(Conflict):  # it has ended by itself
                await self.cancel(job_id)

    async def _work(self) -> None:
        async for job in self._take:
            await self._work_on(job)

    async def _work_on(self, job: Job) -> None:
        self._waiting -= 1
        try:
            await self._run(job)
        finally:
            self._end(job.id)

    async def _run(self, job: Job) -> None:
        active = self._active.get(job.id)
        if active is None or not await self._record(self._jobs.start, job.id, self._now()):
            return  # cancelled while it waited
        error: SynDBError | None = None
        with active.scope, tracing.doing(active.work), tracing.span("job", job_id=str(job.id)):
            try:
                await self._answer(job, active.live)
            except SynDBError as raised:
                error = raised
            except Exception:
                _log.exception("a job failed unexpectedly", job_id=str(job.id))
                error = SynDBError("the query failed for an unexpected reason", hint="The hub's log has the details.")
        if active.scope.cancelled_caught:
            await self._record(self._jobs.cancel, job.id, self._now(), when=JobStatus.RUNNING)
            await self._files.remove(job.id)
        elif error is not None:
            await self._record(self._jobs.fail, job.id, self._now(), error.to_body())

    async def _answer(self, job: Job, live: Live | None) -> None:
        async with self._files.writing(job.id, live) as writer:
            provenance = await self._queries.run_into(
                job.query,
                writer,
                scope=job.scope,
                cluster_ids=job.cluster_ids,
                seconds=self._settings.query_seconds,
                require=job.require,
            )
            kept = await self._files.keep(job.id, writer)
        self._ages.begin(job.id)
        await self._record(self._jobs.complete, job.id, self._now(), provenance, provenance.rows, kept)

    async def _record(self, change: Callable[P, Awaitable[bool]], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Change a job in the store, as soon as that can be written.

        Nothing is gained by going on without: a job whose end is nowhere recorded would seem to run for ever.
        """
        while True:
            try:
                return await change(*args, **kwargs)
            except Unavailable as error:
                _log.warning("a job could not be recorded", cause=error.message)
                await trio.sleep(STORE_SECONDS)

    def _end(self, job_id: UUID) -> None:
        active = self._active.pop(job_id, None)
        if active is not None:
            active.ended.set()
