"""``syndb federation clusters`` and its neighbours, against a real hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from syndb_cli.federation import reaching
from tests.syndb_cli.conftest import federation
from tests.syndb_hub.small_hub import PASSWORD, SmallHub, gone, small_hub


@pytest.fixture
def hub(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """A hub with one node, ``worm-lab``, that has joined and waits for approval; its operator's surroundings."""
    monkeypatch.setenv("FEDERATION_ENABLE_MDNS", "false")
    with small_hub(tmp_path / "hub", require_approval=True) as running:
        addresses = [word for address in running.addresses for word in ("--hub-multiaddr", address)]
        named = ["--cluster-name", "worm-lab", "--hub-peer-id", running.peer_id, "--federation-password", PASSWORD]
        assert federation("init", *named, *addresses).exit_code == 0
        monkeypatch.setenv("SYNDB_HUB_URL", running.url)
        monkeypatch.setenv("SYNDB_TOKEN", running.token)
        yield running


def test_nodes_are_listed_with_standing_and_what_to_do(hub: SmallHub) -> None:
    done = federation("clusters")
    assert done.exit_code == 0, done.output
    assert "worm-lab" in done.stdout
    assert "waiting" in done.stdout
    assert "syndb federation clusters activate worm-lab" in done.stderr
    [shown] = json.loads(federation("clusters", "--json").stdout)
    assert (shown["name"], shown["standing"], shown["secret"]) == ("worm-lab", "waiting", "password")
    assert shown["schema_state"] == "behind"
    assert "behind" in done.stdout


def test_a_node_is_approved_excluded_and_let_in_again(hub: SmallHub) -> None:
    assert federation("clusters", "approve", "worm-lab").exit_code == 0
    assert hub.node("worm-lab").record.standing == "active"
    kept = federation("clusters", "deactivate", "worm-lab", stdin="n\n")
    assert (kept.exit_code, hub.node("worm-lab").record.standing) == (1, "active")
    silent = federation("clusters", "deactivate", "worm-lab")
    assert (silent.exit_code, "--yes" in silent.stderr) == (2, True)
    assert hub.node("worm-lab").record.standing == "active"
    done = federation("clusters", "deactivate", "worm-lab", "--yes", "--json")
    assert (json.loads(done.stdout)["standing"], hub.node("worm-lab").record.standing) == ("inactive", "inactive")
    by_id = str(hub.node("worm-lab").record.id)
    assert "is active" in federation("clusters", "activate", by_id).stderr


def test_a_key_is_revoked_for_good(hub: SmallHub) -> None:
    done = federation("clusters", "revoke-key", "worm-lab", "--cause", "stolen", "--yes")
    assert done.exit_code == 0
    assert (hub.node("worm-lab").record.standing, hub.node("worm-lab").record.peer_id) == ("waiting", None)
    again = federation("clusters", "activate", "worm-lab")
    assert again.exit_code == 6


def test_a_node_that_takes_no_part_is_forgotten(hub: SmallHub) -> None:
    federation("clusters", "approve", "worm-lab")
    assert federation("clusters", "forget", "worm-lab", "--yes").exit_code == 6
    federation("clusters", "deactivate", "worm-lab", "--yes")
    assert "is forgotten" in federation("clusters", "forget", "worm-lab", "--yes").stderr
    assert json.loads(federation("clusters", "--json").stdout) == []


def test_hosts_are_approved_and_wrong_ones_refused(hub: SmallHub) -> None:
    done = federation("clusters", "approve-hosts", "worm-lab", "10.1.0.0/16", "node.example.org")
    assert done.exit_code == 0, done.output
    assert hub.node("worm-lab").record.approved_hosts == ("10.1.0.0/16", "node.example.org")
    assert "approved hosts: 10.1.0.0/16, node.example.org" in done.stderr
    for wrong in (["not a host!"], [], ["10.1.0.0/16", "--none"]):
        assert federation("clusters", "approve-hosts", "worm-lab", *wrong).exit_code == 2
    assert hub.node("worm-lab").record.approved_hosts == ("10.1.0.0/16", "node.example.org")
    assert federation("clusters", "approve-hosts", "worm-lab", "--none").exit_code == 0
    assert hub.node("worm-lab").record.approved_hosts == ()


def test_a_node_is_entered_before_it_joins(hub: SmallHub) -> None:
    done = federation("clusters", "enter", "fly-lab", "--endpoint", "fly.example.org", "--institution", "Flies")
    assert done.exit_code == 0, done.output
    assert "fly-lab" in done.stderr
    assert "is pending" in done.stderr
    again = federation("clusters", "enter", "fly-lab")
    assert again.exit_code == 6
    tested = json.loads(federation("clusters", "test", "fly-lab", "--only", "connectivity", "--json").stdout)
    assert tested[0]["cause"].startswith("fly-lab is pending")


