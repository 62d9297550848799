"""A hub's HTTP side without nodes: real server, real store, real jobs, and a small SyQL engine over Arrow tables."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlglot
import trio
from sqlglot import exp

from actors.remote.identity import Identity
from actors.runtime import ActorRef
from syndb_common.errors import InvalidRequest, NotFound, NotSupported, SyQLSyntaxError, UnknownName
from syndb_common.messages import SchemaMigration
from syndb_common.syql.plan import ColumnRef, Output, Plan, PlannedDataset, Scope
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.versions import PublishedVersion
from syndb_hub.auth import Right, TokenService
from syndb_hub.downloads import Downloads
from syndb_hub.federation.answers import Answered, Explanation, NodeOutcome, Provenance, QueryTarget, VersionRead
from syndb_hub.federation.joining import HttpJoining
from syndb_hub.federation.rows import Rows
from syndb_hub.federation.service import (
    Check,
    ClusterEntry,
    ClusterHealth,
    ClusterView,
    ComponentHealth,
    DatasetView,
    FederationStatus,
    Health,
    SchemaOutcome,
    TransitionView,
)
from syndb_hub.federation.targets import Holding
from syndb_hub.http import Services, create_app, serve
from syndb_hub.jobs import JobRunner
from syndb_hub.settings import HttpSettings, JobSettings
from syndb_hub.store import Store
from syndb_hub.store.benchmarks import StoredBenchmarks

MIGRATIONS = (
    SchemaMigration(version=1, name="tables", statements=("CREATE TABLE syndb.neurons (cid UUID)",)),
    SchemaMigration(version=2, name="more", statements=("ALTER TABLE syndb.neurons ADD COLUMN name String",)),
)
STUDIES = {"worm-a": [1, 2, 3, 4], "worm-b": [2, 4, 6, 9], "worm-c": [5, 5, 7, 8], "worm-single": [3]}


def synapses() -> pa.Table:
    """Thirteen synapses of four data sets, with a missing score and a category."""
    rows = [(name, count) for name, counts in STUDIES.items() for count in counts]
    return pa.table(
        {
            "dataset": [name for name, _ in rows],
            "dataset_id": [str(dataset_id(name)) for name, _ in rows],
            "synapse_type": ["chemical" if index % 3 else "electrical" for index in range(len(rows))],
            "synapse_count": pa.array([count for _, count in rows], pa.uint32()),
            "connection_score": pa.array([None if index == 0 else index / 4 for index in range(len(rows))]),
        }
    )


_AGGREGATES = {exp.Count: "count", exp.Sum: "sum", exp.Avg: "mean", exp.Variance: "variance"}


@dataclass
class ArrowQueries:
    """Answers SELECT with WHERE =, IN, GROUP BY, ORDER BY and LIMIT over Arrow tables in this process.

    Set ``hold`` to make queries wait for the event, ``error`` to make them fail.
    """

    tables: dict[str, pa.Table] = field(default_factory=lambda: {"synapses": synapses()})
    hold: trio.Event | None = None
    error: Exception | None = None
    running: int = 0
    asked: list[str] = field(default_factory=list)
    _changed: trio.Event = field(default_factory=trio.Event)

    async def until_running(self, count: int) -> None:
        """Wait until exactly so many queries are being answered."""
        with trio.fail_after(20):
            while self.running != count:
                await self._changed.wait()

    def _count(self, change: int) -> None:
        self.running += change
        self._changed.set()
        self._changed = trio.Event()

    async def check(self, text: str, *, scope: Scope | None, cluster_ids: Sequence[UUID] | None = None) -> None:
        self._parse(text, scope)

    async def explain(
        self, text: str, *, scope: Scope | None, cluster_ids: Sequence[UUID] | None = None
    ) -> Explanation:
        statement, _ = self._parse(text, scope)
        outputs = tuple(Output(name=each.alias_or_name, expression=ColumnRef(name="cid")) for each in statement.selects)
        datasets = tuple(PlannedDataset(dataset_id=dataset_id(name), version=1) for name in STUDIES)
        plan = Plan(table=statement.find(exp.Table).name, datasets=datasets, outputs=outputs)
        return Explanation(
            plan=plan,
            node_sql={"worm-lab": statement.sql("clickhouse")},
            targets=[
                QueryTarget(cluster="worm-lab", included=True),
                QueryTarget(cluster="fly-lab", included=False, reason="no matching data"),
            ],
            estimated_rows=self.tables[plan.table].num_rows,
        )

    async def run_into(self, text: str, rows: Rows, **options: Any) -> Provenance:
        answered = await self.run(text, **options)
        await rows.write(answered.table)
        return answered.provenance

    async def run(
        self,
        text: str,
        *,
        scope: Scope | None,
        cluster_ids: Sequence[UUID] | None = None,
        seconds: float,
        require: str = "any",
    ) -> Answered:
        self.asked.append(text)
        statement, named = self._parse(text, scope)
        self._count(+1)
        try:
            if self.hold is not None:
                await self.hold.wait()
            await trio.lowlevel.checkpoint()
        finally:
            self._count(-1)
        if self.error is not None:
            raise self.error
        table = self._answer(statement)
        return Answered(
            table,
            Provenance(
                plan_hash=hashlib.sha256(text.encode()).hexdigest(),
                scope=named,
                versions=[
                    VersionRead(
                        dataset=name, dataset_id=dataset_id(name), version=1, content_hash="0" * 64, cluster="worm-lab"
                    )
                    for name in STUDIES
                ],
                nodes=[
                    NodeOutcome(cluster="worm-lab", status="answered", rows=table.num_rows, seconds=0.01),
                    NodeOutcome(
                        cluster="fly-lab", status="failed", cause="the node cannot be reached", code="peer_unavailable"
                    ),
                    NodeOutcome(cluster="mouse-lab", status="skipped", cause="its schema is too old"),
                ],
                rows=table.num_rows,
                scanned_rows=13,
                scanned_bytes=1300,
                seconds=0.02,
                complete=False,
            ),
        )

    def _parse(self, text: str, scope: Scope | None) -> tuple[exp.Select, Scope]:
        sql, _, named = text.partition(" SCOPE ")
        if named and scope is not None and named != scope:
            raise InvalidRequest(f"The text says SCOPE {named}, the request {scope}.")
        try:
            statement = sqlglot.parse_one(sql)
        except sqlglot.errors.ParseError as error:
            at = error.errors[0]
            raise SyQLSyntaxError(
                "This is not SyQL.", hint="Check the text.", line=at["line"], column=at["col"]
            ) from None
        if not isinstance(statement, exp.Select) or statement.find(exp.Anonymous):
            raise NotSupported("SyQL does not have this.")
        table = self.tables.get(statement.find(exp.Table).name)
        if table is None:
            raise UnknownName("unknown table")
        aliases = {each.alias for each in statement.selects}
        for column in statement.find_all(exp.Column):
            if column.name not in table.column_names and column.name not in aliases:
                raise UnknownName(f"unknown column `{column.name}`", hint="did you mean `synapse_count`?")
        return statement, Scope(named) if named else scope or Scope.LOCAL

    def _answer(self, statement: exp.Select) -> pa.Table:
        table = self.tables[statement.find(exp.Table).name]
        if (where := statement.args.get("where")) is not None:
            for test in where.this.flatten() if isinstance(where.this, exp.And) else [where.this]:
                test = test.unnest()
                values = [each.name for each in test.expressions] or [test.expression.name]
                table = table.filter(pc.is_in(pc.cast(table[test.this.name], pa.string()), pa.array(values)))
        names = [each.alias_or_name for each in statement.selects]
        plain = [each.unalias() for each in statement.selects]
        if isinstance(plain[0], exp.Star):
            names = table.column_names
        elif any(isinstance(each, exp.AggFunc) for each in plain):
            group = statement.args.get("group")
            keys = [each.name for each in group.expressions] if group else []
            table = self._aggregate(table, keys, names, plain)
        else:
            table = table.select([each.name for each in plain]).rename_columns(names)
        if (order := statement.args.get("order")) is not None:
            table = table.sort_by(
                [(each.this.name, "descending" if each.args.get("desc") else "ascending") for each in order.expressions]
            )
        limit = statement.args.get("limit")
        return table if limit is None else table.slice(0, int(limit.expression.name))

    def _aggregate(self, table: pa.Table, keys: list[str], names: list[str], plain: list[exp.Expression]) -> pa.Table:
        columns: dict[str, Any] = {}
        for index, (name, each) in enumerate(zip(names, plain, strict=True)):
            if isinstance(each, exp.AggFunc):
                star = isinstance(each.this, exp.Star)
                function = _AGGREGATES[type(each)]
                options = {
                    "variance": pc.VarianceOptions(ddof=1),
                    "count": pc.CountOptions("all" if star else "only_valid"),
                }
                target = table.column_names[0] if star else each.this.name
                found = table.group_by(keys, use_threads=False).aggregate([(target, function, options.get(function))])
                columns[name] = found[f"{target}_{function}"]
                for key in keys:
                    columns.setdefault(f"key {key}", found[key])
            else:
                columns[name] = index
        return pa.table(
            {name: columns[f"key {name}"] if isinstance(columns[name], int) else columns[name] for name in names}
        )


class TwoNodes:
    """A federation of one node that is as ``health`` says, one that is unreachable, and ``more``."""

    def __init__(self) -> None:
        self.health: Health = "healthy"
        self.more: list[ClusterView] = []
        self.held: list[PublishedVersion] = []
        self.held_by_nodes: list[Holding] = []

    async def holdings(self) -> list[Holding]:
        return [*self.held_by_nodes, *(Holding(version, None) for version in self.held)]

    async def clusters(self) -> list[ClusterView]:
        datasets = tuple(
            DatasetView(
                dataset_id=dataset_id(name),
                dataset=name,
                title=f"Worm {name[-1]}",
                version=1,
                row_counts={"synapses": len(counts)},
                sharing="rows",
                species="Caenorhabditis elegans",
                sex="hermaphrodite",
                stage="adult",
            )
            for name, counts in STUDIES.items()
        )
        return [
            ClusterView(
                id=dataset_id("fly-lab"),
                name="fly-lab",
                institution="Institute of Flies",
                endpoint="10.0.0.2",
                port=50052,
                peer_id="12D3KooWFly",
                health="unreachable",
                health_cause="3 pings without an answer",
                schema_version=2,
                last_seen=datetime(2026, 1, 1, tzinfo=UTC),
            ),
            ClusterView(
                id=dataset_id("worm-lab"),
                name="worm-lab",
                institution="Institute of Worms",
                endpoint="10.0.0.1",
                port=50052,
                peer_id="12D3KooWWorm",
                health=self.health,
                schema_version=2,
                latency_ms=1.5,
                last_seen=datetime(2026, 1, 1, tzinfo=UTC),
                datasets=datasets,
            ),
            *self.more,
        ]

    async def cluster(self, cluster_id: UUID) -> ClusterView:
        found = [view for view in await self.clusters() if view.id == cluster_id]
        if not found:
            raise NotFound(f"no cluster {cluster_id}")
        return found[0]

    def status(self) -> FederationStatus:
        return FederationStatus(
            total_clusters=2, active_clusters=2, healthy=1, degraded=0, unreachable=1, unknown=0, schema_version=2
        )


class Control:
    """Remembers what the operator asked for, and knows the nodes of a federation."""

    def __init__(self, federation: TwoNodes) -> None:
        self._federation = federation
        self.asked: list[tuple[Any, ...]] = []

    async def sync_schema(self, *, dry_run: bool, cluster_ids: Sequence[UUID] | None = None) -> list[SchemaOutcome]:
        self.asked.append(("sync", dry_run, cluster_ids))
        return [SchemaOutcome(cluster="worm-lab", schema_version=2, applied=[2] if dry_run else [])]

    async def enter(self, entry: ClusterEntry) -> UUID:
        self.asked.append(("enter", entry))
        return (await self._federation.clusters())[0].id

    async def activate(self, cluster_id: UUID) -> None:
        await self._did("activate", cluster_id)

    async def deactivate(self, cluster_id: UUID) -> None:
        await self._did("deactivate", cluster_id)

    async def forget(self, cluster_id: UUID) -> None:
        await self._did("forget", cluster_id)

    async def revoke_key(self, cluster_id: UUID, cause: str) -> None:
        await self._did("revoke", cluster_id, cause)

    async def approve_hosts(self, cluster_id: UUID, hosts: Sequence[str]) -> None:
        await self._did("approve", cluster_id, tuple(hosts))

    async def verify(self, cluster_id: UUID) -> ClusterHealth:
        await self._did("verify", cluster_id)
        return await self.history(cluster_id, limit=20)

    async def history(self, cluster_id: UUID, *, limit: int) -> ClusterHealth:
        change = TransitionView(
            at=datetime(2026, 1, 1, tzinfo=UTC), from_state="unknown", to_state="healthy", cause="first ping"
        )
        return ClusterHealth(cluster=await self._federation.cluster(cluster_id), transitions=(change,) * min(limit, 3))

    async def test_connectivity(self, cluster_id: UUID) -> Check:
        await self._did("connectivity", cluster_id)
        return Check(test="connectivity", passed=True, latency_ms=1.5, detail="answers pings")

    async def test_schema(self, cluster_id: UUID) -> Check:
        await self._did("schema", cluster_id)
        return Check(test="schema", passed=False, latency_ms=1.0, cause="behind: schema version 1, the hub has 2")

    async def test_query(self, cluster_id: UUID) -> Check:
        await self._did("query", cluster_id)
        return Check(test="query", passed=False, latency_ms=0.0, cause="not tried, since schema failed: behind")

    async def _did(self, what: str, cluster_id: UUID, *more: Any) -> None:
        await self._federation.cluster(cluster_id)
        self.asked.append((what, cluster_id, *more))


@dataclass
class Components:
    """Health of stores as a test sets it."""

    found: dict[str, ComponentHealth] = field(
        default_factory=lambda: {
            "postgres": ComponentHealth(status="ok", latency_ms=0.2, store="SQLite"),
            "clickhouse": ComponentHealth(status="ok", latency_ms=1.0, store="embedded ClickHouse"),
            "storage": ComponentHealth(status="ok", store="local folder"),
        }
    )

    async def components(self) -> dict[str, ComponentHealth]:
        return self.found


@dataclass
class Hub:
    """A running hub: its address, a token with every right, and the parts behind it."""

    url: str
    token: str
    tokens: TokenService
    queries: ArrowQueries
    federation: TwoNodes
    probe: Components
    jobs: JobRunner
    downloads: Downloads
    control: Control
    benchmarks: StoredBenchmarks

    def client(self, token: str | None = None) -> httpx.AsyncClient:
        """An HTTP client; with the token of every right unless another one is given ("" for none)."""
        token = self.token if token is None else token
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30)


@pytest.fixture
def make_queries() -> type[ArrowQueries]:
    """The small SyQL engine's class, for tests that need one of their own."""
    return ArrowQueries


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "hub.sqlite")
    yield opened
    await opened.close()


