"""What uploader and server say to each other about an upload; JSON on the wire.

An upload begins, takes any number of streams of rows for each table, and is published. A stream is named by its client;
its batches are counted from 0 in their application metadata (:class:`Mark`). The server answers each with
:class:`Acknowledged` once it is durable. Whoever has lost the connection asks for the :class:`UploadStatus` and goes
on from there: repeated batches are skipped, a gap is refused.
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator

from syndb_common.tables.model import TABLES
from syndb_common.tables.versions import DatasetMetadata

MAX_BATCHES = 2**40
"""Batches of one stream."""


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Begin(_Request):
    """Start an upload of rows for ``tables`` of one data set.

    Attributes:
        key: the client's own name for this upload. Beginning again with the same key finds the same upload, so an
            answer that was lost, or a client that died, costs nothing that was sent.
    """

    dataset_id: UUID
    metadata: DatasetMetadata
    tables: tuple[str, ...] = Field(min_length=1, max_length=len(TABLES))
    key: UUID | None = None

    @field_validator("metadata", mode="before")
    @classmethod
    def _nothing_is_lost(cls, metadata: Any) -> Any:
        """Metadata are read tolerantly, but nothing of them may be dropped while they are published."""
        unknown = set(metadata) - set(DatasetMetadata.model_fields) if isinstance(metadata, dict) else set()
        if unknown:
            raise ValueError(f"unknown field {', '.join(sorted(unknown))[:200]}")
        return metadata


class Begun(_Reply):
    """The upload that was started, or that goes on."""

    upload_id: UUID


class Put(_Request):
    """Descriptor of a stream of rows for one table of an upload. Without ``stream`` it cannot be resumed."""

    upload_id: UUID
    table: str = Field(max_length=100)
    stream: UUID | None = None


class Mark(_Request):
    """Application metadata of a batch: its number in the stream."""

    seq: int = Field(ge=0, lt=MAX_BATCHES)


class Acknowledged(_Reply):
    """This batch, of so many rows, is durable, and so are all before it."""

    seq: int
    rows: int


class Stored(_Reply):
    """All rows of a stream without numbers were stored."""

    rows: int


class Status(_Request):
    """How far an upload is."""

    upload_id: UUID


class Publish(_Request):
    """Check the upload and make it the newest version. References that do not resolve are refused."""

    upload_id: UUID
    on_unresolved: Literal["refuse"] = "refuse"


class Abort(_Request):
    """Drop the upload."""

    upload_id: UUID


class Aborted(_Reply):
    """The upload is gone, or there was none."""


class PublishResult(_Reply):
    """What became of an upload.

    Attributes:
        version: number of the version that holds this content now.
        unchanged: whether it was there before, with the same metadata, so that nothing was written.
        row_counts: rows of every table that has any.
        content_hash: see :class:`~syndb_common.tables.versions.PublishedVersion`.
    """

    version: int
    unchanged: bool
    row_counts: dict[str, int]
    content_hash: str


class UploadStatus(_Reply):
    """How far an upload is.

    Attributes:
        streams: number of the next batch of each stream; everything before is durable.
        rows: durable rows of each table.
        state: ``publishing`` takes no rows any more; publishing may be asked for again.
        result: what was published.
    """

    streams: dict[UUID, int]
    rows: dict[str, int]
    state: Literal["open", "publishing", "published"]
    result: PublishResult | None = None


class Delete(_Request):
    """Delete one version of a data set for ever, or all of them with everything that is being uploaded."""

    dataset_id: UUID
    version: int | None = Field(default=None, ge=1, le=2**32 - 1)


class Deleted(_Reply):
    """The versions that are gone. Their numbers are never given again."""

    versions: tuple[int, ...]
