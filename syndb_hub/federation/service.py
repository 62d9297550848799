"""What the hub's ways in ask of the federation: questions answered, the state of the nodes, and health.

HTTP and jobs depend on these protocols only; the actors behind them are composed in :mod:`syndb_hub.tree`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from syndb_common.syql.plan import Plan, Scope

Health = Literal["healthy", "degraded", "unreachable", "unknown"]
Require = Literal["any", "all"]


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
    """A registered node, how it is, and what it holds. ``health_cause`` says why it is not healthy."""

    id: UUID
    name: str
    institution: str = ""
    description: str = ""
    endpoint: str = ""
    port: int = 0
    peer_id: str = ""
    health: Health = "unknown"
    health_cause: str = ""
    is_active: bool = True
    schema_version: int = 0
    latency_ms: float | None = None
    last_seen: datetime | None = None
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


class NodeOutcome(_View):
    """What one node contributed to an answer; ``cause`` and ``code`` say why it did not."""

    cluster: str
    status: Literal["answered", "skipped", "failed"]
    cause: str = ""
    code: str = ""
    rows: int = 0
    seconds: float = 0.0
    scanned_rows: int = 0
    scanned_bytes: int = 0
    bytes: int = 0


class VersionRead(_View):
    """One data-set version a question is about, and the node that holds it."""

    dataset: str
    dataset_id: UUID
    version: int
    content_hash: str
    cluster: str


class Provenance(_View):
    """Where an answer comes from: enough to judge it and to run it again.

    Attributes:
        plan_hash: SHA-256 of the plan; the same question of the same versions has the same hash.
        versions: what the answer was computed from.
        missing_versions: what it should have been computed from too, had their holders answered.
        truncated: whether a limit cut the answer.
        complete: whether every node that holds matching data answered.
    """

    plan_hash: str
    scope: Scope
    versions: list[VersionRead] = Field(default_factory=list)
    missing_versions: list[VersionRead] = Field(default_factory=list)
    nodes: list[NodeOutcome] = Field(default_factory=list)
    rows: int = 0
    scanned_rows: int = 0
    scanned_bytes: int = 0
    seconds: float = 0.0
    truncated: bool = False
    complete: bool = True


class QueryTarget(_View):
    """Whether a node would be asked, and why or why not."""

    cluster: str
    included: bool
    reason: str = ""


class Explanation(_View):
    """A query as it would be executed: the plan, each node's SQL, and the SQL that merges their parts."""

    plan: Plan
    node_sql: dict[str, str] = Field(default_factory=dict)
    hub_sql: str = ""
    targets: list[QueryTarget] = Field(default_factory=list)
    advisories: list[str] = Field(default_factory=list)
    estimated_rows: int = 0


class ComponentHealth(_View):
    """State of one part of the hub. ``store`` names the product in use, ``detail`` what is wrong."""

    status: Literal["ok", "failed", "not_configured"]
    latency_ms: float | None = None
    store: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer and where it comes from."""

    table: pa.Table
    provenance: Provenance


class Queries(Protocol):
    """Questions in SyQL. All methods raise ``SyQLError`` for a text that cannot be answered, and
    ``InvalidRequest`` when ``scope`` disagrees with the scope the text itself names."""

    async def check(self, text: str, *, scope: Scope | None, cluster_ids: Sequence[UUID] | None = None) -> None:
        """Check the text, and nothing more."""
        ...

    async def explain(
        self, text: str, *, scope: Scope | None, cluster_ids: Sequence[UUID] | None = None
    ) -> Explanation:
        """Check the text and say how it would be executed; nothing is executed."""
        ...

    async def run(
        self,
        text: str,
        *,
        scope: Scope | None,
        cluster_ids: Sequence[UUID] | None = None,
        seconds: float,
        require: Require = "any",
    ) -> Answered:
        """Execute within ``seconds``; cancelling the call cancels the work at every node.

        Raises:
            DeadlineExceeded: no answer in time.
            Unavailable: no node answered, or with ``require="all"`` at least one did not.
        """
        ...


class FederationView(Protocol):
    """The hub's current knowledge of its nodes; both calls only read memory."""

    def status(self) -> FederationStatus:
        """Counts by state."""
        ...

    def clusters(self) -> list[ClusterView]:
        """Every registered node, also the inactive ones, ordered by name."""
        ...


class SchemaOutcome(_View):
    """What a schema sync did at one node, or with ``dry_run`` would do; ``cause`` says why nothing could be done."""

    cluster: str
    schema_version: int
    applied: list[int] = Field(default_factory=list)
    cause: str = ""


class FederationControl(Protocol):
    """What the hub's operator can do to nodes."""

    async def sync_schema(self, *, dry_run: bool) -> list[SchemaOutcome]:
        """Send every active node the migrations it lacks; one outcome per node, failures included."""
        ...

    async def deactivate(self, cluster_id: UUID) -> None:
        """Exclude a node until further notice; its record stays.

        Raises:
            NotFound: no such node.
        """
        ...


class HealthProbe(Protocol):
    """Checks the stores the hub works with."""

    async def components(self) -> dict[str, ComponentHealth]:
        """State by component: ``postgres``, ``clickhouse``, ``storage``, ``meilisearch``."""
        ...