@pytest.fixture
def hub_options() -> SimpleNamespace:
    """Settings of the ``hub`` fixture; override it in a test module to change them."""
    return SimpleNamespace(http=HttpSettings(rate_limit_burst=10_000), jobs=JobSettings(), serve={})


@pytest.fixture
def hub_identity() -> Identity:
    """The hub's key."""
    return Identity.generate()


@pytest.fixture
def registry() -> ActorRef | None:
    """Who admits nodes; override it in a test module that has nodes join."""
    return None


@pytest.fixture
async def hub(
    store: Store,
    tmp_path: Path,
    hub_options: SimpleNamespace,
    hub_identity: Identity,
    registry: Any,
    nursery: trio.Nursery,
) -> Hub:
    """A hub on a free port; it ends with the test."""
    queries, federation, probe, tokens = ArrowQueries(), TwoNodes(), Components(), TokenService(store)
    jobs = JobRunner(store, queries, tmp_path / "objects", hub_options.jobs)
    downloads = Downloads(tmp_path / "downloads", jobs, federation.holdings, hub_options.jobs)
    control, benchmarks = Control(federation), StoredBenchmarks(store)
    services = Services(
        queries=queries,
        federation=federation,
        control=control,
        joining=HttpJoining(registry, hub_identity, lambda _: False),
        benchmarks=benchmarks,
        jobs=jobs,
        downloads=downloads,
        tokens=tokens,
        probe=probe,
        migrations=lambda: MIGRATIONS,
        version="1.2.3",
        settings=hub_options.http,
    )
    await nursery.start(jobs.run)
    await nursery.start(downloads.run)

    async def run(task_status: trio.TaskStatus[str]) -> None:
        await serve(create_app(services), "127.0.0.1", 0, task_status=task_status, **hub_options.serve)

    url = await nursery.start(run)
    issued = await tokens.create("everything", [Right.EVERYTHING])
    return Hub(url, issued.text, tokens, queries, federation, probe, jobs, downloads, control, benchmarks)
