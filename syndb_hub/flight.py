"""What the hub's Flight server asks: who presents a token, and to run, show and stop the queries of users.

The rows of a whole version are a query too, which every node's policy decides about, and have to be all of them.

The server itself lives in the engine process (:mod:`syndb_common.flight.server`); users and jobs are known here.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from syndb_common.engine.asked import Answers
from syndb_common.errors import Cancelled, Conflict, DeadlineExceeded, ErrorBody, InvalidRequest, SynDBError
from syndb_common.flight.queries import RUN_SECONDS
from syndb_common.syql.plan import Plan, Scope
from syndb_hub.auth.tokens import TokenService
from syndb_hub.downloads import asked_of, check_rows, rows_query, select, tables_of
from syndb_hub.federation.answers import Provenance, Queries, Require
from syndb_hub.federation.targets import Holding
from syndb_hub.jobs.live import Live
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
        holdings: what may be seen, with its holders.
    """

    def __init__(
        self,
        tokens: TokenService,
        queries: Queries,
        jobs: JobRunner,
        holdings: Callable[[], Awaitable[Sequence[Holding]]],
    ) -> None:
        self._tokens = tokens
        self._holdings = holdings
        self._queries = queries
        self._jobs = jobs
        self._live: dict[str, tuple[Job, Live, int | None]] = {}

    @property
    def answers(self) -> Answers:
        """What may be asked."""
        return {
            "authenticate": self.authenticate,
            "run": self.run,
            "live": self.live,
            "taken": self.taken,
            "table": self.table,
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
        return await self._ended(job)

    async def live(
        self, *, owner: str, name: str, query: str, scope: str | None, cluster_ids: Sequence[str] | None
    ) -> dict[str, Any]:
        """Run a query as a job whose rows are taken while they come, and say how many there were; a job whose client
        leaves is cancelled. All nodes have to answer: what was taken cannot be taken back.

        Args:
            name: by which the engine process says how far its client is (:meth:`taken`).

        Raises:
            InvalidRequest: its rows are not known one by one before all are there.
            SynDBError: it was refused or failed, perhaps after rows were taken.
        """
        wanted = None if scope is None else Scope(scope)
        clusters = None if cluster_ids is None else [UUID(each) for each in cluster_ids]
        plan = (await self._queries.explain(query, scope=wanted, cluster_ids=clusters)).plan
        _check_streams(plan)
        live = Live()
        job = await self._jobs.submit(query, owner=owner, scope=wanted, cluster_ids=clusters, require="all", live=live)
        self._live[name] = job, live, plan.limit
        try:
            ended = await self._awaited(job)
            _check_completed(ended)
            return {**_begun(job, live, plan.limit), "rows": ended.rows}
        finally:
            del self._live[name]
            live.end()

    async def taken(self, *, name: str, batches: int | None) -> dict[str, Any]:
        """Where the rows of a live query are, once that is known; the client has taken so many batches.

        Args:
            batches: None while none can be taken, -1 when no more will be.
        """
        if name not in self._live:
            return {}
        job, live, limit = self._live[name]
        if batches == -1:
            live.end()
        elif batches is not None:
            live.take(batches)
        return _begun(job, live, limit)

    async def table(self, *, owner: str, dataset: str, version: int | None, table: str | None) -> dict[str, Any]:
        """Fetch a table of a version, the newest unless told, as a job and say where its rows are.

        Raises:
            InvalidRequest: the version does not have the table, or has several and none was named.
            IncompleteResult: fewer rows came than were published.
            SynDBError: there is no such version, or its rows were refused or could not be had.
        """
        holding = select(await self._holdings(), dataset, version)
        found = holding.version
        tables = tables_of(found, None if table is None else [table])
        if len(tables) != 1:
            raise InvalidRequest(
                f"{found.metadata.dataset} version {found.version} has {len(tables)} tables: name one",
                hint=f"It has: {', '.join(tables)}.",
            )
        (name,) = tables
        job = await self._jobs.submit(rows_query(found, name), owner=owner, **asked_of(holding))
        answer = await self._ended(job)
        check_rows(found, name, answer["rows"])
        which = {"dataset": found.metadata.dataset, "dataset_id": str(found.dataset_id), "version": found.version}
        about = {**answer["about"], **which, "table": name, "content_hash": found.content_hash}
        about["announced_by"] = holding.holder
        return {**answer, "about": about}

    async def _ended(self, job: Job) -> dict[str, Any]:
        """Where the result of a job is once it has ended."""
        await self._awaited(job)
        return await self.result(job_id=str(job.id), owner=job.owner)

    async def _awaited(self, job: Job) -> Job:
        """The job as soon as it has ended, or has taken too long; stopped when nobody waits for it any more."""
        try:
            return await self._jobs.wait(job.id, RUN_SECONDS)
        except trio.Cancelled:
            with trio.move_on_after(CANCEL_SECONDS) as stopping:
                stopping.shield = True
                await self._stop(job)
            raise

    async def result(self, *, job_id: str, owner: str | None) -> dict[str, Any]:
        """Where the result of a job is: its file, and what its readers should know.

        Raises:
            SynDBError: there is no such job or no result, or what the job failed with.
        """
        job = await self._jobs.get(UUID(job_id), owner=owner)
        _check_completed(job)
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


def _check_streams(plan: Plan) -> None:
    """Only rows that are passed on as they come can be taken while they come."""
    what = {
        "aggregates": plan.is_aggregate,
        "is in order": bool(plan.order_by),
        "leaves out the first rows": bool(plan.offset),
    }
    if reasons := [reason for reason, is_so in what.items() if is_so]:
        raise InvalidRequest(
            f"the rows of this query cannot be taken while they come: it {' and '.join(reasons)}",
            hint="ask without live, or without GROUP BY, aggregates, ORDER BY and OFFSET",
        )


def _check_completed(job: Job) -> None:
    if job.error is not None:
        raise SynDBError.from_body(ErrorBody.model_validate(job.error.model_dump()))
    if job.status is JobStatus.CANCELLED:
        raise Cancelled("the query was cancelled")
    if not job.status.finished:
        raise DeadlineExceeded(
            f"job {job.id} has not ended yet", hint='ask for it later: {"job_id": "..."}', job_id=str(job.id)
        )


def _begun(job: Job, live: Live, limit: int | None) -> dict[str, Any]:
    """Where the rows of a live query are; nothing while that is not known."""
    if live.path is None or live.schema is None:
        return {}
    schema = base64.b64encode(live.schema.serialize()).decode()
    return {"path": str(live.path), "schema": schema, "limit": limit, "about": _about(job)}


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
