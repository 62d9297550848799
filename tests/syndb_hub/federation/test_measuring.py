"""Every query that went to a node leaves one measurement, and a store that fails disturbs no query."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.directory import Health
from syndb_common.errors import PeerUnavailable, SynDBError, Unavailable
from syndb_common.syql import Plan, Scope, parse, plan
from syndb_hub.federation import measuring
from syndb_hub.federation.benchmarks import Benchmark
from syndb_hub.federation.measuring import Measurements, query_type
from tests.actors.federation_parts import cluster, published
from tests.syndb_hub.federation.test_queries import COUNT, Federation, federation

__all__ = ["federation"]


class Kept:
    """Benchmarks in a list; fails while ``broken``."""

    def __init__(self) -> None:
        self.benchmarks: list[Benchmark] = []
        self.broken = False

    async def add(self, benchmark: Benchmark) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise Unavailable("the disk is full")
        self.benchmarks.append(benchmark)


@pytest.fixture
async def kept(federation: Federation, nursery: trio.Nursery) -> Kept:
    store = Kept()
    measurements = Measurements(store)  # type: ignore[arg-type]
    await nursery.start(measurements.run)
    federation.queries._measurements = measurements
    return store


async def test_a_query_to_one_node_names_the_node(federation: Federation, kept: Kept) -> None:
    node = federation.add("a", 3)
    await federation.run(scope=Scope.REMOTE)
    await wait_all_tasks_blocked()
    [one] = kept.benchmarks
    assert (one.query_type, one.cluster_id, one.cluster_count, one.success) == (
        "remote_single",
        node.record.id,
        1,
        True,
    )
    assert one.row_count == 1
    assert one.payload_bytes > 0
    assert one.latency_ms > 0


async def test_a_query_that_a_node_did_not_answer_is_no_success(federation: Federation, kept: Kept) -> None:
    federation.add("a", 3)
    federation.add("b", PeerUnavailable("gone"))
    await federation.run()
    await wait_all_tasks_blocked()
    [one] = kept.benchmarks
    assert (one.query_type, one.cluster_count, one.success, one.row_count) == ("federation_union", 2, False, 1)


async def test_a_query_that_failed_is_measured_and_fails_as_it_would(federation: Federation, kept: Kept) -> None:
    federation.add("a", PeerUnavailable("gone"))
    with pytest.raises(SynDBError):
        await federation.run()
    await wait_all_tasks_blocked()
    assert [(one.success, one.row_count) for one in kept.benchmarks] == [(False, 0)]


async def test_what_no_node_was_asked_is_not_kept(federation: Federation, kept: Kept) -> None:
    federation.add("a", 3, health=Health.UNREACHABLE)
    with pytest.raises(SynDBError):
        await federation.run()
    await wait_all_tasks_blocked()
    assert kept.benchmarks == []


async def test_a_store_that_fails_disturbs_no_query(federation: Federation, kept: Kept) -> None:
    federation.add("a", 3)
    kept.broken = True
    await federation.run()
    await wait_all_tasks_blocked()
    kept.broken = False
    assert (await federation.run()).table["n"].to_pylist() == [3]
    await wait_all_tasks_blocked()
    assert len(kept.benchmarks) == 1


async def test_a_store_that_hangs_holds_up_no_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "WAITING", 3)
    kept = Kept()
    measurements = Measurements(kept)  # type: ignore[arg-type]
    node = cluster("a")
    for _ in range(10):
        measurements.health_check(node.record.id, latency_ms=1.0, success=True)
    with trio.move_on_after(0.1):
        await measurements.run()
    assert [one.query_type for one in kept.benchmarks] == ["health_check"] * 3


def planned(text: str) -> Plan:
    return plan(parse(text), [published("worm")])


@pytest.mark.parametrize(
    ("text", "scope", "holders", "named", "expected"),
    [
        (COUNT, Scope.REMOTE, 1, False, "remote_single"),
        (COUNT, Scope.FEDERATION, 1, True, "remote_single"),
        (COUNT, Scope.REMOTE, 2, False, "remote_multi"),
        (COUNT, Scope.FEDERATION, 2, True, "remote_multi"),
        (COUNT, Scope.FEDERATION, 2, False, "federation_union"),
        ("SELECT cid FROM synapses", Scope.FEDERATION, 2, False, "federation_union"),
        ("SELECT cid FROM synapses WHERE connection_score > 1", Scope.FEDERATION, 2, False, "federation_search"),
        ("SELECT COUNT(*) FROM synapses WHERE connection_score > 1", Scope.FEDERATION, 2, False, "federation_union"),
    ],
)
def test_the_type_of_a_query_follows_the_table(
    text: str, scope: Scope, holders: int, named: bool, expected: str
) -> None:
    assert query_type(planned(text), scope, holders, named=named) == expected
