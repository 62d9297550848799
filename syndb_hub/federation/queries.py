"""From text to answer: parse, plan, find the holders, fan out, merge.

The parts that come back are merged in an engine of its own, never in the one that owns data: foreign bytes stay
away from it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pyarrow as pa
import trio
from sqlglot import exp

from actors.directory import HUB, Cluster, Directory
from syndb_common import tracing
from syndb_common.engine.interface import Engine, Limits
from syndb_common.errors import DeadlineExceeded, InvalidRequest, SynDBError, Unavailable, UnknownName
from syndb_common.metrics import QUERY_SECONDS, timed
from syndb_common.syql import Plan, Query, Scope, parse, partial_schema, plan, to_clickhouse
from syndb_common.tables.versions import PublishedVersion
from syndb_hub.federation.answers import (
    Answered,
    Explanation,
    NodeOutcome,
    Provenance,
    QueryTarget,
    Require,
    VersionRead,
)
from syndb_hub.federation.fan_out import FanOut, Part
from syndb_hub.federation.gathering import Union
from syndb_hub.federation.measuring import Measurements
from syndb_hub.federation.rows import Rows
from syndb_hub.federation.targets import Holding, Targets, assign, check_names, lost, versions, visible, with_missing

T = TypeVar("T")

LONG_TEXT = 2_000
"""Characters; shorter queries are planned within some ten milliseconds."""
_planning = trio.CapacityLimiter(2)

LARGE_RESULT_ROWS = 1_000_000
"""Row queries whose data sets hold more rows than this get an advisory."""
LEAST_MERGE_SECONDS = 1.0
"""What merging may take however late the last part came: the parts were the expensive half."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A checked question and who would answer it."""

    plan: Plan
    scope: Scope
    targets: Targets


