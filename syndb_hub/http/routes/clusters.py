"""The nodes one by one: entering, approving, excluding, and finding out what is wrong with one."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel

from syndb_hub.auth.principal import Right
from syndb_hub.federation.service import Check, ClusterEntry, ClusterHealth, ClusterView
from syndb_hub.http.operation import Call, Operations

operations = Operations("federation")

MAX_HOSTS = 50
"""Addresses, networks and names that can be approved for one node."""


class Clusters(RootModel[list[ClusterView]]):
    """Every registered node with its health and its data sets, by name."""


class ClusterPath(BaseModel):
    """Which node."""

    cluster_id: UUID


class HistoryQuery(BaseModel):
    """How much of a node's history is wanted."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=500, description="latest changes of health, newest first")


class RevokeBody(BaseModel):
    """Why a key is revoked."""

    model_config = ConfigDict(extra="forbid")

    cause: str = Field(default="", max_length=300, description="kept with the key, for whoever asks later")


class HostsBody(BaseModel):
    """Where the hub may dial a node."""

    model_config = ConfigDict(extra="forbid")

    hosts: list[Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        max_length=MAX_HOSTS, description="IP addresses, networks (CIDR) and host names, in place of those before"
    )


class Deactivated(BaseModel):
    """The node takes part no more; its record is kept."""

    id: UUID
    is_active: Literal[False] = False


class Forgotten(BaseModel):
    """Nothing is kept of the node any more."""

    id: UUID


@operations.get("/v1/federation/clusters", right=Right.FEDERATION)
async def list_clusters(call: Call) -> Clusters:
    """All nodes with their health and data sets."""
    return Clusters(await call.services.federation.clusters())


@operations.post("/v1/federation/clusters", right=Right.ADMIN)
async def enter_cluster(call: Call, body: ClusterEntry) -> ClusterView:
    """Enter a node before it joins: it is `pending` until a node proves itself under that name."""
    return await call.services.federation.cluster(await call.services.control.enter(body))


@operations.get("/v1/federation/clusters/{cluster_id}", right=Right.FEDERATION)
async def get_cluster(call: Call, path: ClusterPath) -> ClusterView:
    """One node with its health and data sets."""
    return await call.services.federation.cluster(path.cluster_id)


@operations.delete("/v1/federation/clusters/{cluster_id}", right=Right.ADMIN)
async def deactivate_cluster(call: Call, path: ClusterPath) -> Deactivated:
    """Exclude a node from queries and refuse its messages; its record and history stay."""
    await call.services.control.deactivate(path.cluster_id)
    return Deactivated(id=path.cluster_id)


@operations.post("/v1/federation/clusters/{cluster_id}/activate", right=Right.ADMIN)
async def activate_cluster(call: Call, path: ClusterPath) -> ClusterView:
    """Approve a node that waits, or let a deactivated one take part again."""
    await call.services.control.activate(path.cluster_id)
    return await call.services.federation.cluster(path.cluster_id)


@operations.post("/v1/federation/clusters/{cluster_id}/forget", right=Right.ADMIN)
async def forget_cluster(call: Call, path: ClusterPath) -> Forgotten:
    """Remove a node that takes no part, with its history and catalogue; its name is free then."""
    await call.services.control.forget(path.cluster_id)
    return Forgotten(id=path.cluster_id)


@operations.post("/v1/federation/clusters/{cluster_id}/revoke-key", right=Right.ADMIN)
async def revoke_key(call: Call, path: ClusterPath, body: RevokeBody) -> ClusterView:
    """Believe the node's present key never again; its name waits for another key and your approval of that."""
    await call.services.control.revoke_key(path.cluster_id, body.cause)
    return await call.services.federation.cluster(path.cluster_id)


@operations.put("/v1/federation/clusters/{cluster_id}/approved-hosts", right=Right.ADMIN)
async def approve_hosts(call: Call, path: ClusterPath, body: HostsBody) -> ClusterView:
    """Say at which hosts the hub may dial a node, besides the address that its connection comes from."""
    await call.services.control.approve_hosts(path.cluster_id, body.hosts)
    return await call.services.federation.cluster(path.cluster_id)


@operations.get("/v1/federation/clusters/{cluster_id}/health", right=Right.FEDERATION)
async def cluster_health(call: Call, path: ClusterPath, query: HistoryQuery) -> ClusterHealth:
    """How a node is and how it was; nothing is sent to it."""
    return await call.services.control.history(path.cluster_id, limit=query.limit)


@operations.post("/v1/federation/clusters/{cluster_id}/verify", right=Right.ADMIN)
async def verify_cluster(call: Call, path: ClusterPath) -> ClusterHealth:
    """Ping a node now and say how it is."""
    return await call.services.control.verify(path.cluster_id)


@operations.post("/v1/federation/clusters/{cluster_id}/test/connectivity", right=Right.ADMIN)
async def test_connectivity(call: Call, path: ClusterPath) -> Check:
    """Whether a node and its Flight server can be reached."""
    return await call.services.control.test_connectivity(path.cluster_id)


@operations.post("/v1/federation/clusters/{cluster_id}/test/schema", right=Right.ADMIN)
async def test_schema(call: Call, path: ClusterPath) -> Check:
    """Whether a node's schema fits the hub's."""
    return await call.services.control.test_schema(path.cluster_id)


@operations.post("/v1/federation/clusters/{cluster_id}/test/query", right=Right.ADMIN)
async def test_query(call: Call, path: ClusterPath) -> Check:
    """Whether a small query comes back right from a node."""
    return await call.services.control.test_query(path.cluster_id)
