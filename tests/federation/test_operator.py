"""The operator's tests, measurements and commands against real daemons with real data."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo.local import LocalFederation
from demo.processes import command
from tests.federation.processes import eventually

Start = Callable[..., LocalFederation]
COUNT = "SELECT dataset, COUNT(*) AS n FROM synapses GROUP BY dataset SCOPE remote"


@pytest.fixture
def federation(start_federation: Start, real_files: Path) -> LocalFederation:
    """One node with one data set."""
    found = start_federation("a")
    found.import_data("a", "c-elegans-dev", real_files, "--stage", "1")
    found.wait_datasets({"a": 1})
    return found


def syndb(federation: LocalFederation, *words: str) -> tuple[int, Any]:
    """Exit code and JSON of ``syndb federation``, as the hub's operator types it."""
    done = subprocess.run(
        command("syndb", "federation", *words, "--json"),
        env={**os.environ, "SYNDB_HUB_URL": federation.url, "SYNDB_TOKEN_FILE": str(federation.token_file)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_a_node_is_tested_measured_lost_and_let_in_again(federation: LocalFederation) -> None:
    code, tests = syndb(federation, "clusters", "test", "a")
    assert (code, [(each["test"], each["passed"]) for each in tests]) == (
        0,
        [("connectivity", True), ("schema", True), ("query", True)],
    ), tests
    assert tests[2]["detail"].startswith("counted ")

    assert federation.query(COUNT)["status"] == "completed"
    assert eventually(lambda: len(syndb(federation, "benchmarks", "--query-type", "remote_single")[1]) >= 2, seconds=20)
    _, [latest, *_] = syndb(federation, "benchmarks", "--query-type", "remote_single")
    assert (latest["success"], latest["cluster_count"], latest["row_count"]) == (True, 1, 1)
    assert latest["payload_bytes"] > 0

    assert syndb(federation, "clusters", "deactivate", "a", "--yes")[1]["standing"] == "inactive"
    refused = federation.query(COUNT)
    assert refused["status"] == "failed"
    assert "a (deactivated by the hub's operator)" in json.dumps(refused)
    assert syndb(federation, "clusters", "activate", "a")[1]["standing"] == "active"
    federation.wait_healthy(["a"])
    assert len(federation.query(COUNT)["rows"]) == 1

    federation.daemons["a"].kill()
    code, tests = syndb(federation, "clusters", "test", "a")
    assert code == 10
    assert tests[0]["cause"].startswith(("no connection: ", "no answer to a ping"))
    assert tests[2]["cause"].startswith("not tried, since connectivity failed: ")
    assert eventually(lambda: syndb(federation, "clusters", "verify", "a")[0] == 10, seconds=30)
    _, health = syndb(federation, "clusters", "health", "a")
    assert health["cluster"]["health"] == "unreachable"
    assert health["transitions"][0]["to_state"] == "unreachable"
    assert health["transitions"][0]["cause"]
