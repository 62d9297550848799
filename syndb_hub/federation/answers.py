"""Questions and their answers: what is asked of the federation, what comes back, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from syndb_common.syql.plan import Plan, Scope
from syndb_hub.federation.rows import Rows

Require = Literal["any", "all"]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


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

    async def run_into(
        self,
        text: str,
        rows: Rows,
        *,
        scope: Scope | None,
        cluster_ids: Sequence[UUID] | None = None,
        seconds: float,
        require: Require = "any",
    ) -> Provenance:
        """:meth:`run` for an answer of any size: its rows go to ``rows``, which count unless it raises."""
        ...
