"""A stopped node with published versions, and its command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import trio
from typer.testing import CliRunner

from actors.remote.identity import Identity
from actors.remote.proof import generate_secret
from syndb_common.engine.local import LocalEngine
from syndb_common.flight.settings import FlightSettings
from syndb_common.flight.uploader import UploadTarget, upload
from syndb_common.tables import schema
from syndb_common.tables.identity import dataset_id, row_id
from syndb_common.tables.versions import DatasetMetadata
from syndb_node.main import app

ROWS = 20_000
"""Of the largest version."""
ALL = [("fly", 1), ("worm", 1), ("worm", 2)]
"""What is published."""


def command_words(program: str, *words: str | Path) -> list[str]:
    """A command as its operator types it: it loads ClickHouse, which no process of the tests may."""
    module = program.replace("-", "_")
    return [sys.executable, "-c", f"from {module}.main import main; main()", *map(str, words)]


def run_command(program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(command_words(program, *words), capture_output=True, text=True, check=False)


def stopped_node(folder: Path) -> Path:
    """The configuration of a node that has run; its data are in ``data`` beside it."""
    config, data = folder / "node.toml", folder / "data"
    words = ["init", "--config", str(config), "--data-dir", str(data), "--cluster-name", "worm-lab"]
    words += ["--hub-peer-id", Identity.generate().peer_id, "--federation-password", generate_secret()]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    trio.run(_publish, data / "engine")
    return config


async def _publish(base: Path) -> None:
    engine = LocalEngine(base, flight=FlightSettings("127.0.0.1", 0, base / "tls"))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await schema.apply(engine, schema.migrations())
        target = UploadTarget.of_folders(engine.flight_location, base / "tls", base)
        for name, tables in (
            ("worm", {"neurons": _neurons("worm", 4)}),
            ("worm", {"neurons": _neurons("worm", 8), "synapses": _synapses("worm")}),
            ("fly", {"neurons": _neurons("fly", ROWS)}),
        ):
            metadata = DatasetMetadata(dataset=name, title="'quoted' \u00b5")
            await trio.to_thread.run_sync(upload, target, metadata, dataset_id(name), tables)
        nursery.cancel_scope.cancel()


def _source_id(dataset: str, number: int) -> str:
    return f"{dataset} {number} \u00b5 'quoted' \n"


def _neurons(dataset: str, count: int) -> pa.Table:
    names = [_source_id(dataset, number) for number in range(count)]
    return pa.table(
        {
            "source_id": names,
            "name": names,
            "cell_type": ["KC", "", "MBON", "DAN"] * (count // 4),
            "root_id": pa.array([None, 2**64 - 1] * (count // 2), pa.uint64()),
            "gaba": pa.array([0.1 + 0.2, None, -0.0, 5e-324] * (count // 4)),
        }
    )


def _synapses(dataset: str) -> pa.Table:
    pre, post = (str(row_id(dataset_id(dataset), "neurons", _source_id(dataset, number))) for number in range(2))
    return pa.table({"source_id": ["s"], "pre_id": [pre], "post_id": [post], "synapse_count": [3]})