class FederatedQueries:
    """Implements :class:`syndb_hub.federation.answers.Queries`.

    Args:
        directory: the nodes.
        own: reads what the hub itself has published.
        fan_out: asks the holders.
        merger: the engine that merges parts; not the one that owns data.
        delegation_seconds: how long nodes may take for an answer, or the first rows of a long one, whatever the caller
            allows.
        measurements: keep what queries cost.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        own: Callable[[], Awaitable[Sequence[PublishedVersion]]],
        fan_out: FanOut,
        merger: Engine,
        delegation_seconds: float,
        measurements: Measurements | None = None,
    ) -> None:
        self._directory = directory
        self._own = own
        self._last_own: Sequence[PublishedVersion] | None = None
        self._fan_out = fan_out
        self._merger = merger
        self._delegation_seconds = delegation_seconds
        self._measurements = measurements

    async def check(self, text: str, *, scope: Scope | None, cluster_ids: Sequence[UUID] | None = None) -> None:
        """See the protocol."""
        planned = await self._plan(text, scope, cluster_ids)
        partial_schema(planned.plan)  # finds whatever compiling would find, without writing the SQL

    async def explain(
        self, text: str, *, scope: Scope | None, cluster_ids: Sequence[UUID] | None = None
    ) -> Explanation:
        """See the protocol."""
        planned = await self._plan(text, scope, cluster_ids)
        targets = [QueryTarget(cluster=t.name, included=True, reason=_reason(t.plan)) for t in planned.targets.asked]
        targets.extend(
            QueryTarget(cluster=skipped.cluster, included=False, reason=skipped.cause)
            for skipped in planned.targets.skipped
        )
        return Explanation(
            plan=planned.plan,
            node_sql={target.name: to_clickhouse(target.plan, "node") for target in planned.targets.asked},
            hub_sql=to_clickhouse(planned.plan, "hub"),
            targets=targets,
            advisories=_advisories(planned),
            estimated_rows=_table_rows(planned),
        )

    async def run(
        self,
        text: str,
        *,
        scope: Scope | None,
        cluster_ids: Sequence[UUID] | None = None,
        seconds: float,
        require: Require = "any",
    ) -> Answered:
        """See the protocol."""
        began = time.monotonic()
        planned = await self._plan(text, scope, cluster_ids)
        tables: list[pa.Table] = []

        async def merge(parts: Sequence[Part], left: float) -> int:
            tables.append(await self._merge(planned, parts, left))
            return int(tables[0].num_rows)

        provenance = await self._answer(planned, None, merge, began, seconds, require, named=cluster_ids is not None)
        return Answered(tables[0], provenance)

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
        """See the protocol."""
        began = time.monotonic()
        planned = await self._plan(text, scope, cluster_ids)
        union = Union(planned.plan, rows) if Union.suits(planned.plan) else None

        async def end(parts: Sequence[Part], left: float) -> int:
            if union is None:
                return await rows.write(await self._merge(planned, parts, left))
            try:
                with trio.fail_after(left):
                    return await rows.select(planned.plan.offset, planned.plan.limit)
            except trio.TooSlowError:
                raise DeadlineExceeded("the rows came, but were not put together in time") from None

        return await self._answer(planned, union, end, began, seconds, require, named=cluster_ids is not None)

    async def _answer(
        self,
        planned: Planned,
        union: Union | None,
        end: Callable[[Sequence[Part], float], Awaitable[int]],
        began: float,
        seconds: float,
        require: Require,
        *,
        named: bool,
    ) -> Provenance:
        """Ask, have ``end`` make the answer of the parts and say its rows, and say where it comes from."""
        parts: list[Part] = []
        try:
            allowed = min(seconds, self._delegation_seconds)
            with timed(QUERY_SECONDS, planned.scope.value), tracing.span("query", scope=planned.scope.value):
                parts = await self._fan_out.ask(planned.targets.asked, uuid4(), allowed, union, at_most=seconds)
                _check_enough(parts, planned.targets, require)
                rows = await end(parts, max(LEAST_MERGE_SECONDS, seconds - (time.monotonic() - began)))
        except SynDBError:
            self._measure(planned, parts, None, began, named=named)
            raise
        self._measure(planned, parts, rows, began, named=named)
        return _provenance(planned, parts, rows, time.monotonic() - began)

    async def _merge(self, planned: Planned, parts: Sequence[Part], seconds: float) -> pa.Table:
        """The answer made of the parts that came."""
        tables = [part.table for part in parts if part.table is not None]
        partials = pa.concat_tables(tables) if tables else partial_schema(planned.plan).empty_table()
        limits = Limits(seconds=seconds)
        return (await self._merger.merge(to_clickhouse(planned.plan, "hub"), partials, limits=limits)).table

    def _measure(self, planned: Planned, parts: Sequence[Part], rows: int | None, began: float, *, named: bool) -> None:
        if self._measurements is not None:
            self._measurements.query(
                planned.plan,
                planned.scope,
                planned.targets.asked,
                parts,
                named=named,
                seconds=time.monotonic() - began,
                rows=rows,
            )

    async def _plan(self, text: str, scope: Scope | None, cluster_ids: Sequence[UUID] | None) -> Planned:
        query = await _beside_the_loop(len(text), parse, text)
        agreed = _agree(query, scope)
        own, unknown = await self._own_versions(agreed)
        holdings = visible(self._directory, own, agreed, cluster_ids)
        away = [] if agreed is Scope.LOCAL else lost(self._directory, own, cluster_ids, holdings)
        # A data set that nobody else has is planned for like that of an unreachable node. Of one that somebody else
        # has, what there is answers; a version that should have answered instead is named as missing.
        there = {holding.version.dataset_id for holding in holdings}
        known = holdings + [holding for holding in away if holding.version.dataset_id not in there]
        planned = await _beside_the_loop(len(text), plan, query, versions(known))
        targets = assign(planned, known, self._in_scope(agreed, cluster_ids))
        if others := [holding for holding in away if holding.version.dataset_id in there]:
            with contextlib.suppress(UnknownName):  # then none of these has the name that the query speaks of
                whole = await _beside_the_loop(len(text), plan, query, versions(known + others))
                wanted = {(dataset.dataset_id, dataset.version) for dataset in whole.datasets}
                missing = {holding.key: holding for holding in others if holding.key in wanted}
                targets = with_missing(targets, list(missing.values()))
        if _relies_on_names(query):
            check_names(holding for holding in targets.holdings if holding.takes_part)
        if unknown is not None:
            targets = replace(targets, skipped=(*targets.skipped, unknown))
        return Planned(planned, agreed, targets)

    async def _own_versions(self, scope: Scope) -> tuple[Sequence[PublishedVersion], NodeOutcome | None]:
        """What the hub publishes, as last known while its engine is away; and the outcome if that is not known."""
        if scope is Scope.REMOTE:
            return (), None
        try:
            self._last_own = await self._own()
        except Unavailable as error:
            if self._last_own is None:
                if scope is Scope.LOCAL:
                    raise
                return (), NodeOutcome(cluster=HUB, status="skipped", cause=error.message, code=error.code)
        return self._last_own, None

    def _in_scope(self, scope: Scope, cluster_ids: Sequence[UUID] | None) -> list[Cluster]:
        if scope is Scope.LOCAL:
            return []
        return [
            cluster
            for cluster in self._directory.clusters.values()
            if cluster.record.is_active and (cluster_ids is None or cluster.record.id in cluster_ids)
        ]


def _agree(query: Query, scope: Scope | None) -> Scope:
    if query.scope is not None and scope is not None and query.scope is not scope:
        raise InvalidRequest(
            f"the query says SCOPE {query.scope}, the request says {scope}", hint="Leave one of them out."
        )
    return query.scope or scope or Scope.LOCAL


async def _beside_the_loop(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Do work whose time grows with a text: a long one in a thread, so that pings are answered meanwhile."""
    if size <= LONG_TEXT:
        return work(*arguments)
    return await trio.to_thread.run_sync(work, *arguments, limiter=_planning)


