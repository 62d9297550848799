"""Migrations bring an engine to the model, can be repeated, and can do nothing but add."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlglot
import trio
from sqlglot import exp

from syndb_common.engine.local import LocalEngine
from syndb_common.errors import Conflict, DataError, EngineUnavailable, SynDBError
from syndb_common.messages import SchemaMigration
from syndb_common.tables import TABLES, schema


def _migration(*statements: str, version: int = 1) -> SchemaMigration:
    return SchemaMigration(version=version, name="test", statements=statements)


async def test_after_all_migrations_the_database_equals_the_model(engine: LocalEngine) -> None:
    await schema.apply(engine, schema.migrations())

    answer = await engine.query(
        "SELECT table, name, type, comment FROM system.columns WHERE database = 'syndb' ORDER BY table, position"
    )
    found: dict[str, list[tuple[str, str, str]]] = {}
    for row in answer.table.to_pylist():
        found.setdefault(row["table"], []).append((row["name"], row["type"], row["comment"]))
    for table in TABLES.values():
        expected = [(c.name, c.type, f"{c.description} [{c.unit}]" if c.unit else c.description) for c in table.columns]
        assert found.pop(table.name) == expected
    assert set(found) == {"dataset_versions", "schema_migrations"}


async def test_every_table_is_partitioned_and_sorted_by_version(engine: LocalEngine) -> None:
    await schema.apply(engine, schema.migrations())

    answer = await engine.query(
        "SELECT name, partition_key, sorting_key FROM system.tables WHERE database = 'syndb'"
        " AND name NOT IN ('dataset_versions', 'schema_migrations')"
    )
    rows = answer.table.to_pylist()
    assert {row["name"] for row in rows} == set(TABLES)
    assert {row["partition_key"] for row in rows} == {"(dataset_id, version)"}
    assert {row["sorting_key"] for row in rows} == {"dataset_id, version, cid"}


async def test_migrations_are_applied_once(engine: LocalEngine) -> None:
    assert await schema.schema_version(engine) == 0
    every = tuple(range(1, schema.CURRENT + 1))
    assert await schema.apply(engine, schema.migrations()) == (schema.CURRENT, every)
    assert await schema.apply(engine, schema.migrations()) == (schema.CURRENT, ())
    assert await schema.schema_version(engine) == schema.CURRENT


async def test_a_migration_cut_short_is_done_again(engine: LocalEngine) -> None:
    first = schema.migrations()[0]
    await engine.execute("CREATE DATABASE syndb")
    await engine.execute(first.statements[0])

    version, applied = await schema.apply(engine, schema.migrations())

    assert (version, applied[0]) == (schema.CURRENT, 1)


async def test_a_gap_in_the_numbers_is_a_conflict(engine: LocalEngine) -> None:
    with pytest.raises(Conflict, match="migration 2 does not follow schema version 0"):
        await schema.apply(engine, schema.migrations(since=1))


async def test_a_column_can_be_added(engine: LocalEngine) -> None:
    await schema.apply(engine, schema.migrations())
    more = _migration(
        "ALTER TABLE syndb.neurons ADD COLUMN IF NOT EXISTS note String COMMENT 'free text'",
        version=schema.CURRENT + 1,
    )

    assert await schema.apply(engine, [*schema.migrations(), more]) == (more.version, (more.version,))

    answer = await engine.query("SELECT note FROM syndb.neurons")
    assert answer.table.num_rows == 0


async def test_nothing_is_applied_when_one_statement_is_refused(engine: LocalEngine) -> None:
    evil = _migration("DROP TABLE syndb.neurons", version=schema.CURRENT + 1)
    with pytest.raises(DataError):
        await schema.apply(engine, [*schema.migrations(), evil])
    assert await schema.schema_version(engine) == 0


def test_our_own_migrations_pass_unchanged() -> None:
    for migration in schema.migrations():
        assert schema.check_statements(migration) == migration.statements


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE syndb.neurons",
        "SELECT 1",
        "INSERT INTO syndb.neurons SELECT * FROM remote('other', syndb.neurons)",
        "CREATE TABLE IF NOT EXISTS other.t (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE IF NOT EXISTS t (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE syndb.t (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE OR REPLACE TABLE syndb.neurons (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8)",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = URL('http://other/', 'CSV')",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = S3('https://other/', 'CSV')",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = Distributed(c, d, t)",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = MergeTree ORDER BY a SETTINGS storage_policy = 'far'",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = s3)",
        "CREATE TABLE IF NOT EXISTS syndb.t (a Date) ENGINE = MergeTree ORDER BY a TTL a TO DISK 'far'",
        "CREATE TABLE IF NOT EXISTS syndb.t (a String DEFAULT file('/etc/passwd')) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE IF NOT EXISTS syndb.t ENGINE = MergeTree ORDER BY a AS SELECT * FROM url('http://other/')",
        "CREATE TABLE IF NOT EXISTS syndb.t AS file('/etc/passwd', 'LineAsString')",
        "CREATE TABLE IF NOT EXISTS syndb.t ON CLUSTER c (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE VIEW IF NOT EXISTS syndb.v AS SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "CREATE VIEW IF NOT EXISTS syndb.v AS SELECT * FROM system.processes",
        "CREATE VIEW IF NOT EXISTS syndb.v AS SELECT count() FROM (SELECT * FROM remote('other', syndb.neurons))",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS syndb.v TO other.t AS SELECT * FROM syndb.neurons",
        "CREATE DICTIONARY IF NOT EXISTS syndb.d (a UInt8) PRIMARY KEY a SOURCE(FILE(path '/etc/passwd'))",
        "CREATE FUNCTION f AS x -> x",
        "CREATE USER evil",
        "ALTER TABLE syndb.neurons DROP COLUMN name",
        "ALTER TABLE syndb.neurons RENAME COLUMN name TO label",
        "ALTER TABLE syndb.neurons ADD COLUMN note String",
        "ALTER TABLE syndb.neurons ADD COLUMN IF NOT EXISTS note String DEFAULT file('/etc/passwd')",
        "ALTER TABLE syndb.neurons MODIFY COLUMN name UInt8",
        "ALTER TABLE syndb.neurons DELETE WHERE 1",
        "ALTER TABLE syndb.neurons MOVE PARTITION 1 TO DISK 'far'",
        "ALTER TABLE other.t ADD COLUMN IF NOT EXISTS note String",
        "ALTER TABLE syndb.neurons ADD COLUMN IF NOT EXISTS note String, DROP COLUMN name",
        "ALTER TABLE syndb.neurons ADD COLUMN IF NOT EXISTS note String SETTINGS mutations_sync = 2",
        "ALTER TABLE syndb.neurons ADD INDEX IF NOT EXISTS i file('x') TYPE minmax",
        "ALTER TABLE syndb.neurons FETCH PARTITION 1 FROM '/far'",
        "ALTER TABLE syndb.schema_migrations ADD COLUMN IF NOT EXISTS note String",
        "CREATE TABLE IF NOT EXISTS syndb.schema_migrations (version UInt32) ENGINE = MergeTree ORDER BY version",
        "CREATE TABLE IF NOT EXISTS `syndb.t` (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE IF NOT EXISTS syndb.`../../t` (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE IF NOT EXISTS syndb.`a``b` (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE IF NOT EXISTS SYNDB.t (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE IF NOT EXISTS system.syndb.t (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE TEMPORARY TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE IF NOT EXISTS syndb.t (a String MATERIALIZED file('/etc/passwd')) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE IF NOT EXISTS syndb.t (a String ALIAS url('http://other/')) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE IF NOT EXISTS syndb.t (a String DEFAULT (SELECT 1)) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8, CONSTRAINT c CHECK file('x') = 1) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = MergeTree ORDER BY file('/etc/passwd')",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = MergeTree PARTITION BY url('http://o/') ORDER BY a",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = ReplicatedMergeTree('/x', 'y') ORDER BY a",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = File(CSV)",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = Merge('system', '.*')",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = Executable('x', 'CSV')",
        "CREATE TABLE IF NOT EXISTS syndb.t AS system.processes ENGINE = MergeTree ORDER BY a",
        "ATTACH TABLE syndb.t FROM '/etc' (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE VIEW IF NOT EXISTS syndb.v AS SELECT a FROM syndb.neurons SETTINGS readonly = 0",
        "CREATE VIEW IF NOT EXISTS syndb.v AS SELECT a FROM syndb.neurons FORMAT CSV",
        "CREATE VIEW IF NOT EXISTS syndb.v AS SELECT file('/etc/passwd') FROM syndb.neurons",
        "CREATE VIEW IF NOT EXISTS syndb.v AS SELECT a FROM syndb.neurons UNION ALL SELECT a FROM system.one",
        "CREATE VIEW IF NOT EXISTS syndb.v AS WITH x AS (SELECT a FROM file('x')) SELECT a FROM syndb.neurons",
        "CREATE VIEW IF NOT EXISTS syndb.v AS SELECT a FROM syndb.neurons WHERE a IN (SELECT * FROM system.one)",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS syndb.v ENGINE = MergeTree ORDER BY a AS SELECT * FROM url('http://o/')",
        "CREATE VIEW IF NOT EXISTS syndb.v AS SELECT " + "(" * 20_000 + "1" + ")" * 20_000 + " FROM syndb.neurons",
        "SET allow_introspection_functions = 1",
        "SYSTEM SHUTDOWN",
        "CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = MergeTree ORDER BY a; DROP TABLE syndb.neurons",
        "CREATE TABLE IF NOT EXISTS syndb.t (",
        "",
    ],
)
def test_whatever_is_not_an_addition_to_our_database_is_refused(statement: str) -> None:
    with pytest.raises(DataError, match="migration 1, statement 1"):
        schema.check_statements(_migration(statement))


def test_comments_and_quotes_hide_nothing_from_what_runs() -> None:
    tail = "(a UInt8 COMMENT 'it''s; DROP TABLE syndb.neurons --') ENGINE=MergeTree ORDER BY a"
    for statement in (
        f"CREATE TABLE IF NOT EXISTS syndb.t /* ; DROP TABLE syndb.neurons */ {tail}",
        f"CREATE TABLE IF NOT EXISTS syndb.t {tail} -- ; DROP TABLE syndb.neurons",
        f"# DROP TABLE syndb.neurons\nCREATE TABLE IF NOT EXISTS syndb.t {tail};",
    ):
        assert schema.check_statements(_migration(statement)) == (f"CREATE TABLE IF NOT EXISTS syndb.t {tail}",)


def test_the_model_knows_which_migration_brought_each_table_and_column() -> None:
    brought: dict[tuple[str, str], int] = {}
    tables: dict[str, int] = {}
    for migration in schema.migrations():
        for statement in migration.statements:
            tree = sqlglot.parse_one(statement, read="clickhouse")
            table = tree.find(exp.Table)
            assert table is not None
            tables.setdefault(table.name, migration.version)
            for column in tree.find_all(exp.ColumnDef):
                brought.setdefault((table.name, column.name), migration.version)
    for table in TABLES.values():
        assert table.since == tables[table.name]
        assert {c.name: c.since for c in table.columns} == {c.name: brought[table.name, c.name] for c in table.columns}


def test_an_aggregate_view_of_our_own_tables_is_an_addition() -> None:
    statement = "CREATE VIEW IF NOT EXISTS syndb.v AS SELECT version, COUNT(*) AS n FROM syndb.neurons GROUP BY version"
    assert schema.check_statements(_migration(statement)) == (statement,)


class Dying:
    """An engine whose process is killed before one statement, or right after it and before anybody knows."""

    def __init__(self, engine: LocalEngine, *, before: int | None = None, after: int | None = None) -> None:
        self._engine, self._before, self._after, self._count = engine, before, after, 0

    def _kill(self) -> None:
        assert self._engine.pid is not None
        os.kill(self._engine.pid, signal.SIGKILL)

    async def execute(self, statement: str) -> None:
        self._count += 1
        if self._count == self._before:
            self._kill()
        await self._engine.execute(statement)
        if self._count == self._after:
            self._kill()
            raise EngineUnavailable("killed")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


@asynccontextmanager
async def _running(folder: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(folder)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def run(task_status: trio.TaskStatus[None]) -> None:
                with contextlib.suppress(EngineUnavailable):  # it is killed, as it should be
                    await engine.run(task_status=task_status)

            await nursery.start(run)
            yield engine
            nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [{"before": 1}, {"after": 3}, {"before": 8}, {"after": 13}, {"after": 14}])
async def test_a_sync_killed_between_two_statements_is_completed_by_the_next(
    tmp_path: Path, killed: dict[str, int]
) -> None:
    async with _running(tmp_path) as engine:
        with pytest.raises(SynDBError):
            await schema.apply(Dying(engine, **killed), schema.migrations())  # type: ignore[arg-type]
    async with _running(tmp_path) as engine:
        version, _ = await schema.apply(engine, schema.migrations())
        assert version == schema.CURRENT
        answer = await engine.query("SELECT version FROM syndb.schema_migrations ORDER BY version")
        assert answer.table.column("version").to_pylist() == list(range(1, schema.CURRENT + 1))
        tables = await engine.query("SELECT name FROM system.tables WHERE database = 'syndb'")
        assert set(TABLES) <= set(tables.table.column("name").to_pylist())
