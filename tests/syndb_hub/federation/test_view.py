"""The directory as the API shows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from time import perf_counter, sleep
from uuid import uuid4

import pytest
import trio

from actors.directory import Cluster, Directory, Health, Key, Standing, owned
from syndb_common.errors import NotFound
from syndb_common.messages import Endpoints
from syndb_common.tables.versions import PublishedVersion
from syndb_hub.federation.service import DatasetView
from syndb_hub.federation.view import DirectoryView
from tests.actors.federation_parts import BEGAN, ENDPOINTS, cluster, published


def view(*nodes: object) -> DirectoryView:
    directory = Directory()
    directory.publish(nodes)  # type: ignore[arg-type]
    return DirectoryView(directory, 7)


def test_states_are_counted_over_active_nodes() -> None:
    inactive = cluster("x", record_facts={"standing": Standing.INACTIVE}, health=Health.HEALTHY)
    status = view(*(cluster(state.value, health=state) for state in Health), inactive).status()
    assert (status.total_clusters, status.active_clusters, status.schema_version) == (5, 4, 7)
    assert (status.healthy, status.degraded, status.unreachable, status.unknown) == (1, 1, 1, 1)


async def test_nodes_are_shown_by_name_with_the_newest_version_of_each_data_set() -> None:
    versions = (published("worm", 2, synapses=5), published("worm", 1, synapses=4), published("fly", 1, neurons=2))
    sharing = {published("worm").dataset_id: "rows"}
    worm = cluster("worm", health=Health.DEGRADED, cause="slow", latency_seconds=0.0123, versions=versions)
    shown = await view(replace(worm, sharing=sharing), cluster("ant")).clusters()
    assert [each.name for each in shown] == ["ant", "worm"]
    found = shown[1]
    assert (found.health, found.health_cause, found.latency_ms) == ("degraded", "slow", 12.3)
    assert (found.endpoint, found.port) == ("127.0.0.1", 50052)
    assert [(each.dataset, each.version, each.sharing) for each in found.datasets] == [
        ("fly", 1, ""),
        ("worm", 2, "rows"),
    ]
    assert found.datasets[1].row_counts == {"synapses": 5}


async def test_a_node_that_claims_anothers_data_set_is_shown_as_one_that_does() -> None:
    early = {"registered_at": BEGAN - timedelta(days=1)}
    owner = cluster("worm", record_facts=early, cause="", versions=(published("worm"),))
    claims = cluster("ant", cause="slow", versions=(published("worm", 2), published("ant")))
    ant, worm = await view(owner, claims).clusters()
    assert ant.health_cause.startswith("slow; announces versions of data sets that another node owns")
    assert ant.health_cause.endswith(": worm")
    assert worm.health_cause == ""


@pytest.mark.parametrize("flight", ["", "grpc+tls://[::1]:50052", "grpc+tls://node.example.org:443"])
async def test_every_location_a_node_may_register_can_be_shown(flight: str) -> None:
    endpoints = Endpoints.model_validate({**ENDPOINTS.model_dump(), "flight": flight})
    [shown] = await view(cluster("worm", record_facts={"endpoints": endpoints})).clusters()
    assert bool(shown.endpoint) is bool(flight)


async def test_everything_the_hub_knows_of_a_node_is_shown() -> None:
    node = cluster(
        "worm",
        record_facts={
            "standing": Standing.ACTIVE,
            "key_id": "k1",
            "protocol_version": 2,
            "contact_email": "a@example.org",
            "software": "syndb-node 1",
            "approved_hosts": ("10.0.0.0/8",),
        },
        health=Health.DEGRADED,
        cause="clock: 42 s behind the hub's",
        since=BEGAN,
        flaps=3,
        clock_skew_seconds=-42.0,
        refused_addresses=("/ip4/10.1.1.1/tcp/1: not approved",),
    )
    directory = Directory()
    directory.publish([node])
    shown = await DirectoryView(directory, 7, {"k1": "previous password"}.__getitem__).cluster(node.record.id)
    assert (shown.standing, shown.is_active, shown.secret, shown.protocol_version) == (
        "active",
        True,
        "previous password",
        2,
    )
    assert (shown.health_since, shown.flaps, shown.clock_skew_ms) == (BEGAN, 3, -42_000.0)
    assert (shown.refused_addresses, shown.approved_hosts) == (
        ("/ip4/10.1.1.1/tcp/1: not approved",),
        ("10.0.0.0/8",),
    )
    assert (shown.contact_email, shown.software) == ("a@example.org", "syndb-node 1")


@pytest.mark.parametrize("standing", [Standing.PENDING, Standing.WAITING, Standing.INACTIVE])
async def test_a_node_that_takes_no_part_is_shown_as_one_that_does_not(standing: Standing) -> None:
    node = cluster("worm", record_facts={"standing": standing})
    [shown] = await view(replace(node, record=replace(node.record, peer_id=None))).clusters()
    assert (shown.standing, shown.is_active, shown.peer_id) == (standing.value, False, "")


async def test_a_node_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound, match="no cluster"):
        await view(cluster("worm")).cluster(uuid4())


def many(nodes: int, versions: int) -> list[Cluster]:
    return [
        cluster(f"n{n}", versions=tuple(published(f"d-{n}-{number}") for number in range(versions)))
        for n in range(nodes)
    ]


async def longest_pause(work: Callable[[], Awaitable[object]]) -> float:
    """Seconds for which nothing else could happen while ``work`` was done."""
    pauses: list[float] = []

    async def watch() -> None:
        while True:
            before = perf_counter()
            await trio.sleep(0.001)
            pauses.append(perf_counter() - before)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.sleep(0.01)
        await work()
        await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    return max(pauses)


@pytest.mark.slow
async def test_many_versions_hold_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = many(100, 100)

    found = []

    def slowly(clusters: Iterable[Cluster]) -> dict[Key, PublishedVersion]:
        sleep(2)
        return owned(clusters)

    monkeypatch.setattr("syndb_hub.federation.view.owned", slowly)

    async def look() -> None:
        found.extend(await view(*nodes).clusters())

    assert await longest_pause(look) < 1.9
    assert len(found) == 100


async def test_nothing_is_worked_out_twice_until_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, shown = [], []
    monkeypatch.setattr("syndb_hub.federation.view.owned", lambda given: counted.append(1) or owned(given))
    monkeypatch.setattr(
        "syndb_hub.federation.view.DatasetView", lambda **facts: shown.append(1) or DatasetView(**facts)
    )
    directory, nodes = Directory(), many(3, 2)
    directory.publish(nodes)
    looked_at = DirectoryView(directory, 7)
    await looked_at.cluster(nodes[0].record.id)
    assert (len(counted), len(shown)) == (1, 2)
    directory.publish([replace(nodes[0], health=Health.DEGRADED, latency_seconds=1.0)])
    first, *_ = await looked_at.clusters()
    assert (first.health, len(counted), len(shown)) == ("degraded", 1, 6)
    early = replace(nodes[2].record, registered_at=BEGAN - timedelta(days=1))
    directory.publish([replace(nodes[2], record=early, versions=(published("d-0-0", 2), published("other")))])
    first, _, third = await looked_at.clusters()
    assert (len(counted), len(shown)) == (2, 8)
    assert first.health_cause.endswith(": d-0-0")
    assert [each.dataset for each in third.datasets] == ["d-0-0", "other"]


async def test_what_is_kept_goes_with_its_node() -> None:
    directory, nodes = Directory(), many(2, 1)
    late = replace(nodes[1], record=replace(nodes[1].record, registered_at=BEGAN + timedelta(days=1)))
    directory.publish([nodes[0], replace(late, versions=(published("d-0-0", 2),))])
    looked_at = DirectoryView(directory, 7)
    assert "d-0-0" in (await looked_at.cluster(late.record.id)).health_cause
    directory.remove(nodes[0].record.id)
    assert "d-0-0" not in (await looked_at.cluster(late.record.id)).health_cause
