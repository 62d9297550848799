"""From text to answer, with nodes that answer as told and a real engine that merges their parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
import trio

from actors.analytics_delegate import to_ipc
from actors.directory import Cluster, Directory, Health, Standing
from syndb_common.engine.interface import Answer, Limits, Scan
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import (
    Conflict,
    DeadlineExceeded,
    EngineUnavailable,
    InvalidRequest,
    NotFound,
    PeerUnavailable,
    PolicyRefused,
    SynDBError,
    SyQLError,
    Unavailable,
)
from syndb_common.messages import Acknowledged, AnalyticsQuery, AnalyticsResult, CancelQuery
from syndb_common.syql import Scope, partial_schema
from syndb_common.tables.versions import PublishedVersion
from syndb_hub.federation import queries
from syndb_hub.federation.fan_out import FanOut
from syndb_hub.federation.queries import LARGE_RESULT_ROWS, FederatedQueries
from tests.actors.federation_parts import Peer, cluster, published

COUNT = "SELECT COUNT(*) AS n FROM synapses"


class Federation:
    """Nodes ``name=(health, answer)``, each holding the data set of its name. An answer is rows, or an error."""

    def __init__(self, merger: LocalEngine | None = None) -> None:
        self.directory = Directory()
        self.answers: dict[str, int | SynDBError] = {}
        self.questions: list[AnalyticsQuery] = []
        self.own: Sequence[PublishedVersion] | SynDBError = ()
        engine: Any = merger
        self.queries = FederatedQueries(
            directory=self.directory,
            own=self._own,
            fan_out=FanOut(self.directory, engine, self._peer, 10**9),
            merger=engine,
            delegation_seconds=20,
        )

    def add(self, name: str, answer: int | SynDBError, *, health: Health = Health.HEALTHY, rows: int = 10) -> Cluster:
        node = cluster(name, health=health, cause="", versions=(published(name, synapses=rows),), catalogue_revision=1)
        self.answers[name] = answer
        self.directory.publish([node])
        return node

    async def _own(self) -> Sequence[PublishedVersion]:
        await trio.lowlevel.checkpoint()
        if isinstance(self.own, SynDBError):
            raise self.own
        return self.own

    def _peer(self, node: Cluster) -> Peer:
        def compute(message: AnalyticsQuery) -> AnalyticsResult:
            self.questions.append(message)
            answer = self.answers[node.record.name]
            if isinstance(answer, SynDBError):
                raise answer
            wanted = partial_schema(message.plan)
            assert wanted.names == ["__s0"]
            return AnalyticsResult(inline=to_ipc(pa.table([pa.array([answer], wanted.types[0])], wanted)))

        return Peer({AnalyticsQuery: compute, CancelQuery: lambda message: Acknowledged()})

    async def run(self, text: str = COUNT, **options: Any) -> Any:
        return await self.queries.run(text, **{"scope": Scope.FEDERATION, "seconds": 30.0, **options})


@pytest.fixture
async def federation(nursery: trio.Nursery) -> AsyncIterator[Federation]:
    merger = LocalEngine(None, name="merger")
    await nursery.start(merger.run)
    yield Federation(merger)
    nursery.cancel_scope.cancel()


def rows(answered: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answered.table.to_pylist()
    return found


async def test_parts_are_merged_and_the_answer_says_where_it_comes_from(federation: Federation) -> None:
    federation.add("worm", 3)
    federation.add("fly", 4)
    answered = await federation.run()
    assert rows(answered) == [{"n": 7}]
    provenance = answered.provenance
    assert (provenance.complete, provenance.truncated, provenance.rows) == (True, False, 1)
    assert {(each.dataset, each.version, each.cluster) for each in provenance.versions} == {
        ("worm", 1, "worm"),
        ("fly", 1, "fly"),
    }
    assert len({message.query_id for message in federation.questions}) == 1
    assert all(19 < message.seconds <= 20 for message in federation.questions)


async def test_a_missing_node_is_named_and_the_answer_is_not_called_complete(federation: Federation) -> None:
    federation.add("worm", 3)
    federation.add("fly", PeerUnavailable("gone"))
    federation.add("mouse", 5, health=Health.UNREACHABLE)
    answered = await federation.run()
    assert rows(answered) == [{"n": 3}]
    assert not answered.provenance.complete
    outcomes = {each.cluster: (each.status, each.cause) for each in answered.provenance.nodes}
    assert outcomes == {
        "worm": ("answered", ""),
        "fly": ("failed", "gone"),
        "mouse": ("skipped", "unreachable"),
    }


async def test_versions_of_nodes_that_did_not_answer_are_missing_and_not_read(federation: Federation) -> None:
    federation.add("worm", 3)
    federation.add("fly", PeerUnavailable("gone"))
    federation.add("mouse", 5, health=Health.UNREACHABLE)
    provenance = (await federation.run()).provenance
    assert [(each.dataset, each.cluster) for each in provenance.versions] == [("worm", "worm")]
    assert {(each.dataset, each.cluster) for each in provenance.missing_versions} == {
        ("fly", "fly"),
        ("mouse", "mouse"),
    }


async def test_two_data_sets_of_one_name_are_not_pooled_unless_selected_by_id(federation: Federation) -> None:
    worm, fly = federation.add("worm", 3), federation.add("fly", 4)
    namesake = fly.versions[0].model_copy(update={"metadata": worm.versions[0].metadata})
    federation.directory.publish([replace(fly, versions=(namesake,))])
    by_name = COUNT + " WHERE dataset = 'worm'"
    for text in ("SELECT dataset, COUNT(*) FROM synapses GROUP BY dataset SCOPE federation", by_name):
        with pytest.raises(Conflict, match="worm names two data sets"):
            await federation.run(text)
    assert federation.questions == []
    assert rows(await federation.run(COUNT)) == [{"n": 7}]
    assert rows(await federation.run(f"{by_name} AND dataset_id = '{namesake.dataset_id}'")) == [{"n": 4}]
    assert rows(await federation.run(by_name, cluster_ids=[worm.record.id])) == [{"n": 3}]


AWAY = EngineUnavailable("the engine is being restarted")


class Warehouse:
    """The hub's own engine while it is being restarted."""

    async def query(self, sql: str, **options: Any) -> Any:
        raise AWAY


