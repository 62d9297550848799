"""What tests of uploads share: an engine that is restarted, its target, and rows of one data set."""

# ruff: noqa: ASYNC110 - other processes change what is waited for

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import trio
from pyarrow import flight
from pydantic import BaseModel

from syndb_common.engine.checks import content_hash
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.settings import Server
from syndb_common.errors import EngineUnavailable
from syndb_common.flight.client import connect
from syndb_common.flight.settings import FlightSettings
from syndb_common.flight.uploader import UploadTarget
from syndb_common.flight.uploads import Acknowledged, Begin, Begun, Mark, Put, Status, UploadStatus
from syndb_common.flight.wire import from_flight
from syndb_common.tables import schema
from syndb_common.tables.identity import dataset_id, row_id
from syndb_common.tables.model import TABLES
from syndb_common.tables.versions import DatasetMetadata

WORM = dataset_id("worm")
METADATA = DatasetMetadata(dataset="worm", species="Caenorhabditis elegans")


def neurons(first: int, count: int) -> pa.Table:
    """Neurons by number, each with a value of its own."""
    numbers = range(first, first + count)
    return pa.table({"source_id": [f"n{n}" for n in numbers], "soma_x": np.arange(first, first + count, dtype=float)})


BATCH_ROWS = 200
ROWS = 3 * BATCH_ROWS


def tables_of(version: int) -> dict[str, pa.Table]:
    """Neurons in some batches, and an axon of each; other values in each version."""
    cells = pa.Table.from_batches(neurons(1000 * version, ROWS).to_batches(max_chunksize=BATCH_ROWS))
    ids = [str(row_id(WORM, "neurons", name)) for name in cells["source_id"].to_pylist()]
    return {"neurons": cells, "axons": pa.table({"source_id": cells["source_id"], "neuron_id": ids})}


def free_port() -> int:
    """A port that is free now: an engine that is restarted comes back to it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@asynccontextmanager
async def restarted_engine(path: Path, server: Server | None = None) -> AsyncIterator[LocalEngine]:
    """An engine that is started again whenever it dies, at the same address."""
    engine = LocalEngine(path, server=server, flight=FlightSettings("127.0.0.1", free_port(), path / "flight"))

    async def supervise() -> None:
        while True:
            try:
                await engine.run()
            except EngineUnavailable:
                await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise)
        with trio.fail_after(60):
            while not engine.ready:
                await trio.sleep(0.02)
        await schema.apply(engine, schema.migrations())
        yield engine
        nursery.cancel_scope.cancel()


def target_of(engine: LocalEngine) -> UploadTarget:
    """Where uploads to it go."""
    assert engine.path is not None
    return UploadTarget.of_folders(engine.flight_location, engine.path / "flight", engine.path)


async def kill(engine: LocalEngine) -> None:
    """SIGKILL the engine process and wait for the next one."""
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with trio.fail_after(60):
        while engine.pid in (pid, None):
            await trio.sleep(0.02)


async def rows(engine: LocalEngine, sql: str) -> list[dict[str, Any]]:
    """The rows of one SELECT."""
    found: list[dict[str, Any]] = (await engine.query(sql)).table.to_pylist()
    return found


async def content_hash_of(engine: LocalEngine, dataset: UUID, version: int) -> str:
    """The content hash of what is stored as one version, computed anew."""
    mine = f"dataset_id = toUUID('{dataset}') AND version = {version}"
    places = {table: f"(SELECT * FROM syndb.{table} WHERE {mine})" for table in TABLES}
    reading: Any = _Reading(engine)
    return await trio.to_thread.run_sync(content_hash, reading, places)


class _Reading:
    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    def read_all(self, sql: str) -> pa.Table:
        return trio.from_thread.run(self._engine.query, sql).table


class RawClient:
    """A foreign Flight client, call by call."""

    def __init__(self, target: UploadTarget) -> None:
        self._client = connect(target.location, target.certificate_pem)
        headers = [(b"authorization", f"Bearer {target.token}".encode())]
        self._options = flight.FlightCallOptions(timeout=60, headers=headers)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *failure: object) -> None:
        self._client.close()

    def act(self, request: BaseModel) -> bytes:
        """One action; errors are ours."""
        name = type(request).__name__.lower()
        try:
            (answer,) = self._client.do_action(flight.Action(name, request.model_dump_json().encode()), self._options)
        except pa.ArrowException as error:
            raise from_flight(error) from None
        return bytes(answer.body.to_pybytes())

    def begin(self, *tables: str, key: UUID | None = None, metadata: DatasetMetadata = METADATA) -> UUID:
        """Begin an upload of the worm."""
        begin = Begin(dataset_id=dataset_id(metadata.dataset), metadata=metadata, tables=tables, key=key)
        return Begun.model_validate_json(self.act(begin)).upload_id

    def status(self, upload: UUID) -> UploadStatus:
        """How far it is."""
        return UploadStatus.model_validate_json(self.act(Status(upload_id=upload)))

    def open(self, put: Put, of: pa.Schema) -> tuple[Any, Any]:
        """A stream that stays open: its writer and what reads the answers."""
        descriptor = flight.FlightDescriptor.for_command(put.model_dump_json().encode())
        writer, answers = self._client.do_put(descriptor, of, self._options)
        return writer, answers

    def put(self, put: Put, batches: list[tuple[int, pa.Table]]) -> list[tuple[int, int]]:
        """Numbered batches in one connection; the numbers and rows that were acknowledged."""
        try:
            writer, answers = self.open(put, batches[0][1].schema)
            try:
                for seq, table in batches:
                    (batch,) = table.combine_chunks().to_batches()
                    writer.write_with_metadata(batch, Mark(seq=seq).model_dump_json().encode())
                writer.done_writing()
                found = []
                while (answer := answers.read()) is not None:
                    said = Acknowledged.model_validate_json(answer.to_pybytes())
                    found.append((said.seq, said.rows))
            finally:
                writer.close()
        except pa.ArrowException as error:
            raise from_flight(error) from None
        return found
