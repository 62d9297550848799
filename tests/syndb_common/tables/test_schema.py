"""Migrations bring an engine to the model, can be repeated, and can do nothing but add."""

import pytest

from syndb_common.engine.embedded import EmbeddedEngine
from syndb_common.errors import Conflict, DataError
from syndb_common.messages import SchemaMigration
from syndb_common.tables import TABLES, schema


def _migration(*statements: str, version: int = 1) -> SchemaMigration:
    return SchemaMigration(version=version, name="test", statements=statements)


async def test_after_all_migrations_the_database_equals_the_model(engine: EmbeddedEngine) -> None:
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


async def test_every_table_is_partitioned_and_sorted_by_version(engine: EmbeddedEngine) -> None:
    await schema.apply(engine, schema.migrations())

    answer = await engine.query(
        "SELECT name, partition_key, sorting_key FROM system.tables WHERE database = 'syndb'"
        " AND name NOT IN ('dataset_versions', 'schema_migrations')"
    )
    rows = answer.table.to_pylist()
    assert {row["name"] for row in rows} == set(TABLES)
    assert {row["partition_key"] for row in rows} == {"(dataset_id, version)"}
    assert {row["sorting_key"] for row in rows} == {"dataset_id, version, cid"}


async def test_migrations_are_applied_once(engine: EmbeddedEngine) -> None:
    assert await schema.schema_version(engine) == 0
    every = tuple(range(1, schema.CURRENT + 1))
    assert await schema.apply(engine, schema.migrations()) == (schema.CURRENT, every)
    assert await schema.apply(engine, schema.migrations()) == (schema.CURRENT, ())
    assert await schema.schema_version(engine) == schema.CURRENT


async def test_a_migration_cut_short_is_done_again(engine: EmbeddedEngine) -> None:
    first = schema.migrations()[0]
    await engine.execute("CREATE DATABASE syndb")
    await engine.execute(first.statements[0])

    version, applied = await schema.apply(engine, schema.migrations())

    assert (version, applied[0]) == (schema.CURRENT, 1)


async def test_a_gap_in_the_numbers_is_a_conflict(engine: EmbeddedEngine) -> None:
    with pytest.raises(Conflict, match="migration 2 does not follow schema version 0"):
        await schema.apply(engine, schema.migrations(since=1))


async def test_a_column_can_be_added(engine: EmbeddedEngine) -> None:
    await schema.apply(engine, schema.migrations())
    more = _migration(
        "ALTER TABLE syndb.neurons ADD COLUMN IF NOT EXISTS note String COMMENT 'free text'",
        version=schema.CURRENT + 1,
    )

    assert await schema.apply(engine, [*schema.migrations(), more]) == (more.version, (more.version,))

    answer = await engine.query("SELECT note FROM syndb.neurons")
    assert answer.table.num_rows == 0


async def test_nothing_is_applied_when_one_statement_is_refused(engine: EmbeddedEngine) -> None:
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


def test_an_aggregate_view_of_our_own_tables_is_an_addition() -> None:
    statement = "CREATE VIEW IF NOT EXISTS syndb.v AS SELECT version, COUNT(*) AS n FROM syndb.neurons GROUP BY version"
    assert schema.check_statements(_migration(statement)) == (statement,)