@pytest.mark.parametrize("known", [True, False], ids=["known before", "never known"])
async def test_the_hubs_own_engine_being_restarted_is_one_missing_part(federation: Federation, known: bool) -> None:
    federation.add("worm", 3)
    warehouse: Any = Warehouse()
    federation.queries._fan_out = replace(federation.queries._fan_out, warehouse=warehouse)
    federation.own = (published("hub-data"),)
    if known:
        await federation.queries.check(COUNT, scope=Scope.LOCAL)
    federation.own = AWAY
    answered = await federation.run()
    assert rows(answered) == [{"n": 3}]
    outcomes = {each.cluster: (each.status, each.code) for each in answered.provenance.nodes}
    assert outcomes == {
        "worm": ("answered", ""),
        "hub": ("failed" if known else "skipped", "engine_unavailable"),
    }
    assert [each.dataset for each in answered.provenance.missing_versions] == (["hub-data"] if known else [])
    assert not answered.provenance.complete
    assert (await federation.run(scope=Scope.REMOTE)).provenance.complete
    with pytest.raises(EngineUnavailable):
        await federation.run(scope=Scope.LOCAL)


@pytest.mark.parametrize(("spent", "left"), [(4.0, 6.0), (9.9, 1.0)])
async def test_merging_has_what_the_parts_left_of_the_deadline(spent: float, left: float) -> None:
    class Merger:
        async def merge(self, sql: str, partials: pa.Table, *, limits: Limits) -> Answer:
            allowed.append(limits.seconds)
            return Answer(partials, Scan(0, 0, 0.0))

    allowed: list[float] = []
    federation = Federation(Merger())  # type: ignore[arg-type]
    federation.add("worm", 3)
    now = [100.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries.time, "monotonic", lambda: now[0])
        compute = federation._peer

        def slow(node: Cluster) -> Peer:
            now[0] += spent
            return compute(node)

        federation.queries._fan_out = replace(federation.queries._fan_out, peer=slow)
        await federation.run(seconds=10.0)
    assert allowed == [pytest.approx(left)]


