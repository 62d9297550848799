"""``syndb dataset``: files in, versions out, against a real engine."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.flight.settings import FlightSettings
from syndb_common.flight.tls import ensure_certificate
from syndb_common.tables.identity import dataset_id, row_id
from syndb_common.tables.schema import apply, migrations
from tests.syndb_common.flight.uploading import free_port, rows

pytestmark = pytest.mark.slow

FLY = dataset_id("fly")
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


@pytest.fixture
async def engine(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[LocalEngine]:
    folder, port = tmp_path / "node" / "engine", free_port()
    (tmp_path / "node.toml").write_text(CONFIG.format(folder=tmp_path / "node", port=port))
    engine = LocalEngine(folder, flight=FlightSettings("127.0.0.1", port, certificate_folder=folder / "tls"))
    await nursery.start(engine.run)
    await apply(engine, migrations())
    yield engine
    nursery.cancel_scope.cancel()


async def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "syndb_cli.main", "dataset", *words, "--config", str(folder / "node.toml")]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


async def test_files_become_a_version_which_can_be_deleted(engine: LocalEngine, tmp_path: Path) -> None:
    (tmp_path / "fly.json").write_text(json.dumps({"dataset": "fly", "species": "Drosophila melanogaster"}))
    names = [f"n{number}" for number in range(100_000)]
    pq.write_table(pa.table({"source_id": names}), tmp_path / "neurons.parquet")
    ids = [str(row_id(FLY, "neurons", name)) for name in names[:2]]
    axons = pa.table({"source_id": ["a", "b"], "parent_id": ids})
    with pa.ipc.new_file(str(tmp_path / "axons.arrow"), axons.schema) as file:
        file.write_table(axons)
    files = [f"--table=neurons={tmp_path / 'neurons.parquet'}", f"--table=axons={tmp_path / 'axons.arrow'}"]

    first = await _run(tmp_path, "upload", str(tmp_path / "fly.json"), *files, "--json")
    again = await _run(tmp_path, "upload", str(tmp_path / "fly.json"), *files, "--json")

    assert first.returncode == 0, first.stderr
    said = json.loads(first.stdout)
    assert (said["version"], said["row_counts"]) == (1, {"axons": 2, "neurons": 100_000})
    assert json.loads(again.stdout) == said
    assert await rows(engine, "SELECT count() AS n FROM syndb.neurons") == [{"n": 100_000}]

    unasked = await _run(tmp_path, "delete", str(FLY))
    assert (unasked.returncode, b"--yes" in unasked.stderr) == (2, True)
    deleted = await _run(tmp_path, "delete", "fly@1", "--yes", "--json")
    assert json.loads(deleted.stdout) == {"dataset_id": str(FLY), "versions": [1]}
    assert await rows(engine, "SELECT count() AS n FROM syndb.neurons") == [{"n": 0}]
    once_more = await _run(tmp_path, "delete", str(FLY), "--yes")
    assert once_more.returncode == 5
    after = await _run(tmp_path, "upload", str(tmp_path / "fly.json"), *files, "--json")
    assert json.loads(after.stdout)["version"] == 2


def test_ctrl_c_ends_an_upload_to_a_node_that_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "fly.json").write_text('{"dataset": "fly"}')
    pq.write_table(pa.table({"source_id": ["a"]}), tmp_path / "neurons.parquet")
    engine = tmp_path / "node" / "engine"
    engine.mkdir(parents=True)
    ensure_certificate(engine / "tls")
    (engine / "upload-token").write_text("token")
    with socket.create_server(("127.0.0.1", 0)) as stalled:
        config = tmp_path / "node.toml"
        config.write_text(CONFIG.format(folder=tmp_path / "node", port=stalled.getsockname()[1]))
        words = ["upload", str(tmp_path / "fly.json"), f"--table=neurons={tmp_path / 'neurons.parquet'}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "syndb_cli.main", "dataset", *words, "--config", str(config)], stderr=subprocess.PIPE
        )
        connection, _ = stalled.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=15)  # gRPC itself would wait for 20 seconds
    assert (process.returncode, b"repeat the command" in said, b"Traceback" in said) == (130, True, False), said


@pytest.mark.parametrize(
    ("metadata", "options", "message"),
    [
        ('{"dataset": "fly", "embargo": 1}', ["--table=neurons=x.parquet"], b"unknown field embargo"),
        ('{"dataset": "Fly!"}', ["--table=neurons=x.parquet"], b"dataset"),
        ("[]", ["--table=neurons=x.parquet"], b"fly.json"),
        ('{"dataset": "fly"}', ["--table=neurons"], b"does not name one table"),
        ('{"dataset": "fly"}', ["--table=neurons=/nowhere.parquet"], b"cannot read /nowhere.parquet"),
    ],
)
async def test_what_cannot_be_uploaded_is_said(
    tmp_path: Path, metadata: str, options: list[str], message: bytes
) -> None:
    (tmp_path / "fly.json").write_text(metadata)
    refused = await _run(tmp_path, "upload", str(tmp_path / "fly.json"), *options)
    assert refused.returncode in (2, 3)
    assert message in refused.stderr
