"""The reference of the engine's measurements: ClickHouse as a library, in a process of its own, without SynDB.

``python -m bench.bare_engine FOLDER`` obeys JSON lines, ``{"do": "run" | "scan" | "insert", "sql": ...}``, and answers
each with the seconds it took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

BATCH_ROWS = 65_536


class BareEngine:
    """The process as its parent sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, sql: str) -> float:
        """Run one statement without a result; returns seconds."""
        return self._do("run", sql)

    def scan(self, sql: str) -> float:
        """Read the Arrow stream of a SELECT to its end; returns seconds."""
        return self._do("scan", sql)

    def insert(self, table: str, select: str) -> float:
        """Insert the rows of a SELECT, which are made and held as Arrow beforehand; returns seconds of the insert."""
        return self._do("insert", select, table=table)

    def _do(self, what: str, sql: str, **more: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"do": what, "sql": sql, **more}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the bare engine has ended; its error is above")
        return float(line)


@contextmanager
def bare_engine(folder: Path) -> Iterator[BareEngine]:
    """An empty ClickHouse in ``folder``, until the end of the block."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "bench.bare_engine", str(folder)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield BareEngine(process)
        assert process.stdin is not None
        process.stdin.close()


def _serve(folder: str) -> None:
    from chdb.state import connect

    connection: Any = connect(folder)
    for line in sys.stdin:
        wish = json.loads(line)
        match wish["do"]:
            case "run":
                began = time.perf_counter()
                connection.query(wish["sql"])
            case "scan":
                began = time.perf_counter()
                for _ in connection.send_query(wish["sql"], "Arrow").record_batch(BATCH_ROWS):
                    pass
            case "insert":
                table = pa.Table.from_batches(connection.send_query(wish["sql"], "Arrow").record_batch(BATCH_ROWS))
                began = time.perf_counter()
                _insert(connection, wish["table"], table)
        print(time.perf_counter() - began, flush=True)


def _insert(connection: Any, name: str, table: pa.Table) -> None:
    columns = ", ".join(table.column_names)
    with connection.send_insert(f"INSERT INTO {name} ({columns})", "ArrowStream") as inserter:
        with pa.ipc.new_stream(_Sink(inserter), table.schema) as writer:
            writer.write_table(table, max_chunksize=BATCH_ROWS)
        if inserter.finish().rows_written != table.num_rows:
            raise RuntimeError("rows are missing")


class _Sink:
    """The file Arrow writes to."""

    closed = False

    def __init__(self, inserter: Any) -> None:
        self._inserter = inserter

    def write(self, data: Any) -> int:
        self._inserter.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The insert is finished by its owner."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


if __name__ == "__main__":
    _serve(sys.argv[1])
