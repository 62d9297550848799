"""An upload from the first byte to the published version, against a bare insert of the same rows into the same table.

Ours is the product's own uploader over TLS: rows are checked and fitted as they come, staged, given their ids, checked
against the rules of the tables (ids, uniqueness, references), hashed and published. The reference inserts complete
rows, ids included, into the empty table of a ClickHouse of its own, and that is all it does. Both take turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import trio

from bench.bare_engine import BareEngine, bare_engine
from bench.result import Result, rate
from syndb_common.engine.checks import ROW_ID
from syndb_common.engine.local import LocalEngine
from syndb_common.flight.settings import FlightSettings
from syndb_common.flight.uploader import UploadTarget, upload
from syndb_common.tables import schema
from syndb_common.tables.identity import dataset_id, row_id
from syndb_common.tables.model import DATABASE
from syndb_common.tables.versions import DatasetMetadata

ROWS = 5_000_000
NEURONS = 20_000
REGIONS = 200
ROUNDS = 3
GOAL = 0.30


def run(rows: int = ROWS, rounds: int = ROUNDS) -> list[Result]:
    """Rows per second of uploads and of bare inserts."""
    with tempfile.TemporaryDirectory(prefix="syndb-bench-") as temporary:
        folder = Path(temporary)
        with bare_engine(folder / "bare") as bare:
            ours, reference = trio.run(_measure, folder, bare, rows, rounds)
    middle = rows / statistics.median(ours), rows / statistics.median(reference)
    return [rate("upload_vs_engine_insert", *middle, "rows/s", rounds, goal=GOAL)]


async def _measure(folder: Path, bare: BareEngine, rows: int, rounds: int) -> tuple[list[float], list[float]]:
    ours, reference = [], []
    path = folder / "node"
    path.mkdir(mode=0o700)
    engine = LocalEngine(path, flight=FlightSettings("127.0.0.1", 0, folder / "flight"))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await schema.apply(engine, schema.migrations())
        bare.run(f"CREATE DATABASE {DATABASE}")
        for migration in schema.migrations():
            for statement in schema.check_statements(migration):
                bare.run(statement)
        target = UploadTarget.of_folders(engine.flight_location, folder / "flight", path)
        for round_number in range(rounds):
            name = f"bench-{round_number}"
            tables = _tables(dataset_id(name), rows)
            began = time.perf_counter()
            result = await trio.to_thread.run_sync(
                upload, target, DatasetMetadata(dataset=name, title="synthetic rows"), dataset_id(name), tables
            )
            ours.append(time.perf_counter() - began)
            if result.row_counts != {"neurons": NEURONS, "synapses": rows}:
                raise RuntimeError(f"published {result.row_counts}")
            del tables
            bare.run(f"TRUNCATE TABLE {DATABASE}.synapses")
            reference.append(bare.insert(f"{DATABASE}.synapses", _complete(dataset_id(name), rows)))
        nursery.cancel_scope.cancel()
    return ours, reference


def _tables(dataset: UUID, rows: int) -> dict[str, pa.Table]:
    """Some neurons, and ``rows`` connections among them."""
    names = [str(number) for number in range(NEURONS)]
    ids = pa.array([row_id(dataset, "neurons", name).bytes for name in names], pa.binary(16))
    numbers = np.arange(rows)
    random = np.random.default_rng(1)
    regions = pa.array([f"region {number}" for number in range(REGIONS)])
    synapses = {
        "source_id": pc.cast(pa.array(numbers), pa.string()),
        "pre_id": ids.take(pa.array(numbers % NEURONS)),
        "post_id": ids.take(pa.array(numbers % (NEURONS - 1))),
        "synapse_type": pa.repeat("chemical", rows),
        "synapse_count": pa.array(random.integers(1, 9, rows, dtype=np.uint32)),
        "brain_region": regions.take(pa.array(numbers % REGIONS)),
        "connection_score": pa.array(random.random(rows)),
    }
    return {"neurons": pa.table({"source_id": names}), "synapses": pa.table(synapses)}


def _complete(dataset: UUID, rows: int) -> str:
    """A SELECT of such connections with everything that an upload adds."""
    cid = ROW_ID.format(namespace=dataset.hex, table="synapses")
    return (
        f"SELECT toUUID('{dataset}') AS dataset_id, toUInt32(1) AS version, {cid} AS cid, "
        "toString(number) AS source_id, "
        f"reinterpretAsUUID(sipHash128(number % {NEURONS})) AS pre_id, "
        f"reinterpretAsUUID(sipHash128(number % {NEURONS - 1})) AS post_id, 'chemical' AS synapse_type, "
        f"toUInt32(number % 8 + 1) AS synapse_count, concat('region ', toString(number % {REGIONS})) AS brain_region, "
        f"intHash64(number) / 18446744073709551616 AS connection_score FROM numbers({rows})"
    )
