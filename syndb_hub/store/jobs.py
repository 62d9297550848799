"""Jobs as they are stored. A status changes only from the one it is expected to have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from syndb_common.errors import ErrorBody
from syndb_common.syql.plan import Scope
from syndb_hub.federation.answers import Provenance, Require
from syndb_hub.store.database import Store
from syndb_hub.store.schema import jobs


class JobStatus(StrEnum):
    """Where a job is: ``pending`` -> ``running`` -> one of the three ends."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """Whether it will not change any more."""
        return self not in (JobStatus.PENDING, JobStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result file: its size and the SHA-256 of its bytes."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Job:
    """One question and what became of it.

    Attributes:
        owner: id of the token that submitted it.
        result: the stored result while it is kept.
    """

    id: UUID
    owner: str
    status: JobStatus
    query: str
    scope: Scope | None
    cluster_ids: tuple[UUID, ...] | None
    require: Require
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: ErrorBody | None = None
    provenance: Provenance | None = None
    rows: int | None = None
    result: StoredResult | None = None


class Jobs:
    """Repository of jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, job: Job) -> None:
        """Store a new job."""

        def work(connection: sa.Connection) -> None:
            connection.execute(
                sa.insert(jobs).values(
                    id=job.id,
                    owner=job.owner,
                    status=job.status.value,
                    query=job.query,
                    scope=job.scope,
                    cluster_ids=None if job.cluster_ids is None else [str(each) for each in job.cluster_ids],
                    require=job.require,
                    created_at=job.created_at,
                )
            )

        await self._store.write(work)

    async def get(self, job_id: UUID) -> Job | None:
        """The job of that id, or None."""
        found = await self._select(sa.select(jobs).where(jobs.c.id == job_id))
        return found[0] if found else None

    async def latest(self, *, owner: str | None, limit: int) -> list[Job]:
        """The latest jobs of an owner, or of everyone, newest first."""
        newest_first = sa.select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.id).limit(limit)
        return await self._select(newest_first if owner is None else newest_first.where(jobs.c.owner == owner))

    async def start(self, job_id: UUID, at: datetime) -> bool:
        """Pending to running; False when it is not pending any more."""
        return await self._move(job_id, (JobStatus.PENDING,), status=JobStatus.RUNNING.value, started_at=at)

    async def complete(self, job_id: UUID, at: datetime, provenance: Provenance, rows: int, kept: StoredResult) -> bool:
        """Running to completed, with its result."""
        return await self._move(
            job_id,
            (JobStatus.RUNNING,),
            status=JobStatus.COMPLETED.value,
            finished_at=at,
            provenance=provenance.model_dump(mode="json"),
            rows=rows,
            result_bytes=kept.bytes,
            result_sha256=kept.sha256,
        )

    async def fail(self, job_id: UUID, at: datetime, error: ErrorBody) -> bool:
        """To failed, with what happened; False when it has ended already."""
        unfinished = (JobStatus.PENDING, JobStatus.RUNNING)
        return await self._move(
            job_id,
            unfinished,
            status=JobStatus.FAILED.value,
            finished_at=at,
            error=error.model_dump(mode="json"),
        )

    async def cancel(self, job_id: UUID, at: datetime, *, when: JobStatus) -> bool:
        """From ``when`` to cancelled; False when it has another status by now."""
        return await self._move(job_id, (when,), status=JobStatus.CANCELLED.value, finished_at=at)

    async def fail_unfinished(self, at: datetime, error: ErrorBody) -> int:
        """Fail every job that nobody works on any more; returns how many there were."""

        def work(connection: sa.Connection) -> int:
            unfinished = jobs.c.status.in_([JobStatus.PENDING.value, JobStatus.RUNNING.value])
            values = {"status": JobStatus.FAILED.value, "finished_at": at, "error": error.model_dump(mode="json")}
            return connection.execute(sa.update(jobs).where(unfinished).values(**values)).rowcount

        return await self._store.write(work)

    async def with_results(self) -> list[Job]:
        """Jobs whose result is kept, oldest first."""
        kept = sa.select(jobs).where(jobs.c.result_sha256.is_not(None)).order_by(jobs.c.finished_at, jobs.c.id)
        return await self._select(kept)

    async def forget_results(self, job_ids: Sequence[UUID]) -> None:
        """Note that these results are not kept any more."""

        def work(connection: sa.Connection) -> None:
            for job_id in job_ids:
                gone = {"result_bytes": None, "result_sha256": None}
                connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(**gone))

        await self._store.write(work)

    async def prune(self, before: datetime) -> int:
        """Forget jobs that ended before a time and whose result is gone; returns how many."""

        def work(connection: sa.Connection) -> int:
            old = sa.and_(jobs.c.finished_at < before, jobs.c.result_sha256.is_(None))
            return connection.execute(sa.delete(jobs).where(old)).rowcount

        return await self._store.write(work)

    async def _move(self, job_id: UUID, expected: Sequence[JobStatus], **values: Any) -> bool:
        def work(connection: sa.Connection) -> bool:
            ready = sa.and_(jobs.c.id == job_id, jobs.c.status.in_([status.value for status in expected]))
            return connection.execute(sa.update(jobs).where(ready).values(**values)).rowcount == 1

        return await self._store.write(work)

    async def _select(self, statement: sa.Select[Any]) -> list[Job]:
        def work(connection: sa.Connection) -> list[Job]:
            return [_job(row) for row in connection.execute(statement)]

        return await self._store.read(work)


def _job(row: sa.Row[Any]) -> Job:
    return Job(
        id=row.id,
        owner=row.owner,
        status=JobStatus(row.status),
        query=row.query,
        scope=None if row.scope is None else Scope(row.scope),
        cluster_ids=None if row.cluster_ids is None else tuple(UUID(each) for each in row.cluster_ids),
        require=row.require,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=None if row.error is None else ErrorBody.model_validate(row.error),
        provenance=None if row.provenance is None else Provenance.model_validate(row.provenance),
        rows=row.rows,
        result=None if row.result_sha256 is None else StoredResult(row.result_bytes, row.result_sha256),
    )