def test_a_node_is_tested_and_every_test_says_what_it_needed(hub: SmallHub) -> None:
    federation("clusters", "activate", "worm-lab")
    hub.peer = gone
    done = federation("clusters", "test", "worm-lab", "--json")
    assert done.exit_code == 10
    causes = {each["test"]: each["cause"] for each in json.loads(done.stdout)}
    assert list(causes) == ["connectivity", "schema", "query"]
    assert causes["connectivity"].startswith(
        "no connection: nobody answers at its addresses; open UDP 4001 or TCP 4001"
    )
    assert causes["schema"].startswith("connectivity failed: ")
    assert causes["query"].startswith("not tried, since connectivity failed: ")
    assert federation("clusters", "test", "worm-lab", "--only", "guess").exit_code == 2


def test_verify_pings_now_and_leaves_a_measurement(hub: SmallHub) -> None:
    waiting = federation("clusters", "verify", "worm-lab")
    assert (waiting.exit_code, "waits for approval" in waiting.stderr) == (6, True)
    federation("clusters", "activate", "worm-lab")
    done = federation("clusters", "verify", "worm-lab", "--json")
    assert json.loads(done.stdout)["cluster"]["name"] == "worm-lab"
    assert federation("clusters", "health", "worm-lab").exit_code == 0
    [measured] = json.loads(federation("benchmarks", "--json").stdout)
    assert (measured["query_type"], measured["success"]) == ("health_check", False)
    assert "health_check" in federation("benchmarks", "--aggregate", "--since", "2026-01-01").stdout
    assert json.loads(federation("benchmarks", "--query-type", "remote_multi", "--json").stdout) == []


def test_a_name_that_is_not_known_is_told_with_those_that_are(hub: SmallHub) -> None:
    done = federation("clusters", "activate", "wurm-lab")
    assert done.exit_code == 5
    assert "the hub knows no node wurm-lab" in done.stderr
    assert "worm-lab" in done.stderr


def test_without_the_right_nothing_changes(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNDB_TOKEN", hub.reader)
    assert federation("clusters").exit_code == 0
    for words in (
        ["activate", "worm-lab"],
        ["deactivate", "worm-lab", "--yes"],
        ["enter", "x"],
        ["verify", "worm-lab"],
    ):
        done = federation("clusters", *words, "--json")
        assert (done.exit_code, json.loads(done.stdout)["code"]) == (4, "forbidden"), words
    assert hub.node("worm-lab").record.standing == "waiting"


def test_options_may_stand_before_or_behind_the_sub_command(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNDB_HUB_URL")
    before = federation("clusters", "--server-url", hub.url, "--json", "health", "worm-lab")
    behind = federation("clusters", "health", "worm-lab", "--server-url", hub.url, "--json")
    assert json.loads(before.stdout) == json.loads(behind.stdout)


@pytest.mark.slow
def test_the_way_to_the_hub_is_tested_way_by_way(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "FIND_SECONDS", 3.0)
    results = {each["name"]: each for each in json.loads(federation("test", "--json").stdout)}
    assert list(results) == ["configuration", "configured addresses", "http", "hub", "clock", "engine", "membership"]
    assert [results[name]["passed"] for name in ("configured addresses", "http", "hub", "clock")] == [True] * 4
    assert hub.peer_id in results["configured addresses"]["cause"]
    assert not results["engine"]["passed"]


@pytest.mark.slow
@pytest.mark.parametrize(("state", "passed"), [("refused", False), ("joined", True)])
def test_a_running_node_that_is_refused_fails_the_test(
    hub: SmallHub, config: Path, monkeypatch: pytest.MonkeyPatch, state: str, passed: bool
) -> None:
    monkeypatch.setattr(reaching, "FIND_SECONDS", 3.0)
    noted = {"state": state, "cause": "invalid federation password", "hint": "Copy it again."}
    (config.parent / "node" / "federation-state.json").write_text(json.dumps(noted))
    monkeypatch.setattr("syndb_cli.federation.connectivity.is_running", lambda _folder: True)
    membership = json.loads(federation("test", "--json").stdout)[-1]
    assert (membership["name"], membership["passed"], membership["needed"]) == ("membership", passed, True)
    assert f"{state}: invalid federation password" in membership["cause"]
    assert ("Copy it again." in membership["cause"]) is not passed


@pytest.mark.slow
def test_one_way_to_the_hub_is_enough(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "FIND_SECONDS", 1.0)
    monkeypatch.setenv("FEDERATION_HUB_MULTIADDRS", "/ip4/127.0.0.1/tcp/1")
    shown = federation("test").stdout
    assert "no " in shown
    results = {each["name"]: each for each in json.loads(federation("test", "--json").stdout)}
    assert not results["configured addresses"]["passed"]
    assert not results["configured addresses"]["needed"]
    assert (results["hub"]["passed"], results["hub"]["cause"]) == (True, "by http")


def test_status_shows_pins_secret_and_the_next_step(hub: SmallHub, config: Path) -> None:
    shown = json.loads(federation("status", "--json").stdout)
    assert (shown["hub_peer_id"], shown["next_hub_peer_id"]) == (hub.peer_id, "")
    assert shown["secret"] == "a password"
    assert shown["hub_url"] == hub.url
    assert shown["next"] == f"start it: syndb-node run --config {config}"
    state = {"state": "joined", "at": 0}
    (config.parent / "node" / "federation-state.json").write_text(json.dumps(state))
    assert json.loads(federation("status", "--json").stdout)["state"] == "not running"
