"""The hub's picture of its nodes: snapshots that never change, and a way to hear of a loss."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.directory import Directory, Health
from tests.actors.federation_parts import cluster


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


@pytest.mark.parametrize("health", Health)
def test_only_nodes_that_answer_are_asked(health: Health) -> None:
    assert health.routable is (health in (Health.HEALTHY, Health.DEGRADED))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"health": Health.UNREACHABLE, "cause": "3 pings failed"}, "3 pings failed"),
        ({"health": Health.UNKNOWN, "cause": "why not"}, "why not"),
        ({"record": {"is_active": False}}, "the node left the federation"),
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
