"""How the hub is, and what its tables mean."""

from __future__ import annotations

from typing import Literal

import trio
from pydantic import BaseModel, Field

from syndb_common.tables.model import METADATA, TABLES, Column, Table
from syndb_hub.federation.service import ComponentHealth
from syndb_hub.http.operation import Call, Operations

COMPONENTS = ("postgres", "clickhouse", "storage", "meilisearch")
PROBE_SECONDS = 5.0
"""How long a store may take to say that it is well: more means that users wait as long."""

operations = Operations("system")


class HubHealth(BaseModel):
    """``degraded`` when any component failed; one that is not configured does not count."""

    status: Literal["healthy", "degraded"]
    version: str
    components: dict[str, ComponentHealth]


class ColumnInfo(BaseModel):
    """One column. ``type`` is ClickHouse's; ``unit`` is empty for pure numbers and text."""

    name: str
    type: str
    kind: str
    unit: str
    description: str
    nullable: bool


class TableInfo(BaseModel):
    """One table. ``enum`` is its number in ``parent_enum``; ``parents`` are the tables ``parent_id`` may point to."""

    name: str
    enum: int
    description: str
    parents: list[str]
    columns: list[ColumnInfo]


class MetadataInfo(BaseModel):
    """A name that describes the data set and can be used like a column of every table."""

    name: str
    description: str


class SchemaInfo(BaseModel):
    """The data model that queries are written against."""

    schema_version: int = Field(description="number of the last migration")
    tables: list[TableInfo]
    metadata: list[MetadataInfo]


@operations.get("/health", right=None)
async def health(call: Call) -> HubHealth:
    """State of the hub and of the stores it works with."""
    found: dict[str, ComponentHealth] = {}
    with trio.move_on_after(PROBE_SECONDS):
        found = await call.services.probe.components()
    silent = ComponentHealth(status="failed", detail=f"no answer within {PROBE_SECONDS:g} s")
    absent = ComponentHealth(status="not_configured")
    components = {name: found.get(name, absent if found else silent) for name in COMPONENTS} | found
    failed = any(component.status == "failed" for component in components.values())
    return HubHealth(status="degraded" if failed else "healthy", version=call.services.version, components=components)


@operations.get("/v1/schema", right=None)
async def schema(call: Call) -> SchemaInfo:
    """Tables and columns with types, units and meaning.

    Everything that a SyQL query can name. A column of a table wins over metadata of the same name.
    """
    return SchemaInfo(
        schema_version=max((migration.version for migration in call.services.migrations()), default=0),
        tables=[_table(table) for table in TABLES.values()],
        metadata=[MetadataInfo(name=name, description=text) for name, text in METADATA.items()],
    )


def _table(table: Table) -> TableInfo:
    return TableInfo(
        name=table.name,
        enum=table.enum,
        description=table.description,
        parents=list(table.parents),
        columns=[_column(column) for column in table.columns],
    )


def _column(column: Column) -> ColumnInfo:
    return ColumnInfo(
        name=column.name,
        type=column.type,
        kind=column.kind.value,
        unit=column.unit,
        description=column.description,
        nullable=column.nullable,
    )
