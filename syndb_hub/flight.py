"""What the hub's Flight server asks: who presents a token, and to run, show and stop the queries of users.

The server itself lives in the engine process (:mod:`syndb_common.flight.server`); users and jobs are known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from syndb_common.engine.asked import Answers
from syndb_common.errors import Cancelled, Conflict, DeadlineExceeded, ErrorBody, SynDBError
from syndb_common.flight.queries import RUN_SECONDS
from syndb_common.syql.plan import Scope
from syndb_hub.auth.tokens import TokenService
from syndb_hub.federation.service import Provenance, Queries, Require
from syndb_hub.jobs.runner import JobRunner
from syndb_hub.store.jobs import Job, JobStatus

CANCEL_SECONDS = 10.0
"""What stopping a job may take whose client has left."""

MAX_NAMED = 100
"""Nodes without an answer that are named in a result; all of them stand in the job's provenance."""


class FlightUsers:
    """Answers the questions of the hub's Flight server.

    Args:
        tokens: knows the users.
        queries: checks queries before they become jobs.
        jobs: runs them.
    """

    def __init__(self, tokens: TokenService, queries: Queries, jobs: JobRunner) -> None:
        self._tokens = tokens
        self._queries = queries
        self._jobs = jobs

    @property
    def answers(self) -> Answers:
        """What may be asked."""
        return {
            "authenticate": self.authenticate,
            "run": self.run,
            "result": self.result,
            "status": self.status,
            "cancel": self.cancel,
        }

    async def authenticate(self, *, secret: str) -> dict[str, Any]:
        """Who presents this API token, and what it is good for.

        Raises:
            Unauthenticated: it is not valid.
        """
        principal = await self._tokens.verify(secret)
        return {"id": principal.token_id, "rights": sorted(principal.rights)}

    async def run(
        self, *, owner: str, query: str, scope: str | None, cluster_ids: Sequence[str] | None, require: Require
    ) -> dict[str, Any]:
        """Run a query as a job and say where its result is; a job whose client leaves is cancelled.

        Raises:
            SynDBError: it was refused or failed.
        """
        wanted = None if scope is None else Scope(scope)
        clusters = None if cluster_ids is None else [UUID(each) for each in cluster_ids]
        await self._queries.check(query, scope=wanted, cluster_ids=clusters)
        job = await self._jobs.submit(query, owner=owner, scope=wanted, cluster_ids=clusters, require=require)
        try:
            job = await self._jobs.wait(job.id, RUN_SECONDS)
        except trio.Cancelled:
            with trio.move_on_after(CANCEL_SECONDS) as stopping:
                stopping.shield = True
                await self._stop(job)
            raise
        return await self.result(job_id=str(job.id), owner=owner)

    async def result(self, *, job_id: str, owner: str | None) -> dict[str, Any]:
        """Where the result of a job is: its file, and what its readers should know.

        Raises:
            SynDBError: there is no such job or no result, or what the job failed with.
        """
        job = await self._jobs.get(UUID(job_id), owner=owner)
        if job.error is not None:
            raise SynDBError.from_body(ErrorBody.model_validate(job.error.model_dump()))
        if job.status is JobStatus.CANCELLED:
            raise Cancelled("the query was cancelled")
        if not job.status.finished:
            raise DeadlineExceeded(
                f"job {job.id} has not ended yet", hint='ask for it later: {"job_id": "..."}', job_id=str(job.id)
            )
        job, file = await self._jobs.result(job.id, owner=owner)
        return {"path": str(file), "rows": job.rows or 0, "bytes": _size(job), "about": _about(job)}

    async def status(self, *, job_id: str, owner: str | None) -> dict[str, Any]:
        """How a job is."""
        return _about(await self._jobs.get(UUID(job_id), owner=owner))

    async def cancel(self, *, job_id: str, owner: str | None) -> dict[str, Any]:
        """Stop a job, at the nodes too."""
        return _about(await self._jobs.cancel(UUID(job_id), owner=owner))

    async def _stop(self, job: Job) -> None:
        try:
            await self._jobs.cancel(job.id)
        except Conflict:  # it has ended
            return


def results_folder(data_dir: Path) -> Path:
    """Where the results of jobs are kept."""
    return data_dir / "objects" / "jobs"


def _size(job: Job) -> int:
    return job.result.bytes if job.result is not None else -1


def _about(job: Job) -> dict[str, Any]:
    provenance = job.provenance
    return {
        "job_id": str(job.id),
        "status": job.status.value,
        "rows": job.rows,
        "complete": None if provenance is None else provenance.complete,
        "unanswered": [] if provenance is None else _unanswered(provenance),
        "error": None if job.error is None else job.error.model_dump(mode="json"),
    }


def _unanswered(provenance: Provenance) -> list[str]:
    return [node.cluster for node in provenance.nodes if node.status != "answered"][:MAX_NAMED]
