"""What is known about a published version of a data set: the content of its commit row."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

SchemaVersion = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""Number of a migration; 0 before the first. It fits an integer column of every database."""
Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of rows or bytes, or a revision. JSON readers keep it exactly, and a thousand of them add up in 64 bits."""

TableName = Annotated[str, Field(max_length=100, pattern=r"^[a-z][a-z0-9_]*$")]
"""Name of a table, perhaps of a newer release: nothing but a name, since it becomes part of questions."""


class DatasetMetadata(BaseModel):
    """Description of a data set. The field names are those of :data:`syndb_common.tables.METADATA`.

    Fields that a newer release added are ignored, so that what it published can still be read.

    Attributes:
        dataset: short name, of one data set only within its node (uploads see to it), usable in queries:
            ``WHERE dataset = 'cook-2019-male'``.
        title: name for people.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    dataset: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")
    title: str = Field(default="", max_length=300)
    description: str = Field(default="", max_length=4000)
    species: str = Field(default="", max_length=200)
    sex: str = Field(default="", max_length=50)
    stage: str = Field(default="", max_length=100)
    brain_region: str = Field(default="", max_length=200)
    microscopy: str = Field(default="", max_length=200)
    genotype: str = Field(default="", max_length=500)
    publication: str = Field(default="", max_length=200)
    licence: str = Field(default="ODC-BY-1.0", max_length=100)
    tags: str = Field(default="", max_length=500)


class PublishedVersion(BaseModel):
    """One immutable version of a data set as its commit row in ``dataset_versions`` states it.

    Attributes:
        row_counts: rows of every table that has any.
        content_hash: SHA-256 over the tables' row digests, independent of row order and of the version number:
            equal content has equal hashes.
        schema_version: number of the last migration when it was published.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    dataset_id: UUID
    version: int = Field(ge=1, le=2**32 - 1)
    metadata: DatasetMetadata
    row_counts: dict[TableName, Count] = Field(max_length=1000)
    content_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    schema_version: Annotated[SchemaVersion, Field(ge=1)]
    published_at: datetime
