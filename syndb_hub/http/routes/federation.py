"""The nodes: how many, which, and the schema they follow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel

from syndb_common.messages import PROTOCOL_VERSION, SchemaMigration
from syndb_hub.auth.principal import Right
from syndb_hub.federation.service import ClusterView, FederationStatus, SchemaOutcome
from syndb_hub.http.operation import Call, Operations

operations = Operations("federation")


class Pong(BaseModel):
    """The hub is there, and which protocol it speaks with nodes."""

    status: Literal["ok"] = "ok"
    version: str
    protocol_version: int
    time: datetime


class Clusters(RootModel[list[ClusterView]]):
    """Every registered node with its health and its data sets, by name."""


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


class Synced(BaseModel):
    """What happened at every active node."""

    results: list[SchemaOutcome]


class ClusterPath(BaseModel):
    """Which node."""

    cluster_id: UUID


class Deactivated(BaseModel):
    """The node takes part no more; its record is kept."""

    id: UUID
    is_active: Literal[False] = False


@operations.get("/v1/federation/ping", right=None)
async def ping(call: Call) -> Pong:
    """Whether the hub answers."""
    return Pong(version=call.services.version, protocol_version=PROTOCOL_VERSION, time=datetime.now(UTC))


@operations.get("/v1/federation/status", right=Right.FEDERATION)
async def federation_status(call: Call) -> FederationStatus:
    """How many nodes there are and how they are."""
    return call.services.federation.status()


@operations.get("/v1/federation/clusters", right=Right.FEDERATION)
async def list_clusters(call: Call) -> Clusters:
    """All nodes with their health and data sets."""
    return Clusters(call.services.federation.clusters())


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
    """Push pending schema migrations to all active nodes."""
    return Synced(results=await call.services.control.sync_schema(dry_run=body.dry_run))


@operations.delete("/v1/federation/clusters/{cluster_id}", right=Right.ADMIN)
async def deactivate_cluster(call: Call, path: ClusterPath) -> Deactivated:
    """Exclude a node from queries and refuse its messages; its record and history stay."""
    await call.services.control.deactivate(path.cluster_id)
    return Deactivated(id=path.cluster_id)
