"""What the operator asks of all nodes, with a publisher that answers as told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import trio

from actors.cluster_store import Transition
from actors.directory import Cluster, Directory, Health, Standing
from actors.health import HealthObserved, Verify
from actors.runtime import ActorCrashedError, AskTimeout
from actors.schema_sync import SyncCluster
from syndb_common.errors import Conflict, DeadlineExceeded, NotFound, PeerUnavailable, Unavailable
from syndb_common.messages import SchemaReport
from syndb_hub.federation.control import TreeControl
from syndb_hub.federation.measuring import Measurements
from syndb_hub.federation.view import DirectoryView
from syndb_hub.store import Store
from syndb_hub.store.benchmarks import StoredBenchmarks
from syndb_hub.store.clusters import Clusters
from tests.actors.federation_parts import BEGAN, Peer, cluster


class Setting:
    """Nodes, and actors that answer as told."""

    def __init__(self, store: Store) -> None:
        self.directory = Directory()
        self.clusters = Clusters(store)
        self.benchmarks = StoredBenchmarks(store)
        self.sync: Callable[[SyncCluster], Any] = lambda message: SchemaReport(schema_version=3, applied=(2, 3))
        self.verify: Callable[[Verify], Any] = lambda message: HealthObserved(
            message.cluster_id, Health.HEALTHY, "", 0, latency_seconds=0.02
        )
        self.measurements = Measurements(self.benchmarks)
        nothing: Any = None
        self.control = TreeControl(
            directory=self.directory,
            view=DirectoryView(self.directory, 3),
            registry=nothing,
            health_monitor=Peer({Verify: lambda message: self.verify(message)}),
            schema_publisher=Peer({SyncCluster: lambda message: self.sync(message)}),
            checks=nothing,
            store=self.clusters,
            measurements=self.measurements,
        )

    def add(self, name: str, **facts: Any) -> Cluster:
        node = cluster(name, record_facts=facts)
        self.directory.publish([node])
        return node


@pytest.fixture
async def setting(store: Store) -> Setting:
    return Setting(store)


def fails(error: Exception) -> Callable[[Any], Any]:
    def answer(message: Any) -> Any:
        raise error

    return answer


async def test_every_active_node_is_synced_and_one_that_fails_holds_up_no_other(setting: Setting) -> None:
    good, bad = setting.add("good"), setting.add("bad")
    setting.add("away", standing=Standing.INACTIVE)

    def sync(message: SyncCluster) -> SchemaReport:
        if message.cluster_id == bad.record.id:
            raise PeerUnavailable("nobody answers", hint="Start it.")
        return SchemaReport(schema_version=3, applied=(2, 3))

    setting.sync = sync
    found = await setting.control.sync_schema(dry_run=False)
    assert [(each.cluster, each.schema_version, each.applied, each.cause) for each in found] == [
        ("bad", bad.record.schema_version, [], "nobody answers Start it."),
        ("good", 3, [2, 3], ""),
    ]
    assert good.record.schema_version == 1


@pytest.mark.parametrize("error", [ActorCrashedError("boom"), AskTimeout("late")])
async def test_a_fault_of_the_hub_is_an_outcome_too(setting: Setting, error: Exception) -> None:
    setting.add("a")
    setting.sync = fails(error)
    [found] = await setting.control.sync_schema(dry_run=True)
    assert found.cause


async def test_named_nodes_alone_are_synced_and_one_that_takes_no_part_says_why(setting: Setting) -> None:
    setting.add("other")
    waiting = setting.add("waiting", standing=Standing.WAITING)
    [found] = await setting.control.sync_schema(dry_run=False, cluster_ids=[waiting.record.id] * 2)
    assert (found.cluster, "waits for approval" in found.cause) == ("waiting", True)
    with pytest.raises(NotFound):
        await setting.control.sync_schema(dry_run=False, cluster_ids=[uuid4()])


async def test_the_history_of_a_node_comes_from_the_store_newest_first(setting: Setting) -> None:
    node = setting.add("a")
    await setting.clusters.save(node.record)
    await setting.clusters.record_transitions(
        [Transition(node.record.id, BEGAN, "unknown", to, f"cause of {to}") for to in ("healthy", "degraded")]
    )
    found = await setting.control.history(node.record.id, limit=1)
    assert [(each.to_state, each.cause) for each in found.transitions] == [("degraded", "cause of degraded")]
    assert found.cluster.name == "a"
    with pytest.raises(NotFound):
        await setting.control.history(uuid4(), limit=1)


@pytest.mark.parametrize(("seconds", "success"), [(0.02, True), (None, False)])
async def test_a_ping_that_was_asked_for_is_measured(setting: Setting, seconds: float | None, success: bool) -> None:
    node = setting.add("a")
    setting.verify = lambda message: HealthObserved(message.cluster_id, Health.HEALTHY, "", 0, latency_seconds=seconds)
    assert (await setting.control.verify(node.record.id)).cluster.name == "a"
    with trio.move_on_after(1):
        await setting.measurements.run()
    kept = await setting.benchmarks.latest()
    assert [(each.query_type, each.cluster_id, each.success) for each in kept] == [
        ("health_check", node.record.id, success)
    ]
    if seconds:
        assert kept[0].latency_ms == pytest.approx(20)


async def test_a_node_that_takes_no_part_is_not_pinged(setting: Setting) -> None:
    node = setting.add("a", standing=Standing.PENDING)
    with pytest.raises(Conflict, match="a is pending"):
        await setting.control.verify(node.record.id)


@pytest.mark.parametrize(
    ("error", "expected"), [(ActorCrashedError("boom"), Unavailable), (AskTimeout("late"), DeadlineExceeded)]
)
async def test_an_actor_that_is_away_is_an_error_for_clients(
    setting: Setting, error: Exception, expected: type[Exception]
) -> None:
    node = setting.add("a")
    setting.verify = fails(error)
    with pytest.raises(expected):
        await setting.control.verify(node.record.id)
