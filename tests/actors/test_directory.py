"""The hub's picture of its nodes: snapshots that never change, ways to one node, and a way to hear of a loss."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from actors.directory import Cluster, Directory, Health, Standing
from tests.actors.federation_parts import cluster, record


def test_a_snapshot_stays_as_it_was() -> None:
    directory, worm = Directory(), cluster("worm")
    directory.publish([worm])
    before = directory.clusters
    directory.publish([replace(worm, health=Health.HEALTHY), cluster("fly")])
    assert [each.health for each in before.values()] == [Health.UNKNOWN]
    assert len(directory.clusters) == 2
    with pytest.raises(TypeError):
        before[worm.record.id] = worm  # type: ignore[index]


def test_nodes_are_found_by_id_by_peer_and_by_name() -> None:
    directory, worm = Directory(), cluster("worm")
    directory.publish([worm, cluster("fly")])
    assert directory.by_peer("12D3worm") is directory.by_name("worm") is directory.clusters[worm.record.id] is worm
    assert directory.by_peer("12D3Nobody") is None
    assert directory.by_name("nobody") is None


def test_a_peer_that_has_been_replaced_is_known_no_more() -> None:
    directory, worm = Directory(), cluster("worm")
    directory.publish([worm])
    directory.publish([replace(worm, record=replace(worm.record, peer_id="12D3New"))])
    assert directory.by_peer("12D3worm") is None
    assert directory.by_peer("12D3New") is not None


def test_nodes_without_a_key_are_found_by_name_and_by_no_peer() -> None:
    directory, worm, fly = Directory(), Cluster(record("worm", None)), Cluster(record("fly", None))
    directory.publish([worm, fly])
    assert directory.by_name("worm") is directory.get(worm.record.id) is worm
    assert directory.by_peer("12D3worm") is None
    directory.publish([replace(worm, record=replace(worm.record, peer_id="12D3New"))])
    assert directory.by_peer("12D3New") is directory.get(worm.record.id)


def test_publishing_one_node_of_many_copies_nothing_until_somebody_looks() -> None:
    directory = Directory()
    nodes = [cluster(f"lab-{number}") for number in range(2000)]
    directory.publish(nodes)
    before = directory.clusters
    assert directory.clusters is before
    for node in nodes:
        directory.publish([replace(node, health=Health.HEALTHY)])
        assert directory._snapshot is None
    assert {each.health for each in before.values()} == {Health.UNKNOWN}
    assert {each.health for each in directory.clusters.values()} == {Health.HEALTHY}


names = st.sampled_from(["worm", "fly", "mouse"])
peers = st.sampled_from([None, "12D3A", "12D3B", "12D3C"])


@given(st.lists(st.tuples(st.integers(0, 2), names, peers, st.booleans())))
def test_every_way_to_a_node_leads_to_what_was_published_last(
    changes: list[tuple[int, str, str | None, bool]],
) -> None:
    directory, nodes = Directory(), [cluster(f"lab-{number}") for number in range(3)]
    now: dict[object, Cluster] = {}
    for number, name, peer_id, look in changes:
        record = replace(nodes[number].record, name=name, peer_id=peer_id)
        others = [each.record for key, each in now.items() if key != record.id]
        if any(name == other.name or (peer_id and peer_id == other.peer_id) for other in others):
            continue  # the registry does not publish what would be ambiguous
        now[record.id] = replace(nodes[number], record=record)
        directory.publish([now[record.id]])
        if look:
            assert directory.clusters == now
    assert directory.clusters == now
    for each in ("worm", "fly", "mouse"):
        assert directory.by_name(each) is next((c for c in now.values() if c.record.name == each), None)
    for peer in ("12D3A", "12D3B", "12D3C"):
        assert directory.by_peer(peer) is next((c for c in now.values() if c.record.peer_id == peer), None)


@pytest.mark.parametrize("health", Health)
def test_only_nodes_that_answer_are_asked(health: Health) -> None:
    assert health.routable is (health in (Health.HEALTHY, Health.DEGRADED))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"health": Health.UNREACHABLE, "cause": "3 pings failed"}, "3 pings failed"),
        ({"health": Health.UNKNOWN, "cause": "why not"}, "why not"),
        ({"record": {"standing": Standing.INACTIVE}}, "the node left the federation"),
    ],
)
async def test_who_waits_for_a_loss_hears_of_it_and_of_nothing_else(
    nursery: trio.Nursery, change: dict[str, object], cause: str
) -> None:
    directory, worm = Directory(), cluster("worm", health=Health.HEALTHY)
    directory.publish([worm])
    heard: list[str] = []

    async def wait() -> None:
        heard.append(await directory.wait_unroutable(worm.record.id))

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    directory.publish([replace(worm, health=Health.DEGRADED, cause="slow"), cluster("fly", health=Health.UNREACHABLE)])
    await wait_all_tasks_blocked()
    assert heard == []
    record = change.pop("record", None)
    changed = replace(worm, **change)  # type: ignore[arg-type]
    directory.publish([replace(changed, record=replace(worm.record, **record)) if record else changed])  # type: ignore[arg-type]
    await wait_all_tasks_blocked()
    assert heard == [cause]


async def test_a_node_that_was_never_there_is_lost_at_once() -> None:
    with trio.fail_after(1):
        assert "left" in await Directory().wait_unroutable(uuid4())
