"""A hub and three nodes on four hosts: they find each other, and hold together on bad networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from demo.local import LocalFederation, local_federation
from tests.federation.processes import eventually
from tests.multihost.network import Host, Network

NODES = ("a", "b", "c")
COUNT = "SELECT dataset, COUNT(*) FROM synapses GROUP BY dataset ORDER BY dataset SCOPE federation"
STAGES = {"a": ["witvliet-2020-1", 858], "b": ["witvliet-2020-2", 1110], "c": ["witvliet-2020-3", 1106]}
"""What each node holds; tests/federation/test_answers.py compares these numbers with an independent reading."""

PARTITION_SECONDS = 30.0

Start = Callable[..., LocalFederation]


@pytest.fixture
def start(tmp_path: Path, network: Network, real_files: Path) -> Iterator[Start]:
    """Starts a hub and three nodes on hosts of their own, each node with one connectome."""
    with ExitStack() as stack:

        def begin(*, cable: dict[str, float] | None = None, **options: Any) -> LocalFederation:
            places = {"hub": network.host("hub"), **{name: network.host(name, **(cable or {})) for name in NODES}}
            made = stack.enter_context(local_federation(tmp_path / "federation", NODES, places=places, **options))
            made.start_hub()
            for name in NODES:
                made.start_node(name)
            made.wait_healthy(NODES, seconds=90)
            for stage, name in enumerate(NODES, 1):
                made.import_data(name, "c-elegans-dev", real_files, "--stage", str(stage))
            made.wait_datasets(dict.fromkeys(NODES, 1))
            return made

        yield begin


def host(federation: LocalFederation, name: str) -> Host:
    """The host a daemon runs on."""
    found = federation.places[name]
    assert isinstance(found, Host)
    return found


def view(federation: LocalFederation, name: str) -> dict[str, Any]:
    """A node as the hub shows it."""
    nodes: list[dict[str, Any]] = federation.get("/v1/federation/clusters")
    return next(node for node in nodes if node["name"] == name)


def test_nodes_find_the_hub_by_multicast_and_answer_across_hosts(start: Start) -> None:
    federation = start(configure_addresses=False)
    assert federation.query(COUNT)["rows"] == [STAGES[name] for name in NODES]
    for name in NODES:
        assert view(federation, name)["endpoint"] == host(federation, name).address


def test_a_partition_of_half_a_minute_is_noticed_named_and_healed(start: Start) -> None:
    federation = start()
    before = {name: view(federation, name)["id"] for name in NODES}
    began = time.monotonic()
    host(federation, "b").unplug()
    assert eventually(lambda: view(federation, "b")["health"] == "unreachable", seconds=PARTITION_SECONDS)
    assert view(federation, "b")["health_cause"]
    job = federation.query(COUNT)
    assert job["rows"] == [STAGES["a"], STAGES["c"]]
    assert job["provenance"]["complete"] is False
    outcomes = {node["cluster"]: node for node in job["provenance"]["nodes"]}
    assert outcomes["b"]["status"] != "answered"
    assert outcomes["b"]["cause"]
    assert federation.health()["a"] == federation.health()["c"] == "healthy"
    time.sleep(max(0.0, PARTITION_SECONDS - (time.monotonic() - began)))
    host(federation, "b").plug()
    federation.wait_healthy(NODES, seconds=60)
    assert {name: view(federation, name)["id"] for name in NODES} == before
    assert federation.query(COUNT)["rows"] == [STAGES[name] for name in NODES]


EVERYWHERE = {
    "federation": {"listen": ["/ip4/0.0.0.0/udp/4001/quic-v1", "/ip4/0.0.0.0/tcp/4001"]},
    "flight": {"host": "0.0.0.0"},
}


def test_a_hub_that_comes_back_at_another_address_is_found_by_multicast(start: Start) -> None:
    federation = start(configure_addresses=False, hub=EVERYWHERE)
    before = {name: view(federation, name)["id"] for name in NODES}
    federation.daemons["hub"].kill()
    host(federation, "hub").move("10.77.0.200")
    federation.start_hub()
    federation.wait_answering()
    federation.wait_healthy(NODES, seconds=60)
    assert {name: view(federation, name)["id"] for name in NODES} == before
    assert federation.query(COUNT)["rows"] == [STAGES[name] for name in NODES]


def test_a_hub_whose_address_changes_while_it_runs_keeps_its_nodes_and_is_found_by_others(start: Start) -> None:
    federation = start(configure_addresses=False, hub=EVERYWHERE)
    host(federation, "hub").move("10.77.0.200")
    moved = datetime.now(UTC)
    federation.daemons["c"].kill()
    federation.start_node("c")

    def seen_since() -> bool:
        return all(datetime.fromisoformat(view(federation, name)["last_seen"]) > moved for name in NODES)

    assert eventually(seen_since, seconds=60), federation.get("/v1/federation/clusters")
    federation.wait_healthy(NODES, seconds=60)
    assert federation.query(COUNT)["rows"] == [STAGES[name] for name in NODES]


def test_a_network_that_loses_and_delays_a_lot_stays_usable(start: Start) -> None:
    federation = start(cable={"loss": 0.2, "delay": 0.1})
    right = [STAGES[name] for name in NODES]
    answers = [federation.query(COUNT) for _ in range(5)]
    whole = [job["rows"] for job in answers if job["status"] == "completed" and job["provenance"]["complete"]]
    assert all(rows == right for rows in whole)
    assert len(whole) >= 3, [job.get("error_message") or job["provenance"] for job in answers]
    large = federation.query("SELECT cid, synapse_count FROM synapses SCOPE federation")
    if large["status"] == "completed" and large["provenance"]["complete"]:
        assert len(large["rows"]) == sum(count for _, count in STAGES.values())
