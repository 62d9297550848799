"""Row queries: their parts go into the result as they come, and say the same as a merge of whole parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio

from actors.analytics_delegate import to_ipc
from actors.directory import Cluster, Directory, Health
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import LimitExceeded, PeerUnavailable, SynDBError, Unavailable
from syndb_common.messages import Acknowledged, AnalyticsQuery, AnalyticsResult, CancelQuery
from syndb_common.syql import Plan, Scope, partial_schema
from syndb_hub.federation.fan_out import FanOut
from syndb_hub.federation.queries import FederatedQueries
from syndb_hub.federation.ways import AlwaysPull, Delivery, Ways
from syndb_hub.jobs.writing import ResultWriter
from tests.actors.federation_parts import Peer, cluster, published

ROWS = "SELECT cid, synapse_count, connection_score, synapse_type FROM synapses"


class Nodes:
    """Nodes that answer row queries with ``count`` rows each, or with an error."""

    def __init__(
        self,
        merger: Any,
        answers: dict[str, int | SynDBError | Callable[[pa.Table], bytes]],
        ways: Ways | None = None,
        patience: float = 20.0,
    ) -> None:
        self.directory = Directory()
        self.answers = answers
        self.questions: list[AnalyticsQuery] = []
        for name in answers:
            versions = (published(name, synapses=10),)
            self.directory.publish([cluster(name, health=Health.HEALTHY, cause="", versions=versions)])
        self.queries = FederatedQueries(
            directory=self.directory,
            own=self._own,
            fan_out=FanOut(self.directory, merger, self._peer, 10**8, ways=ways or AlwaysPull()),
            merger=merger,
            delegation_seconds=patience,
        )

    async def _own(self) -> tuple[()]:
        await trio.lowlevel.checkpoint()
        return ()

    def _peer(self, node: Cluster) -> Peer:
        def compute(message: AnalyticsQuery) -> AnalyticsResult:
            self.questions.append(message)
            answer = self.answers[node.record.name]
            if isinstance(answer, SynDBError):
                raise answer
            table = some_rows(partial_schema(message.plan), answer if isinstance(answer, int) else 5, node.record.name)
            return AnalyticsResult(
                inline=to_ipc(in_order(table, message.plan)) if isinstance(answer, int) else answer(table)
            )

        return Peer({AnalyticsQuery: compute, CancelQuery: lambda message: Acknowledged()})

    async def run_into(self, text: str, writer: ResultWriter, **options: Any) -> Any:
        return await self.queries.run_into(text, writer, **{"scope": Scope.REMOTE, "seconds": 30.0, **options})


def some_rows(schema: pa.Schema, count: int, name: str) -> pa.Table:
    def column(kind: pa.DataType) -> pa.Array:
        values = [f"{name} {n}" if pa.types.is_string(kind) else n for n in range(count)]
        return pa.array([None, *values[1:]] if values else [], pa.string() if pa.types.is_string(kind) else pa.int64())

    return pa.table([column(field.type).cast(field.type) for field in schema], schema)


def in_order(table: pa.Table, plan: Plan) -> pa.Table:
    keys = [(f"__o{i}", "descending" if each.descending else "ascending") for i, each in enumerate(plan.order_by)]
    return table.sort_by(keys) if keys else table


@pytest.fixture
def writer(tmp_path: Path) -> ResultWriter:
    return ResultWriter(tmp_path / "result.part", max_bytes=10**8, limiter=trio.CapacityLimiter(2))


@pytest.fixture
async def merger(nursery: trio.Nursery) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(None, name="merger")
    await nursery.start(engine.run)
    yield engine
    nursery.cancel_scope.cancel()


def read(writer: ResultWriter, tmp_path: Path) -> pa.Table:
    writer.finish()
    return pa.ipc.open_file(tmp_path / "result.part").read_all()


def key(row: dict[str, Any]) -> str:
    return repr(sorted(row.items()))


async def test_a_streamed_answer_has_the_rows_and_the_columns_of_a_merged_one(
    merger: LocalEngine, writer: ResultWriter, tmp_path: Path
) -> None:
    nodes = Nodes(merger, {"worm": 7, "fly": 0, "mouse": 300})
    merged = (await nodes.queries.run(ROWS, scope=Scope.REMOTE, seconds=30.0)).table
    provenance = await nodes.run_into(ROWS, writer)
    streamed = read(writer, tmp_path)
    assert streamed.schema.equals(merged.schema)
    assert sorted(map(key, streamed.to_pylist())) == sorted(map(key, merged.to_pylist()))
    assert (provenance.rows, provenance.complete) == (307, True)
    assert {outcome.cluster: outcome.rows for outcome in provenance.nodes} == {"worm": 7, "fly": 0, "mouse": 300}


async def test_limit_and_offset_count_over_all_nodes(writer: ResultWriter, tmp_path: Path) -> None:
    provenance = await Nodes(None, {"worm": 7, "fly": 7}).run_into(f"{ROWS} LIMIT 9 OFFSET 3", writer)
    assert (provenance.rows, read(writer, tmp_path).num_rows) == (9, 9)


async def test_an_answer_in_order_is_put_together_from_the_order_of_its_parts(
    writer: ResultWriter, tmp_path: Path
) -> None:
    text = "SELECT synapse_count FROM synapses ORDER BY synapse_count DESC, cid LIMIT 4 OFFSET 1"
    provenance = await Nodes(None, {"worm": 7, "fly": 5, "fish": 0}).run_into(text, writer)
    found = read(writer, tmp_path)
    assert found.to_pydict() == {"synapse_count": [5, 4, 4, 3]}
    assert (provenance.rows, provenance.complete) == (4, True)


async def test_a_part_that_is_not_in_order_is_refused_and_the_others_answer(
    writer: ResultWriter, tmp_path: Path
) -> None:
    text = "SELECT synapse_count FROM synapses ORDER BY synapse_count"
    nodes = Nodes(None, {"worm": 3, "fly": to_ipc})  # whose NULL comes first
    provenance = await nodes.run_into(text, writer)
    causes = {outcome.cluster: outcome.cause for outcome in provenance.nodes}
    assert "not in the order" in causes["fly"]
    assert read(writer, tmp_path).to_pydict() == {"synapse_count": [1, 2, None]}


async def test_nodes_are_told_how_long_all_of_their_rows_are_waited_for(writer: ResultWriter) -> None:
    nodes = Nodes(None, {"worm": 1})
    await nodes.run_into(ROWS, writer, seconds=7200.0)
    [asked] = nodes.questions
    assert asked.seconds <= 20
    assert 7000 < asked.delivery_seconds <= 7200


async def test_a_part_that_waits_for_its_turn_at_the_hub_has_its_time_when_it_comes(writer: ResultWriter) -> None:
    class Queue(AlwaysPull):
        async def choose(self, cluster: Cluster, seconds: float) -> Delivery:
            await trio.sleep(1.5)
            return Delivery()

    nodes = Nodes(None, {"worm": 7}, Queue(), patience=1.0)
    assert (await nodes.run_into(ROWS, writer)).rows == 7
    assert nodes.questions[0].seconds > 0.5


async def test_an_aggregate_is_merged(merger: LocalEngine, writer: ResultWriter, tmp_path: Path) -> None:
    await Nodes(merger, {"worm": 2, "fly": 1}).run_into("SELECT COUNT(*) AS n FROM synapses", writer)
    assert read(writer, tmp_path).num_rows == 1


@pytest.mark.parametrize("broken", [PeerUnavailable("gone"), lambda table: to_ipc(table)[:-100]])
async def test_nothing_is_kept_of_a_part_that_broke_off_and_the_answer_says_so(
    broken: Any, writer: ResultWriter, tmp_path: Path
) -> None:
    provenance = await Nodes(None, {"worm": 7, "fly": broken}).run_into(ROWS, writer)
    assert not provenance.complete
    assert {outcome.cluster: outcome.status for outcome in provenance.nodes} == {"worm": "answered", "fly": "failed"}
    assert [row["synapse_count"] for row in read(writer, tmp_path).to_pylist()] == [None, *range(1, 7)]


async def test_an_answer_that_must_be_complete_fails_with_a_broken_part(writer: ResultWriter) -> None:
    with pytest.raises(Unavailable, match="gone"):
        await Nodes(None, {"worm": 7, "fly": PeerUnavailable("gone")}).run_into(ROWS, writer, require="all")


async def test_a_result_that_cannot_be_written_fails_the_query_and_blames_no_node(tmp_path: Path) -> None:
    small = ResultWriter(tmp_path / "result.part", max_bytes=500, limiter=trio.CapacityLimiter(2))
    with pytest.raises(LimitExceeded, match="a job may keep 500"):
        await Nodes(None, {"worm": 700, "fly": 7}).run_into(ROWS, small)
