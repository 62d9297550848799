"""Passwords and keys are changed by the operators' commands while everybody goes on working."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.hub_pins import HubPins
from demo.local import LocalFederation
from demo.processes import command, run
from tests.federation.processes import eventually
from tests.federation.test_faults import state_of

pytestmark = pytest.mark.timeout(300)

Start = Callable[..., LocalFederation]
NODES = ("a", "b")
COUNT = "SELECT dataset, COUNT(*) FROM synapses GROUP BY dataset ORDER BY dataset SCOPE federation"


def hub_command(federation: LocalFederation, *words: str) -> str:
    """Run a command of the hub's operator."""
    return run(command("syndb-hub", *words, "--config", str(federation.hub_config)))


def hub_state(federation: LocalFederation, what: str) -> Any:
    """What ``show-state`` says about ``password`` or ``key``."""
    return json.loads(hub_command(federation, what, "show-state", "--json"))


def known(federation: LocalFederation) -> dict[str, dict[str, Any]]:
    """All nodes as the hub shows them, by name."""
    return {node["name"]: node for node in federation.get("/v1/federation/clusters")}


def hang_up(federation: LocalFederation, name: str) -> None:
    """Have a daemon read its file again."""
    process = federation.daemons[name].process
    assert process is not None
    process.send_signal(signal.SIGHUP)


def stop(federation: LocalFederation, name: str) -> None:
    """End a daemon in order."""
    daemon = federation.daemons[name]
    assert daemon.process is not None
    daemon.process.terminate()
    assert daemon.process.wait(20) == 0
    daemon.process = None


def password_of(file: Path) -> str:
    """The federation password in a configuration."""
    return str(tomllib.loads(file.read_text())["federation"]["password"])


def give_password(federation: LocalFederation, name: str, password: str) -> None:
    """Change it in a node's file."""
    file = federation.config(name)
    file.write_text(file.read_text().replace(password_of(file), password))


@contextmanager
def asking(federation: LocalFederation) -> Iterator[list[dict[str, Any]]]:
    """Ask again and again until the block is left; the jobs come into the list."""
    jobs: list[dict[str, Any]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.2):
            jobs.append(federation.query(COUNT))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield jobs
    finally:
        over.set()
        thread.join()


def loaded(federation: LocalFederation, files: Path) -> LocalFederation:
    """Stage 1 in node ``a``, stage 2 in node ``b``."""
    for stage, name in enumerate(NODES, 1):
        federation.import_data(name, "c-elegans-dev", files, "--stage", str(stage))
    federation.wait_datasets(dict.fromkeys(NODES, 1))
    return federation


def test_the_password_is_changed_while_questions_are_answered(start_federation: Start, real_files: Path) -> None:
    federation = loaded(start_federation(*NODES, "late"), real_files)
    former = password_of(federation.hub_config)
    with asking(federation) as jobs:
        hub_command(federation, "password", "rotate")
        hub_command(federation, "reload")
        assert password_of(federation.hub_config) != former
        for name in NODES:
            give_password(federation, name, password_of(federation.hub_config))
            hang_up(federation, name)
        assert eventually(lambda: still_former(federation) == {"late"}, seconds=30), hub_state(federation, "password")
        words = command("syndb-hub", "password", "retire", "--config", str(federation.hub_config))
        refused = subprocess.run(words, capture_output=True, text=True, check=False)
        assert refused.returncode != 0
        assert "late" in refused.stderr
        hub_command(federation, "password", "retire", "--force")
        hub_command(federation, "reload")
        federation.wait_healthy(NODES)
    assert jobs
    assert all(job["status"] == "completed" and job["provenance"]["complete"] for job in jobs)
    federation.daemons["late"].kill()
    federation.start_node("late")
    assert eventually(lambda: state_of(federation, "late")["state"] == "refused", seconds=60)
    for secret in (former, password_of(federation.hub_config)):
        assert all(secret not in log.read_text() for log in federation.folder.glob("*.log"))


def still_former(federation: LocalFederation) -> set[str]:
    """The active nodes that joined with the former password."""
    return {name for name, node in known(federation).items() if node["secret"] == "previous password"}


def test_the_hub_changes_its_key_and_its_nodes_follow_and_obey_the_old_one_no_more(start_federation: Start) -> None:
    federation = start_federation(*NODES)
    before = {name: node["id"] for name, node in known(federation).items()}
    hub_command(federation, "key", "next")
    hub_command(federation, "reload")
    assert eventually(lambda: not hub_state(federation, "key")["not_told"], seconds=30)
    announced = {HubPins(federation.folder / name, federation.hub_peer_id).successor for name in NODES}
    stop(federation, "hub")
    hub_command(federation, "key", "change")
    federation.start_hub()
    federation.wait_answering()
    federation.wait_healthy(NODES, seconds=60)
    assert {name: node["id"] for name, node in known(federation).items()} == before
    assert announced == {hub_command(federation, "id").strip()} != {federation.hub_peer_id}
    pinned = {HubPins(federation.folder / name, federation.hub_peer_id).current for name in NODES}
    assert pinned == announced
    stop(federation, "hub")
    folder = federation.folder / "hub"
    (folder / "identity.previous.key").replace(folder / "identity.key")
    federation.start_hub()
    federation.wait_answering()
    assert eventually(
        lambda: all(state_of(federation, name)["state"] == "looking for the hub" for name in NODES), seconds=60
    )
    assert "healthy" not in federation.health().values()


def test_a_node_changes_its_key_and_the_old_one_has_lost_the_name(start_federation: Start) -> None:
    federation = start_federation("a")
    before = known(federation)["a"]
    run(command("syndb-node", "rotate-key", "--config", str(federation.config("a"))))
    stop(federation, "a")
    federation.start_node("a")
    assert eventually(lambda: known(federation)["a"]["peer_id"] != before["peer_id"], seconds=60)
    federation.wait_healthy(["a"])
    assert known(federation)["a"]["id"] == before["id"]
    stop(federation, "a")
    folder = federation.folder / "a"
    (folder / "identity.previous.key").replace(folder / "identity.key")
    federation.start_node("a")
    assert eventually(lambda: state_of(federation, "a")["state"] == "refused", seconds=60), state_of(federation, "a")
    assert known(federation)["a"]["health"] != "healthy"