@pytest.mark.parametrize("missing", ["failed", "skipped"])
async def test_who_requires_all_gets_all_or_an_error_that_names_the_missing(missing: str) -> None:
    federation = Federation()
    federation.add("worm", 3)
    if missing == "failed":
        federation.add("fly", PeerUnavailable("gone"))
    else:
        federation.add("fly", 4, health=Health.UNREACHABLE)
    with pytest.raises(Unavailable, match=r"not every node answered: fly \("):
        await federation.run(require="all")


def stand(federation: Federation, node: Cluster, standing: Standing, **facts: Any) -> None:
    """Give a node another standing."""
    federation.directory.publish([replace(node, record=replace(node.record, standing=standing), **facts)])


@pytest.mark.parametrize(
    ("standing", "cause"),
    [
        (Standing.INACTIVE, "deactivated by the hub's operator"),
        (Standing.WAITING, "waits for approval"),
        (Standing.PENDING, "has not joined"),
    ],
)
async def test_a_node_that_takes_no_part_is_missing_from_the_answer_and_never_asked(
    federation: Federation, standing: Standing, cause: str
) -> None:
    worm = federation.add("worm", 3)
    stand(federation, federation.add("fly", 4), standing)
    answered = await federation.run()
    assert rows(answered) == [{"n": 3}]
    provenance = answered.provenance
    assert not provenance.complete
    outcomes = {each.cluster: (each.status, each.cause) for each in provenance.nodes}
    assert outcomes == {"worm": ("answered", ""), "fly": ("skipped", cause)}
    assert [(each.dataset, each.cluster) for each in provenance.missing_versions] == [("fly", "fly")]
    assert len(federation.questions) == 1
    with pytest.raises(Unavailable, match=rf"not every node answered: fly \({cause}\)"):
        await federation.run(require="all")
    for whole in ({"text": COUNT + " WHERE dataset = 'worm'"}, {"cluster_ids": [worm.record.id]}):
        assert (await federation.run(**whole, require="all")).provenance.complete


@pytest.mark.parametrize("require", ["any", "all"])
@pytest.mark.parametrize("text", [COUNT, COUNT + " WHERE dataset = 'fly'"], ids=["all data sets", "by name"])
async def test_data_of_a_deactivated_node_alone_are_no_empty_answer_and_no_unknown_name(
    require: str, text: str
) -> None:
    federation = Federation()
    stand(federation, federation.add("fly", 4), Standing.INACTIVE)
    with pytest.raises(Unavailable, match=r"no node answered: fly \(deactivated by the hub's operator\)"):
        await federation.run(text, require=require)
    assert federation.questions == []


async def test_an_older_version_answers_for_a_deactivated_owners_newer_one_and_not_in_silence(
    federation: Federation,
) -> None:
    worm = federation.add("worm", 3)
    owner = cluster("owner", record_facts={"registered_at": worm.record.registered_at - timedelta(days=1)})
    stand(federation, owner, Standing.INACTIVE, versions=(*worm.versions, published("worm", 2)))
    answered = await federation.run()
    assert rows(answered) == [{"n": 3}]
    assert [(each.version, each.cluster) for each in answered.provenance.versions] == [(1, "worm")]
    assert [(each.version, each.cluster) for each in answered.provenance.missing_versions] == [(2, "owner")]
    assert (await federation.run(COUNT + " WHERE version = 1", require="all")).provenance.complete
    with pytest.raises(Unavailable, match="owner"):
        await federation.run(require="all")


async def test_a_deactivated_namesake_is_no_conflict(federation: Federation) -> None:
    worm, fly = federation.add("worm", 3), federation.add("fly", 4)
    namesake = fly.versions[0].model_copy(update={"metadata": worm.versions[0].metadata})
    stand(federation, fly, Standing.INACTIVE, versions=(namesake,))
    answered = await federation.run(COUNT + " WHERE dataset = 'worm'")
    assert (rows(answered), answered.provenance.complete) == ([{"n": 3}], False)


async def test_when_every_owner_refuses_the_refusal_is_the_answer() -> None:
    federation = Federation()
    for name in ("worm", "fly"):
        federation.add(name, PolicyRefused(f"{name} is not shared", hint="Exclude it."))
    with pytest.raises(PolicyRefused) as refused:
        await federation.run()
    assert refused.value.http_status == 403
    assert refused.value.details["cluster"] in ("worm", "fly")


