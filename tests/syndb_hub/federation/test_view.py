"""The directory as the API shows it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from actors.directory import Directory, Health, Standing
from syndb_common.errors import NotFound
from syndb_common.messages import Endpoints
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


def test_nodes_are_shown_by_name_with_the_newest_version_of_each_data_set() -> None:
    versions = (published("worm", 2, synapses=5), published("worm", 1, synapses=4), published("fly", 1, neurons=2))
    sharing = {published("worm").dataset_id: "rows"}
    worm = cluster("worm", health=Health.DEGRADED, cause="slow", latency_seconds=0.0123, versions=versions)
    shown = view(replace(worm, sharing=sharing), cluster("ant")).clusters()
    assert [each.name for each in shown] == ["ant", "worm"]
    found = shown[1]
    assert (found.health, found.health_cause, found.latency_ms) == ("degraded", "slow", 12.3)
    assert (found.endpoint, found.port) == ("127.0.0.1", 50052)
    assert [(each.dataset, each.version, each.sharing) for each in found.datasets] == [
        ("fly", 1, ""),
        ("worm", 2, "rows"),
    ]
    assert found.datasets[1].row_counts == {"synapses": 5}


def test_a_node_that_claims_anothers_data_set_is_shown_as_one_that_does() -> None:
    early = {"registered_at": BEGAN - timedelta(days=1)}
    owner = cluster("worm", record_facts=early, cause="", versions=(published("worm"),))
    claims = cluster("ant", cause="slow", versions=(published("worm", 2), published("ant")))
    ant, worm = view(owner, claims).clusters()
    assert ant.health_cause.startswith("slow; announces versions of data sets that another node owns")
    assert ant.health_cause.endswith(": worm")
    assert worm.health_cause == ""


@pytest.mark.parametrize("flight", ["", "grpc+tls://[::1]:50052", "grpc+tls://node.example.org:443"])
def test_every_location_a_node_may_register_can_be_shown(flight: str) -> None:
    endpoints = Endpoints.model_validate({**ENDPOINTS.model_dump(), "flight": flight})
    [shown] = view(cluster("worm", record_facts={"endpoints": endpoints})).clusters()
    assert bool(shown.endpoint) is bool(flight)


def test_everything_the_hub_knows_of_a_node_is_shown() -> None:
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
    shown = DirectoryView(directory, 7, {"k1": "previous password"}.__getitem__).cluster(node.record.id)
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
def test_a_node_that_takes_no_part_is_shown_as_one_that_does_not(standing: Standing) -> None:
    node = cluster("worm", record_facts={"standing": standing})
    [shown] = view(replace(node, record=replace(node.record, peer_id=None))).clusters()
    assert (shown.standing, shown.is_active, shown.peer_id) == (standing.value, False, "")


def test_a_node_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound, match="no cluster"):
        view(cluster("worm")).cluster(uuid4())
