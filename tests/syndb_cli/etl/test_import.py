"""Imports into a real engine: complete, repeatable, and nothing of them visible when they fail."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.flight.settings import FlightSettings
from syndb_common.flight.tls import ensure_certificate
from syndb_common.tables.schema import apply, migrations

CONFIG = """
data_dir = "{folder}"
[cluster]
name = "test-node"
[federation]
hub_peer_id = "12D3KooWQjpHjGsyfLAaLHdBnVRCnDVyqVMEBBNbEWTjqkMYYqVx"
password = "only for this test"
[flight]
host = "127.0.0.1"
port = {port}
"""

pytestmark = pytest.mark.slow


def write_config(folder: Path, port: int) -> Path:
    path = folder / "node.toml"
    path.write_text(CONFIG.format(folder=folder / "node", port=port))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Node:
    """An engine with its schema, as a node runs it, and the command line that imports into it."""

    engine: LocalEngine
    config: Path
    files: Path

    async def run_import(self, key: str, *options: str) -> subprocess.CompletedProcess[bytes]:
        words = ["etl", key, "import", "--data-dir", str(self.files), "--config", str(self.config), *options]
        return await trio.run_process(
            [sys.executable, "-m", "syndb_cli.main", *words], capture_stdout=True, capture_stderr=True, check=False
        )

    async def rows(self, sql: str) -> list[dict[str, object]]:
        answer = await self.engine.query(sql)
        return answer.table.to_pylist()


@pytest.fixture
async def node(tmp_path: Path, real_files: Path, nursery: trio.Nursery) -> AsyncIterator[Node]:
    folder, port = tmp_path / "node" / "engine", free_port()
    flight = FlightSettings("127.0.0.1", port, certificate_folder=folder / "tls")
    engine = LocalEngine(folder, flight=flight)
    await nursery.start(engine.run)
    await apply(engine, migrations())
    return Node(engine, write_config(tmp_path, port), real_files)


COUNTS = "SELECT synapse_type, count() AS n, sum(synapse_count) AS total FROM syndb.synapses GROUP BY 1 ORDER BY 1"


async def test_an_import_publishes_every_row_and_a_second_one_changes_nothing(node: Node) -> None:
    first = await node.run_import("c-elegans-herm", "--json")
    assert first.returncode == 0, first.stderr.decode()
    (published,) = json.loads(first.stdout)
    assert published["dataset"] == "cook-2019-hermaphrodite"
    assert (published["version"], published["unchanged"]) == (1, False)
    assert published["row_counts"] == {"neurons": 473, "synapses": 6329}
    counts = await node.rows(COUNTS)
    assert counts == [
        {"synapse_type": "chemical", "n": 4879, "total": 28113},
        {"synapse_type": "electrical", "n": 1450, "total": 11680},
    ]
    again = await node.run_import("c-elegans-herm", "--json")
    (repeated,) = json.loads(again.stdout)
    assert (repeated["version"], repeated["unchanged"]) == (1, True)
    assert await node.rows(COUNTS) == counts


async def test_stages_and_tables_can_be_chosen(node: Node) -> None:
    result = await node.run_import("c-elegans-dev", "--stage", "8", "--stage", "2", "--tables", "neurons")
    assert result.returncode == 0, result.stderr.decode()
    versions = await node.rows("SELECT metadata FROM syndb.dataset_versions")
    names = {json.loads(str(row["metadata"]))["dataset"] for row in versions}
    assert names == {"witvliet-2020-2", "witvliet-2020-8"}
    assert await node.rows(COUNTS) == []


async def test_synapses_without_their_neurons_are_refused(node: Node) -> None:
    result = await node.run_import("c-elegans-dev", "--stage", "1", "--table", "synapses")
    assert result.returncode == 3
    assert result.stderr.startswith(b"error: ")
    assert b"Traceback" not in result.stderr
    assert await node.rows("SELECT 1 FROM syndb.dataset_versions") == []


async def test_without_the_right_token_nothing_is_taken(node: Node, tmp_path: Path) -> None:
    (tmp_path / "node" / "engine" / "upload-token").write_text("wrong")
    result = await node.run_import("c-elegans-dev", "--stage", "1")
    assert result.returncode == 4
    assert b"wrong" not in result.stderr
    assert await node.rows("SELECT 1 FROM syndb.dataset_versions") == []


async def test_what_was_published_before_a_damaged_file_is_shown_and_stays(node: Node, tmp_path: Path) -> None:
    for name in ("witvliet_2020_1 L1.xlsx", "witvliet_2020_2 L1.xlsx"):
        (tmp_path / name).write_bytes((node.files / name).read_bytes())
    (tmp_path / "witvliet_2020_2 L1.xlsx").write_bytes(b"cut")
    broken = Node(node.engine, node.config, tmp_path)
    result = await broken.run_import("c-elegans-dev", "--stage", "1", "--stage", "2")
    assert result.returncode == 3
    assert b"witvliet-2020-1" in result.stdout
    assert b"witvliet-2020-2" not in result.stdout
    assert len(await node.rows("SELECT 1 FROM syndb.dataset_versions")) == 1


async def test_a_cut_file_fails_before_anything_is_sent(node: Node, tmp_path: Path) -> None:
    name = "witvliet_2020_1 L1.xlsx"
    (tmp_path / name).write_bytes((node.files / name).read_bytes()[:9000])
    result = await Node(node.engine, node.config, tmp_path).run_import("c-elegans-dev", "--stage", "1")
    assert result.returncode == 3
    assert b"cut or corrupt" in result.stderr
    assert await node.rows("SELECT 1 FROM syndb.dataset_versions") == []


def test_a_node_that_is_down_is_told_in_one_line(tmp_path: Path, real_files: Path) -> None:
    result = subprocess.run(command_without_engine(tmp_path, real_files, free_port()), capture_output=True, check=False)
    assert result.returncode == 10
    assert result.stderr.startswith(b"error: ")
    assert b"Traceback" not in result.stderr


def test_ctrl_c_ends_an_import_that_waits_and_says_that_nothing_was_published(tmp_path: Path, real_files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stalled:
        words = command_without_engine(tmp_path, real_files, stalled.getsockname()[1])
        process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        connection, _ = stalled.accept()  # the import is on the line now and will never hear an answer
        with connection:
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=15)  # gRPC itself would wait for 20 seconds
    assert process.returncode == 8
    assert b"nothing of witvliet-2020-1 was published" in stderr
    assert b"Traceback" not in stderr


def command_without_engine(folder: Path, files: Path, port: int) -> list[str]:
    """An import into a node whose files are there, but no engine behind the port."""
    engine = folder / "node" / "engine"
    engine.mkdir(parents=True)
    ensure_certificate(engine / "tls")
    (engine / "upload-token").write_text("token")
    config = write_config(folder, port)
    words = ["etl", "c-elegans-dev", "import", "--stage", "1", "--data-dir", str(files), "--config", str(config)]
    return [sys.executable, "-m", "syndb_cli.main", *words]
