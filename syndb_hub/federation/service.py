"""What the hub's ways in ask of the federation: the state of the nodes, what can be done to them, and health.

HTTP and jobs depend on these protocols only; the actors behind them are composed in :mod:`syndb_hub.tree`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from syndb_common.messages import JoinChallenge, JoinRequest, RegisterCluster, Registered

Health = Literal["healthy", "degraded", "unreachable", "unknown"]
Standing = Literal["pending", "waiting", "active", "inactive"]
SchemaState = Literal["current", "behind", "ahead", "unknown"]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class DatasetView(_View):
    """A data set as its node offers it. ``dataset`` is the name that queries use."""

    dataset_id: UUID
    dataset: str
    title: str = ""
    version: int
    row_counts: dict[str, int] = Field(default_factory=dict)
    sharing: str = ""
    species: str = ""
    sex: str = ""
    stage: str = ""


class ClusterView(_View):
    """A registered node, how it is, and what it holds.

    Attributes:
        health_cause: why it is not healthy.
        standing: whether it takes part; ``is_active`` is ``standing == "active"``.
        schema_state: its schema version beside the hub's; ``unknown`` until a node has joined under the name. A node
            that is ``behind`` is sent what it lacks, one that is ``ahead`` needs the hub to be updated.
        secret: what it joined with: ``password``, ``previous password``, ``invitation or older password``, or empty.
        delivery: how its large parts come (:mod:`syndb_hub.federation.ways`); empty while that is not known.
        refused_addresses: what it announced and the hub does not dial, each with the reason.
    """

    id: UUID
    name: str
    institution: str = ""
    description: str = ""
    contact_email: str = ""
    software: str = ""
    endpoint: str = ""
    port: int = 0
    peer_id: str = ""
    standing: Standing = "active"
    health: Health = "unknown"
    health_cause: str = ""
    health_since: datetime | None = None
    is_active: bool = True
    schema_version: int = 0
    schema_state: SchemaState = "unknown"
    protocol_version: int = 1
    secret: str = ""
    delivery: Literal["pull", "push", "frames", ""] = ""
    latency_ms: float | None = None
    clock_skew_ms: float | None = None
    flaps: int = 0
    last_seen: datetime | None = None
    refused_addresses: tuple[str, ...] = ()
    approved_hosts: tuple[str, ...] = ()
    datasets: tuple[DatasetView, ...] = ()


class FederationStatus(_View):
    """How many nodes there are and how they are. ``schema_version`` is the hub's own."""

    total_clusters: int
    active_clusters: int
    healthy: int
    degraded: int
    unreachable: int
    unknown: int
    schema_version: int


class ComponentHealth(_View):
    """State of one part of the hub. ``store`` names the product in use, ``detail`` what is wrong."""

    status: Literal["ok", "failed", "not_configured"]
    latency_ms: float | None = None
    store: str = ""
    detail: str = ""


class FederationView(Protocol):
    """The hub's current knowledge of its nodes; all calls only read memory."""

    def status(self) -> FederationStatus:
        """Counts by state."""
        ...

    async def clusters(self) -> list[ClusterView]:
        """Every registered node, also the inactive ones, ordered by name."""
        ...

    async def cluster(self, cluster_id: UUID) -> ClusterView:
        """One node.

        Raises:
            NotFound: there is none of that id.
        """
        ...


class SchemaOutcome(_View):
    """What a schema sync did at one node, or with ``dry_run`` would do; ``cause`` says why nothing could be done."""

    cluster: str
    schema_version: int
    applied: list[int] = Field(default_factory=list)
    cause: str = ""


class TransitionView(_View):
    """One change of a node's health and why it happened."""

    at: datetime
    from_state: Health
    to_state: Health
    cause: str


class ClusterHealth(_View):
    """How a node is, how it was, and what was measured last."""

    cluster: ClusterView
    transitions: tuple[TransitionView, ...] = ()


