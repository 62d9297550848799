"""One embedded ClickHouse in a process of its own, driven over its standard streams; started by ``conftest.py``.

A request is ``(sql, rows, table)``: with rows (Arrow IPC), they become the content of ``table`` first; an empty
``sql`` asks for nothing. The answer is the result as Arrow IPC, or the error's text.
"""

import pickle
import struct
import sys
from pathlib import Path

import pyarrow as pa
from chdb.session import Session

from syndb_common.tables.schema import migrations


def main(folder: str) -> None:
    """Answer until standard input ends."""
    session = Session(str(Path(folder) / "clickhouse"))
    session.query("CREATE DATABASE IF NOT EXISTS syndb")
    for migration in migrations():
        for statement in migration.statements:
            session.query(statement)
    while header := sys.stdin.buffer.read(4):
        sql, rows, table = pickle.loads(sys.stdin.buffer.read(*struct.unpack("!I", header)))
        try:
            answer = ("ok", _answer(session, Path(folder), sql, rows, table))
        except Exception as error:  # every failure of a statement is the test's to judge
            answer = ("error", str(error))
        body = pickle.dumps(answer)
        sys.stdout.buffer.write(struct.pack("!I", len(body)) + body)
        sys.stdout.buffer.flush()


def _answer(session: Session, folder: Path, sql: str, rows: bytes | None, table: str) -> bytes:
    if rows is not None:
        _fill(session, folder / "rows.arrow", rows, table)
    return session.query(sql, "ArrowStream").bytes() if sql else b""


def _fill(session: Session, path: Path, rows: bytes, table: str) -> None:
    path.write_bytes(rows)
    source = f"file('{path}', 'ArrowStream')"
    if table == "partials":
        session.query("DROP TABLE IF EXISTS partials")
        session.query(f"CREATE TABLE partials ENGINE = Memory AS SELECT * FROM {source}")
        return
    session.query(f"TRUNCATE TABLE {table}")
    names = ", ".join(pa.ipc.open_stream(rows).schema.names)
    session.query(f"INSERT INTO {table} ({names}) SELECT {names} FROM {source}")


if __name__ == "__main__":
    main(sys.argv[1])
