"""The federation as a whole: how many nodes there are, and the schema they follow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from syndb_common.messages import PROTOCOL_VERSION, SchemaMigration
from syndb_hub.auth.principal import Right
from syndb_hub.federation.service import FederationStatus, SchemaOutcome
from syndb_hub.http.operation import Call, Operations

operations = Operations("federation")


class Pong(BaseModel):
    """The hub is there, and which protocol it speaks with nodes."""

    status: Literal["ok"] = "ok"
    version: str
    protocol_version: int
    time: datetime


class SinceVersion(BaseModel):
    """Which migrations are wanted."""

    model_config = ConfigDict(extra="forbid")

    since_version: int = Field(default=0, ge=0, description="only migrations after this one")


class FederationSchema(BaseModel):
    """The migrations nodes apply, in order."""

    schema_version: int = Field(description="number of the hub's last migration")
    migrations: list[SchemaMigration]


class SyncBody(BaseModel):
    """How to sync."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(default=False, description="only say what would be applied")
    cluster_ids: list[UUID] | None = Field(
        default=None, min_length=1, max_length=10_000, description="only these nodes; all active ones by default"
    )


class Synced(BaseModel):
    """What happened at every node, failures included."""

    results: list[SchemaOutcome]


@operations.get("/v1/federation/ping", right=None)
async def ping(call: Call) -> Pong:
    """Whether the hub answers."""
    return Pong(version=call.services.version, protocol_version=PROTOCOL_VERSION, time=datetime.now(UTC))


@operations.get("/v1/federation/status", right=Right.FEDERATION)
async def federation_status(call: Call) -> FederationStatus:
    """How many nodes there are and how they are."""
    return call.services.federation.status()


@operations.get("/v1/federation/schema", right=Right.FEDERATION)
async def federation_schema(call: Call, query: SinceVersion) -> FederationSchema:
    """The current schema version and its migrations."""
    migrations = call.services.migrations()
    return FederationSchema(
        schema_version=max((migration.version for migration in migrations), default=0),
        migrations=[migration for migration in migrations if migration.version > query.since_version],
    )


@operations.post("/v1/federation/schema/sync", right=Right.ADMIN)
async def sync_schema(call: Call, body: SyncBody) -> Synced:
    """Push pending schema migrations to nodes."""
    outcomes = await call.services.control.sync_schema(dry_run=body.dry_run, cluster_ids=body.cluster_ids)
    return Synced(results=outcomes)
