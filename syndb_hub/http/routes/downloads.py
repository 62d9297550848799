"""Whole versions of data sets, as files."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from syndb_common.exporting import ExportFormat
from syndb_hub.auth.principal import Right
from syndb_hub.downloads import Download, DownloadedFile
from syndb_hub.http.files import file_response
from syndb_hub.http.operation import Call, Operations
from syndb_hub.store.jobs import JobStatus

operations = Operations("downloads")

_MEDIA_TYPES = {**{f".{form}": form.media_type for form in ExportFormat}, ".json": "application/json"}


class DownloadBody(BaseModel):
    """A version of a data set, and how it is wanted."""

    model_config = ConfigDict(extra="forbid")

    dataset: str = Field(min_length=1, max_length=100, description="name or id of the data set")
    version: int | None = Field(default=None, ge=1, le=2**32 - 1, description="its number; the newest without one")
    format: ExportFormat = Field(
        default=ExportFormat.ARCHIVE, description="one archive of Parquet files, or a file for each table"
    )
    tables: list[str] | None = Field(default=None, min_length=1, max_length=20, description="only these tables")


class DownloadPath(BaseModel):
    """Which download."""

    download_id: UUID


class Wait(BaseModel):
    """How long the answer may wait."""

    model_config = ConfigDict(extra="forbid")

    wait: float = Field(
        default=0.0, ge=0.0, le=3600.0, description="seconds to wait for the end; a request's own time limit is kept"
    )


class FilePath(DownloadPath):
    """Which file of a download."""

    name: str = Field(max_length=300)


class DownloadView(BaseModel):
    """A download as its owner sees it; its files are at `/v1/neurodata/downloads/{download_id}/files/{name}`."""

    download_id: UUID
    dataset: str
    dataset_id: UUID
    version: int
    content_hash: str
    announced_by: str
    format: ExportFormat
    tables: tuple[str, ...]
    folder: str
    status: JobStatus
    created_at: datetime
    finished_at: datetime | None
    files: tuple[DownloadedFile, ...]
    error_message: str | None
    error_code: str | None
    error_hint: str | None

    @classmethod
    def of(cls, download: Download) -> DownloadView:
        """The view of a download."""
        error = download.error
        return cls(
            **download.model_dump(exclude={"owner", "error"}),
            folder=download.folder,
            error_message=error.error if error else None,
            error_code=error.code if error else None,
            error_hint=error.hint if error else None,
        )


@operations.post("/v1/neurodata/downloads", right=Right.QUERY)
async def start_download(call: Call, body: DownloadBody) -> DownloadView:
    """Ask for a whole version of a data set, of the hub's own or a node's that shares its rows.

    Its files are there when the status is `completed`. Asking again for the same gives the same download.
    """
    download = await call.services.downloads.start(
        body.dataset, body.version, body.format, owner=call.principal.token_id, tables=body.tables
    )
    return DownloadView.of(download)


@operations.get("/v1/neurodata/downloads/{download_id}", right=Right.QUERY)
async def get_download(call: Call, path: DownloadPath, query: Wait) -> DownloadView:
    """Status of a download, and its files with their SHA-256."""
    longest = 0.9 * call.services.settings.request_timeout_seconds
    downloads = call.services.downloads
    return DownloadView.of(await downloads.wait(path.download_id, min(query.wait, longest), owner=call.owner))


@operations.delete("/v1/neurodata/downloads/{download_id}", right=Right.QUERY)
async def remove_download(call: Call, path: DownloadPath) -> DownloadView:
    """Stop preparing a download, or delete its files at the hub."""
    return DownloadView.of(await call.services.downloads.remove(path.download_id, owner=call.owner))


@operations.get(
    "/v1/neurodata/downloads/{download_id}/files/{name}",
    right=Right.QUERY,
    produces=tuple(_MEDIA_TYPES.values()),
)
async def download_file(call: Call, path: FilePath) -> Response:
    """A file of a completed download.

    The answer says its length and, as `ETag` and `Repr-Digest`, the SHA-256 of the whole; `Range` resumes it.
    """
    file, place = call.services.downloads.file(path.download_id, path.name, owner=call.owner)
    media_type = next(kind for ending, kind in _MEDIA_TYPES.items() if file.name.endswith(ending))
    return await file_response(place, name=file.name, sha256=file.sha256, media_type=media_type)
