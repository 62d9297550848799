"""Jobs: their status and their results."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import trio
from pydantic import BaseModel, ConfigDict, Field, RootModel
from starlette.responses import JSONResponse, Response, StreamingResponse

from syndb_common.exporting import ExportFormat
from syndb_common.syql.plan import Scope
from syndb_hub.auth.principal import Right
from syndb_hub.federation.answers import Provenance
from syndb_hub.http import formats
from syndb_hub.http.files import file_response
from syndb_hub.http.formats import Format
from syndb_hub.http.operation import Call, Operations
from syndb_hub.store.jobs import Job, JobStatus

operations = Operations("jobs")

MAKING_SECONDS = 30.0
"""How long one request waits for a file to be made: proxies and clients give up on a silent hub after a minute."""


class JobPath(BaseModel):
    """Which job."""

    job_id: UUID


class JobList(BaseModel):
    """Which jobs."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=100, ge=1, le=1000, description="at most so many, the latest first")


class ResultFormat(BaseModel):
    """How the rows are wanted."""

    model_config = ConfigDict(extra="forbid")

    format: Format = Format.ARROW


class JobView(BaseModel):
    """A job as its owner sees it. ``result_bytes`` is None when no result is kept."""

    job_id: UUID
    status: JobStatus
    query: str
    scope: Scope | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    rows: int | None
    result_bytes: int | None
    provenance: Provenance | None
    error_message: str | None
    error_code: str | None
    error_hint: str | None
    error_details: dict[str, Any] | None

    @classmethod
    def of(cls, job: Job) -> JobView:
        """The view of a job."""
        return cls(
            job_id=job.id,
            status=job.status,
            query=job.query,
            scope=job.scope,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            rows=job.rows,
            result_bytes=job.result.bytes if job.result else None,
            provenance=job.provenance,
            error_message=job.error.error if job.error else None,
            error_code=job.error.code if job.error else None,
            error_hint=job.error.hint if job.error else None,
            error_details=job.error.details if job.error else None,
        )


class JobViews(RootModel[list[JobView]]):
    """Jobs, newest first."""


@operations.get("/v1/jobs", right=Right.QUERY)
async def list_jobs(call: Call, query: JobList) -> JobViews:
    """Your latest jobs; with the scope `admin`, everybody's."""
    jobs = await call.services.jobs.list(owner=call.owner, limit=query.limit)
    return JobViews([JobView.of(job) for job in jobs])


@operations.get("/v1/jobs/{job_id}", right=Right.QUERY)
async def get_job(call: Call, path: JobPath) -> JobView:
    """Status of a job, and where its answer came from."""
    return JobView.of(await call.services.jobs.get(path.job_id, owner=call.owner))


@operations.delete("/v1/jobs/{job_id}", right=Right.QUERY)
async def cancel_job(call: Call, path: JobPath) -> JobView:
    """Cancel a job, at the nodes too."""
    return JobView.of(await call.services.jobs.cancel(path.job_id, owner=call.owner))


@operations.get(
    "/v1/jobs/{job_id}/result",
    right=Right.QUERY,
    produces=tuple(formats.MEDIA_TYPES.values()),
    later="The file is being made: ask again",
)
async def job_result(call: Call, path: JobPath, query: ResultFormat) -> Response:
    """Rows of a completed job.

    `arrow` is an Arrow IPC file, `csv` has a header with the column names, `tar.xz` is an archive of a Parquet file and
    where its rows came from, `json` has `columns` and `rows`. But for `json`, the answer says its length and, as `ETag`
    and `Repr-Digest`, the SHA-256 of the whole; `Range` resumes it. A file that takes long to make is answered with 202
    and goes on being made: ask again.
    """
    name, media_type = f"{path.job_id}.{query.format.value}", formats.MEDIA_TYPES[query.format]
    if query.format is Format.JSON:
        _, file = await call.services.jobs.result(path.job_id, owner=call.owner)
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(formats.json_stream(file), headers=headers, media_type=media_type)
    with trio.move_on_after(min(MAKING_SECONDS, 0.9 * call.services.settings.request_timeout_seconds)):
        form = ExportFormat(query.format.value)
        exported = await call.services.jobs.exported(path.job_id, form, owner=call.owner)
        return await file_response(exported.path, name=name, sha256=exported.sha256, media_type=media_type)
    return JSONResponse({"status": "running"}, 202, {"retry-after": "1"})
