"""What uploader and server say to each other about an upload; JSON on the wire."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator

from syndb_common.tables.model import TABLES
from syndb_common.tables.versions import DatasetMetadata


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Begin(_Request):
    """Start an upload of rows for ``tables`` of one data set."""

    dataset_id: UUID
    metadata: DatasetMetadata
    tables: tuple[str, ...] = Field(min_length=1, max_length=len(TABLES))

    @field_validator("metadata", mode="before")
    @classmethod
    def _nothing_is_lost(cls, metadata: Any) -> Any:
        """Metadata are read tolerantly, but nothing of them may be dropped while they are published."""
        unknown = set(metadata) - set(DatasetMetadata.model_fields) if isinstance(metadata, dict) else set()
        if unknown:
            raise ValueError(f"unknown field {', '.join(sorted(unknown))[:200]}")
        return metadata


class Begun(_Request):
    """The upload that was started."""

    upload_id: UUID


class Put(_Request):
    """Descriptor of a stream of rows for one table of an upload."""

    upload_id: UUID
    table: str = Field(max_length=100)


class Stored(_Request):
    """Rows of a stream that were stored."""

    rows: int


class Publish(_Request):
    """Check the upload and make it the newest version. References that do not resolve are refused."""

    upload_id: UUID
    on_unresolved: Literal["refuse"] = "refuse"


class Abort(_Request):
    """Drop the upload."""

    upload_id: UUID


class Aborted(_Request):
    """The upload is gone, or there was none."""


class PublishResult(BaseModel):
    """What became of an upload.

    Attributes:
        version: number of the version that holds this content now.
        unchanged: whether it was there before, with the same metadata, so that nothing was written.
        row_counts: rows of every table that has any.
        content_hash: see :class:`~syndb_common.tables.versions.PublishedVersion`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int
    unchanged: bool
    row_counts: dict[str, int]
    content_hash: str
