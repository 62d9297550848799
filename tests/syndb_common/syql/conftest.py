"""A catalogue to plan against, and one ClickHouse process for all tests of a module."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from syndb_common.syql import Plan, parse, plan
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion


class ClickHouse:
    """The child process of ``clickhouse_process.py``."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("clickhouse_process.py")), str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def query(self, sql: str, rows: pa.Table | None = None, table: str = "partials") -> pa.Table:
        """Result of a statement; with rows, they become the content of ``table`` first."""
        body = pickle.dumps((sql, None if rows is None else _ipc(rows), table))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("!I", len(body)) + body)
        self._process.stdin.flush()
        size = struct.unpack("!I", self._process.stdout.read(4))[0]
        status, answer = pickle.loads(self._process.stdout.read(size))
        if status == "error":
            raise RuntimeError(answer)
        return pa.ipc.open_stream(answer).read_all() if answer else pa.table({})

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    process = ClickHouse(tmp_path_factory.mktemp("clickhouse"))
    yield process
    process.close()


def published(name: str, version: int = 1, **metadata: Any) -> PublishedVersion:
    """A commit row of a data set whose id follows from its name."""
    return PublishedVersion(
        dataset_id=dataset_id(name),
        version=version,
        metadata=DatasetMetadata(dataset=name, **metadata),
        row_counts={},
        content_hash="0" * 64,
        schema_version=1,
        published_at=datetime(2025, 1, 1, tzinfo=UTC),
    )


@pytest.fixture(scope="session")
def catalogue() -> list[PublishedVersion]:
    """Two worms by Cook, one of them in two versions, and one larva by Witvliet."""
    return [
        published("cook-2019-hermaphrodite", sex="hermaphrodite", stage="adult", brain_region="whole"),
        published("cook-2019-male", version=1, sex="male", stage="adult", brain_region="whole"),
        published("cook-2019-male", version=2, sex="male", stage="adult", brain_region="whole"),
        published("witvliet-2020-1", sex="hermaphrodite", stage="L1", brain_region="nerve ring", tags="it's, \\ ok"),
    ]


@pytest.fixture(scope="session")
def planned(catalogue: list[PublishedVersion]) -> Callable[[str], Plan]:
    """Text -> plan over the catalogue."""
    return lambda text: plan(parse(text), catalogue)
