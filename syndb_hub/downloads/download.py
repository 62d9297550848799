"""One download: which version, in which form, how far it is, and its files."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from syndb_common.errors import ErrorBody
from syndb_common.exporting import ExportFormat
from syndb_hub.store.jobs import JobStatus


class DownloadedFile(BaseModel):
    """A file of a download. ``table`` is empty, and ``rows`` 0, where it holds none or several."""

    model_config = ConfigDict(frozen=True)

    name: str
    table: str = ""
    rows: int = 0
    bytes: int
    sha256: str


class Download(BaseModel):
    """A version of a data set that somebody asked for.

    Attributes:
        owner: id of the token that asked.
        content_hash: of the version, as its owner announced it.
        announced_by: the owner, a node or the hub itself; the rows are its word too.
        tables: those that are part of it.
        files: when it has completed.
    """

    model_config = ConfigDict(frozen=True)

    download_id: UUID
    owner: str
    dataset: str
    dataset_id: UUID
    version: int
    content_hash: str
    announced_by: str
    format: ExportFormat
    tables: tuple[str, ...]
    status: JobStatus
    created_at: datetime
    finished_at: datetime | None = None
    files: tuple[DownloadedFile, ...] = ()
    error: ErrorBody | None = Field(default=None)

    @property
    def folder(self) -> str:
        """Name of the folder that a user unpacks or fills."""
        return f"{self.dataset}-v{self.version}"

    @property
    def subject(self) -> tuple[object, ...]:
        """What is asked for and by whom: equal subjects are one download."""
        return self.owner, self.dataset_id, self.version, self.content_hash, self.format, self.tables