async def test_when_all_are_late_it_is_a_deadline() -> None:
    federation = Federation()
    federation.add("worm", DeadlineExceeded("no answer within 20 s"))
    with pytest.raises(DeadlineExceeded):
        await federation.run()


async def test_when_nobody_answers_for_different_reasons_all_are_named() -> None:
    federation = Federation()
    federation.add("worm", PolicyRefused("not shared"))
    federation.add("fly", PeerUnavailable("gone"))
    federation.add("mouse", 1, health=Health.UNREACHABLE)
    with pytest.raises(Unavailable) as error:
        await federation.run()
    assert all(name in error.value.message for name in ("worm (not shared)", "fly (gone)", "mouse (unreachable)"))


async def test_no_data_sets_give_the_empty_answer_of_sql(federation: Federation) -> None:
    assert rows(await federation.run()) == [{"n": 0}]
    grouped = await federation.run("SELECT dataset, COUNT(*) AS n FROM synapses GROUP BY dataset")
    assert (rows(grouped), grouped.table.schema.names) == ([], ["dataset", "n"])
    assert grouped.provenance.complete


@pytest.mark.parametrize(
    ("text", "scope", "agreed"),
    [
        (COUNT, None, Scope.LOCAL),
        (COUNT, Scope.REMOTE, Scope.REMOTE),
        (COUNT + " SCOPE remote", None, Scope.REMOTE),
        (COUNT + " SCOPE remote", Scope.REMOTE, Scope.REMOTE),
    ],
)
async def test_the_scope_comes_from_the_text_or_the_request(text: str, scope: Scope | None, agreed: Scope) -> None:
    federation = Federation()
    federation.add("worm", 3)
    explanation = await federation.queries.explain(text, scope=scope)
    assert [each.cluster for each in explanation.targets] == (["worm"] if agreed is Scope.REMOTE else [])


@pytest.mark.parametrize("way", ["check", "explain", "run"])
async def test_a_scope_in_the_request_that_disagrees_with_the_text_is_refused(way: str) -> None:
    options: dict[str, Any] = {"seconds": 30.0} if way == "run" else {}
    ask: Callable[..., Any] = getattr(Federation().queries, way)
    with pytest.raises(InvalidRequest, match="SCOPE remote"):
        await ask(COUNT + " SCOPE remote", scope=Scope.LOCAL, **options)


@pytest.mark.parametrize("text", ["", "SELECT", "SELECT nothing FROM synapses", "SELECT * FROM url('http://x')"])
async def test_what_is_wrong_with_the_text_is_found_before_anybody_is_asked(text: str) -> None:
    federation = Federation()
    federation.add("worm", 3)
    for way in (federation.queries.check, federation.queries.explain):
        with pytest.raises(SyQLError):
            await way(text, scope=Scope.FEDERATION)
    assert federation.questions == []


async def test_only_the_nodes_named_are_asked_or_missed(federation: Federation) -> None:
    worm = federation.add("worm", 3)
    federation.add("fly", 4)
    federation.add("mouse", 5, health=Health.UNREACHABLE)
    answered = await federation.run(cluster_ids=[worm.record.id])
    assert rows(answered) == [{"n": 3}]
    assert answered.provenance.complete
    with pytest.raises(NotFound):
        await federation.run(cluster_ids=[uuid4()])


async def test_an_explanation_executes_nothing_and_says_who_would_be_asked() -> None:
    federation = Federation()
    federation.add("worm", 3, rows=2 * LARGE_RESULT_ROWS)
    federation.add("mouse", 5, health=Health.UNREACHABLE)
    explanation = await federation.queries.explain("SELECT cid FROM synapses", scope=Scope.FEDERATION)
    assert {each.cluster: each.included for each in explanation.targets} == {"worm": True, "mouse": False}
    assert list(explanation.node_sql) == ["worm"]
    assert str(published("worm").dataset_id) in explanation.node_sql["worm"]
    assert str(published("mouse").dataset_id) not in explanation.node_sql["worm"]
    assert "partials" in explanation.hub_sql
    assert any("LIMIT" in advisory for advisory in explanation.advisories)
    assert any("mouse" in advisory for advisory in explanation.advisories)
    assert federation.questions == []
