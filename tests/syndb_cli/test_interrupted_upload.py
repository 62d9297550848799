"""``syndb dataset upload`` into a running node, both of which are killed in the middle of it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.remote.identity import Identity
from demo.processes import command, daemons
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.owning import bring_tables
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import render, write_private
from syndb_common.tables import schema
from tests.syndb_common.flight.uploading import free_port

pytestmark = pytest.mark.slow

ROWS = 300_000
DEADLINE_SECONDS = 120.0


def _config(folder: Path, port: int) -> Path:
    values = {
        "data_dir": str(folder / "node"),
        "cluster": {"name": "worm-lab"},
        "federation": {
            "password": "a-password-of-this-test",
            "hub_peer_id": Identity.generate().peer_id,
            "listen": ["/ip4/127.0.0.1/tcp/0"],
            "enable_mdns": False,
        },
        "flight": {"host": "127.0.0.1", "port": port},
    }
    path = folder / "node.toml"
    write_private(path, render(NodeSettings, values))
    return path


def _wait_listening(port: int) -> None:
    until = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)
        else:
            return


def _wait_sending(port: int, client: subprocess.Popen[bytes]) -> None:
    """Until the client is connected: an address of the kernel's list of connections in state 1."""
    until, remote = time.monotonic() + DEADLINE_SECONDS, f"0100007F:{port:04X} 01"
    while remote not in Path("/proc/net/tcp").read_text(encoding="ascii"):
        assert client.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.3)


def _rows(path: Path, shift: float) -> Path:
    names = [f"n{number}" for number in range(ROWS)]
    pq.write_table(pa.table({"source_id": names, "soma_x": np.arange(ROWS) + shift}), path)
    return path


def test_an_upload_goes_on_after_node_or_client_were_killed(tmp_path: Path) -> None:
    (tmp_path / "fly.json").write_text(json.dumps({"dataset": "fly"}))
    port = free_port()
    config = _config(tmp_path, port)
    bring_tables(LocalEngine(tmp_path / "node" / "engine"), schema.CURRENT)
    files = [_rows(tmp_path / f"{number}.parquet", float(number)) for number in (1, 2)]
    client: list[subprocess.Popen[bytes]] = []

    def start(file: Path) -> subprocess.Popen[bytes]:
        words = ["dataset", "upload", str(tmp_path / "fly.json"), f"--table=neurons={file}", "--json"]
        process = subprocess.Popen(
            command("syndb", *words, "--config", str(config)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        client.append(process)
        return process

    def result(process: subprocess.Popen[bytes]) -> dict[str, Any]:
        said, complaint = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 0, complaint
        found: dict[str, Any] = json.loads(said)
        return found

    with daemons() as running:
        try:
            node = running.start("node", command("syndb-node", "run", "--config", str(config)), tmp_path / "node.log")
            _wait_listening(port)

            first = start(files[0])
            _wait_sending(port, first)
            node.kill()
            node.start()
            one = result(first)  # it has waited for the node and gone on

            second = start(files[1])
            _wait_sending(port, second)
            second.kill()
            second.wait()
            two = result(start(files[1]))

            again = result(start(files[1]))
        finally:
            for process in client:
                process.kill()
                process.communicate()
    assert [(each["version"], each["row_counts"]) for each in (one, two)] == [(n, {"neurons": ROWS}) for n in (1, 2)]
    assert one["content_hash"] != two["content_hash"] == again["content_hash"]