def _relies_on_names(query: Query) -> bool:
    """Whether two data sets of one name would be taken for one: only then does it matter that names differ."""
    mentioned = {column.name.lower() for column in query.tree.find_all(exp.Column)}
    return "dataset" in mentioned and "dataset_id" not in mentioned


def _provenance(planned: Planned, parts: Sequence[Part], rows: int, seconds: float) -> Provenance:
    outcomes = [part.outcome for part in parts] + list(planned.targets.skipped)
    answered = {outcome.cluster for outcome in outcomes if outcome.status == "answered"}
    holdings = planned.targets.holdings
    return Provenance(
        plan_hash=planned.plan.hash,
        scope=planned.scope,
        versions=[_version(holding) for holding in holdings if holding.holder in answered],
        missing_versions=[_version(holding) for holding in holdings if holding.holder not in answered],
        nodes=outcomes,
        rows=rows,
        scanned_rows=sum(outcome.scanned_rows for outcome in outcomes),
        scanned_bytes=sum(outcome.scanned_bytes for outcome in outcomes),
        seconds=seconds,
        truncated=False,
        complete=all(outcome.status == "answered" for outcome in outcomes),
    )


def _check_enough(parts: Sequence[Part], targets: Targets, require: Require) -> None:
    failed = [part for part in parts if not part.answered]
    missing = [f"{part.outcome.cluster} ({part.outcome.cause})" for part in failed]
    missing.extend(f"{skipped.cluster} ({skipped.cause})" for skipped in targets.skipped)
    nobody = bool(missing) and not any(part.answered for part in parts)
    if not missing or (require == "any" and not nobody):
        return
    codes = {part.error.code for part in failed if part.error is not None}
    if nobody and not targets.skipped and len(codes) == 1:
        raise _first_error(failed)
    raise Unavailable(
        ("no node answered: " if nobody else "not every node answered: ") + "; ".join(missing),
        hint="`syndb federation clusters` shows how the nodes are.",
    )


def _first_error(failed: Sequence[Part]) -> SynDBError:
    error = failed[0].error
    assert error is not None
    error.details = {**error.details, "cluster": failed[0].outcome.cluster}
    return error


def _version(holding: Holding) -> VersionRead:
    version = holding.version
    return VersionRead(
        dataset=version.metadata.dataset,
        dataset_id=version.dataset_id,
        version=version.version,
        content_hash=version.content_hash,
        cluster=holding.holder,
    )


def _reason(part: Plan) -> str:
    count = len(part.datasets)
    return f"holds {count} of the data sets" if count != 1 else "holds one of the data sets"


def _table_rows(planned: Planned) -> int:
    return sum(holding.version.row_counts.get(planned.plan.table, 0) for holding in planned.targets.holdings)


def _advisories(planned: Planned) -> list[str]:
    found = []
    if not planned.plan.datasets:
        found.append(f"No published data set in scope {planned.scope} matches: the answer will be empty.")
    if not planned.plan.is_aggregate and planned.plan.limit is None and _table_rows(planned) > LARGE_RESULT_ROWS:
        found.append(f"Up to {_table_rows(planned):,} rows would be returned; add LIMIT or aggregate.")
    found.extend(f"{skipped.cluster} will not be asked: {skipped.cause}." for skipped in planned.targets.skipped)
    found.extend(
        f"{target.name} is degraded and may be slow: {target.cluster.cause}."
        for target in planned.targets.asked
        if target.cluster is not None and target.cluster.health == "degraded"
    )
    return found
