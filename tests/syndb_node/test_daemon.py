"""The node as a process: what it does at a SIGHUP."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.remote.identity import Identity
from demo.processes import Daemon, command, daemons
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import render, write_private

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path) -> Path:
    values = {
        "data_dir": str(tmp_path / "node"),
        "cluster": {"name": "worm-lab"},
        "federation": {
            "password": "a-password-of-this-test",
            "hub_peer_id": Identity.generate().peer_id,
            "listen": ["/ip4/127.0.0.1/tcp/0"],
            "enable_mdns": False,
        },
        "flight": {"host": "127.0.0.1", "port": 0},
    }
    path = tmp_path / "node.toml"
    write_private(path, render(NodeSettings, values))
    return path


def wait(daemon: Daemon, condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        daemon.check()
        assert time.monotonic() < until, daemon.log.read_text()
        time.sleep(0.01)


def test_places_at_relays_are_those_of_the_start_and_the_log_says_so(config: Path, tmp_path: Path) -> None:
    with daemons() as running:
        daemon = running.start("node", command("syndb-node", "run", "--config", str(config)), tmp_path / "node.log")
        wait(daemon, lambda: "node started" in daemon.log.read_text())
        relay = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"
        kept = config.read_text().replace("[federation]\n", f'[federation]\nrelays = ["{relay}"]\n', 1)
        write_private(config, "".join(line for line in kept.splitlines(True) if line != "relays = []\n"))
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        wait(daemon, lambda: "configuration read again" in daemon.log.read_text())
        assert "some settings take effect when the node is restarted" in daemon.log.read_text()


def test_a_node_that_is_told_to_read_its_file_again_before_it_listens_does_so_once_it_does(
    config: Path, tmp_path: Path
) -> None:
    with daemons() as running:
        daemon = running.start("node", command("syndb-node", "run", "--config", str(config)), tmp_path / "node.log")
        wait(daemon, (tmp_path / "node").exists)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        wait(daemon, lambda: "configuration read again" in daemon.log.read_text())
        assert "node started" in daemon.log.read_text().partition("configuration read again")[0]
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0
