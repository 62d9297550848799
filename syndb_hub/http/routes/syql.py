"""SyQL: check a query, see how it would be executed, execute it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from syndb_common.syql.plan import Plan, Scope
from syndb_hub.auth.principal import Right
from syndb_hub.federation.answers import Explanation, Provenance, Require
from syndb_hub.http.operation import Call, Operations
from syndb_hub.http.routes.jobs import JobView
from syndb_hub.store.jobs import JobStatus

operations = Operations("syql")


class QueryBody(BaseModel):
    """A query and whose data it is for."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=100_000, description="SyQL text")
    scope: Scope | None = Field(default=None, description="must agree with SCOPE in the text, if that names one")
    cluster_ids: list[UUID] | None = Field(default=None, max_length=1000, description="ask only these nodes")


class ExecBody(QueryBody):
    """A query to execute."""

    wait: float = Field(
        default=0.0, ge=0.0, le=3600.0, description="seconds to wait for the end; a request's own time limit is kept"
    )
    require: Require = Field(default="any", description="`all` fails unless every node with matching data answered")


class CancelBody(BaseModel):
    """Which query to cancel."""

    model_config = ConfigDict(extra="forbid")

    query_id: UUID = Field(description="the query_id that exec returned, which is its job_id")


class Planned(BaseModel):
    """A checked query: the plan that nodes would receive, without any SQL."""

    plan: Plan
    plan_hash: str
    table: str
    columns: list[str] = Field(description="names of the result's columns")
    operators: list[str] = Field(description="operators and functions a node has to know")
    estimated_rows: int


class Executed(BaseModel):
    """A job, and its outcome when it ended within ``wait``. ``query_id`` equals ``job_id``."""

    job_id: UUID
    query_id: UUID
    status: JobStatus
    rows: int | None = None
    provenance: Provenance | None = None
    error_message: str | None = None
    error_code: str | None = None
    error_hint: str | None = None
    error_details: dict[str, Any] | None = None


@operations.post("/v1/syql/plan", right=Right.QUERY)
async def plan_query(call: Call, body: QueryBody) -> Planned:
    """Check a query and return its plan."""
    plan = (explained := await _explain(call, body)).plan
    return Planned(
        plan=plan,
        plan_hash=plan.hash,
        table=plan.table,
        columns=[output.name for output in plan.outputs],
        operators=sorted(plan.operators),
        estimated_rows=explained.estimated_rows,
    )


@operations.post("/v1/syql/explain", right=Right.QUERY)
async def explain_query(call: Call, body: QueryBody) -> Explanation:
    """Show how a query would be executed: each node's SQL, the merge, advice and estimated cost."""
    return await _explain(call, body)


@operations.post("/v1/syql/exec", right=Right.QUERY)
async def execute_query(call: Call, body: ExecBody) -> Executed:
    """Check a query and execute it as a job.

    A query that cannot be answered is refused here. Follow the job at `/v1/jobs/{job_id}`; its rows are at
    `/v1/jobs/{job_id}/result`.
    """
    await call.services.queries.check(body.query, scope=body.scope, cluster_ids=body.cluster_ids)
    job = await call.services.jobs.submit(
        body.query,
        owner=call.principal.token_id,
        scope=body.scope,
        cluster_ids=body.cluster_ids,
        require=body.require,
    )
    if body.wait:
        longest = 0.9 * call.services.settings.request_timeout_seconds
        job = await call.services.jobs.wait(job.id, min(body.wait, longest))
    return Executed(
        job_id=job.id,
        query_id=job.id,
        status=job.status,
        rows=job.rows,
        provenance=job.provenance,
        error_message=job.error.error if job.error else None,
        error_code=job.error.code if job.error else None,
        error_hint=job.error.hint if job.error else None,
        error_details=job.error.details if job.error else None,
    )


@operations.post("/v1/syql/cancel", right=Right.QUERY)
async def cancel_query(call: Call, body: CancelBody) -> JobView:
    """Stop a query, at the nodes too."""
    return JobView.of(await call.services.jobs.cancel(body.query_id, owner=call.owner))


async def _explain(call: Call, body: QueryBody) -> Explanation:
    return await call.services.queries.explain(body.query, scope=body.scope, cluster_ids=body.cluster_ids)