class Check(_View):
    """One test of a node.

    Attributes:
        test: ``connectivity``, ``schema`` or ``query``.
        cause: what failed and what to do about it, for the operator; empty when it passed.
        detail: what was seen, for instance the versions compared.
    """

    test: Literal["connectivity", "schema", "query"]
    passed: bool
    latency_ms: float
    cause: str = ""
    detail: str = ""


class ClusterEntry(_View):
    """A node as the hub's operator enters it before it has joined. ``endpoint`` may be a host name or an address."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    endpoint: str = Field(default="", max_length=253)
    port: int = Field(default=50052, ge=1, le=65535)
    institution: str = Field(default="", max_length=300)
    description: str = Field(default="", max_length=2000)
    contact_email: str = Field(default="", max_length=300)


class FederationControl(Protocol):
    """What the hub's operator can do to nodes. All methods raise ``NotFound`` for a node that does not exist."""

    async def sync_schema(self, *, dry_run: bool, cluster_ids: Sequence[UUID] | None = None) -> list[SchemaOutcome]:
        """Send every active node, or those named, the migrations it lacks; one outcome per node, failures included."""
        ...

    async def enter(self, entry: ClusterEntry) -> UUID:
        """Enter a node that has not joined yet: ``pending`` until a PeerId proves the name.

        Raises:
            Conflict: the name is taken.
        """
        ...

    async def activate(self, cluster_id: UUID) -> None:
        """Let a node take part that waits for approval or was deactivated. A deactivated name without a key is then
        ``waiting``, for a key and its approval.

        Raises:
            Conflict: no PeerId has proved its name.
        """
        ...

    async def deactivate(self, cluster_id: UUID) -> None:
        """Exclude a node until further notice; its record stays."""
        ...

    async def forget(self, cluster_id: UUID) -> None:
        """Remove a node that takes no part, with its history; its name is free then.

        Raises:
            Conflict: it takes part.
        """
        ...

    async def revoke_key(self, cluster_id: UUID, cause: str) -> None:
        """Believe the node's present key never again. The name waits for another key, which the operator has to approve
        unless it comes by an invitation for this name: ``waiting`` either way until then."""
        ...

    async def approve_hosts(self, cluster_id: UUID, hosts: Sequence[str]) -> None:
        """Let the hub dial the node at these IP addresses, networks or host names, in place of those approved before.

        Raises:
            InvalidRequest: one of them is none of these.
        """
        ...

    async def verify(self, cluster_id: UUID) -> ClusterHealth:
        """Ping the node now and say how it is."""
        ...

    async def history(self, cluster_id: UUID, *, limit: int) -> ClusterHealth:
        """How the node is and its latest changes of health, newest first; nothing is sent."""
        ...

    async def test_connectivity(self, cluster_id: UUID) -> Check:
        """Whether the node answers over the control plane, and its Flight server over the data plane."""
        ...

    async def test_schema(self, cluster_id: UUID) -> Check:
        """Whether the node's schema fits the hub's."""
        ...

    async def test_query(self, cluster_id: UUID) -> Check:
        """Whether a small query comes back right from the node."""
        ...


class JoinOverHttp(Protocol):
    """Joining in two HTTP requests, for nodes whose libp2p cannot reach the hub. See :mod:`actors.remote.proof`."""

    async def challenge(self, peer_id: str, request: JoinRequest, *, client: str) -> tuple[JoinChallenge, bytes]:
        """First step; returns the challenge and the hub's signature. ``client`` is the caller's IP address."""
        ...

    async def register(
        self, peer_id: str, registration: RegisterCluster, signature: bytes, digest: bytes, *, client: str
    ) -> tuple[Registered, bytes]:
        """Second step, signed by the node's key with ``digest``, that of the whole body.

        Returns the acceptance and the hub's signature of all of it.

        Raises:
            JoinRefused: proof or signature is wrong, or the challenge is not.
        """
        ...


class HealthProbe(Protocol):
    """Checks the stores the hub works with."""

    async def components(self) -> dict[str, ComponentHealth]:
        """State by component: ``postgres``, ``clickhouse``, ``storage``, ``meilisearch``."""
        ...
