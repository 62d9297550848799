"""A node that is not Python, written from docs/protocol.md alone, takes part in a federation over QUIC."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo.local import LocalFederation, local_federation
from demo.processes import DemoError
from tests.federation.processes import eventually


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """A hub without nodes."""
    with local_federation(tmp_path_factory.mktemp("hub"), []) as found:
        found.start_hub()
        found.wait_answering()
        yield found


class ForeignPeer:
    """The peer's process and what it reported."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What it reported of this kind so far."""
        lines = self._log.read_text().splitlines(keepends=True)
        reported = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        return [event for event in reported if event["event"] == kind]

    def wait(self, kind: str, **facts: Any) -> dict[str, Any]:
        """Wait until it reports something of this kind with these facts."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.events(kind) if facts.items() <= event.items()]

        assert eventually(lambda: bool(found()) or self.process.poll() is not None, seconds=30), self._log.read_text()
        assert found(), self._log.read_text()
        return found()[0]

    def leave(self) -> None:
        """Let it leave the federation and wait for its end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(20) == 0, self._log.read_text()


@contextmanager
def running(command: list[str], log: Path, hub: LocalFederation, **wanted: Any) -> Iterator[ForeignPeer]:
    """The peer, told where the hub is and how to join; it ends with the block."""
    address = f"{hub.hub_listen[0]}/p2p/{hub.hub_peer_id}"
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, text=True) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(json.dumps({"hub": address, "secret": hub.password, "version": 2, **wanted}) + "\n")
        process.stdin.flush()
        try:
            yield ForeignPeer(process, log)
        finally:
            process.kill()


def view(hub: LocalFederation, name: str) -> dict[str, Any]:
    """The node as the hub shows it; empty while it does not know it."""
    try:
        return next((node for node in hub.get("/v1/federation/clusters") if node["name"] == name), {})
    except DemoError:
        return {}


@pytest.mark.parametrize("version", [1, 2])
def test_it_joins_is_healthy_shows_its_data_set_and_leaves(
    hub: LocalFederation, foreign_peer: list[str], tmp_path: Path, version: int
) -> None:
    name = f"foreign-{version}"
    with running(foreign_peer, tmp_path / "peer.log", hub, name=name, version=version) as peer:
        connected = peer.wait("connected")
        assert "/quic-v1" in connected["address"]
        registered = peer.wait("registered")
        peer.wait("asked", type="HealthPing")
        peer.wait("asked", type="SchemaSync")
        peer.wait("asked", type="DatasetCatalogRequest")
        assert eventually(lambda: view(hub, name).get("health") == "healthy", seconds=20), view(hub, name)
        seen = view(hub, name)
        assert (seen["id"], seen["peer_id"]) == (registered["cluster_id"], connected["peer_id"])
        assert (seen["institution"], seen["protocol_version"]) == ("Institute of Other Languages", version)
        assert [(data["dataset"], data["row_counts"], data["sharing"]) for data in seen["datasets"]] == [
            (f"{name}-larva", {"neurons": 177, "synapses": 6618}, "count")
        ]
        peer.leave()
    assert eventually(lambda: view(hub, name)["health"] == "unreachable", seconds=30), view(hub, name)


def test_a_question_it_does_not_understand_is_a_missing_part_with_a_cause(
    hub: LocalFederation, foreign_peer: list[str], tmp_path: Path
) -> None:
    with running(foreign_peer, tmp_path / "peer.log", hub, name="foreign") as peer:
        peer.wait("registered")
        assert eventually(lambda: bool(view(hub, "foreign").get("datasets")), seconds=20)
        assert eventually(lambda: view(hub, "foreign")["health"] == "healthy", seconds=20)
        job = hub.query("SELECT COUNT(*) FROM neurons WHERE dataset = 'foreign-larva' SCOPE remote")
        assert job["status"] == "failed"
        assert "AnalyticsQuery is not known here" in job["error_message"]
        peer.leave()


def test_a_wrong_secret_is_refused_with_the_documented_error(
    hub: LocalFederation, foreign_peer: list[str], tmp_path: Path
) -> None:
    wrong = "syndb1_" + "x" * 43
    with running(foreign_peer, tmp_path / "peer.log", hub, name="stranger", secret=wrong) as peer:
        assert peer.process.wait(30) != 0
    assert "join_refused" in (tmp_path / "peer.log").read_text()
    assert view(hub, "stranger") == {}
