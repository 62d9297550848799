"""The store: opened safely, written in transactions that do not lose updates."""

from __future__ import annotations

import sqlite3
import stat
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
import trio

from syndb_common.errors import ConfigError
from syndb_hub.store import Store
from syndb_hub.store.schema import SCHEMA_VERSION, Moment, schema_version


async def test_a_new_store_is_readable_by_its_owner_only(tmp_path):
    store = await Store.open(tmp_path / "folder" / "hub.sqlite")
    await store.close()
    assert stat.S_IMODE((tmp_path / "folder" / "hub.sqlite").stat().st_mode) == 0o600


async def test_a_store_of_a_newer_layout_is_refused_and_not_touched(tmp_path):
    path = tmp_path / "hub.sqlite"
    store = await Store.open(path)
    await store.write(lambda connection: connection.execute(sa.update(schema_version).values(version=99)))
    await store.close()
    with pytest.raises(ConfigError, match=f"layout 99; this release knows layouts up to {SCHEMA_VERSION}"):
        await Store.open(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(99,)]


async def test_a_store_of_an_older_layout_is_given_what_it_lacks_and_keeps_what_it_has(tmp_path):
    path = tmp_path / "hub.sqlite"
    await (await Store.open(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE catalogues")
        connection.execute("UPDATE schema_version SET version = 1")
        connection.execute(
            "INSERT INTO api_tokens (id, name, secret_sha256, scopes, created_at, expires_at) "
            "VALUES ('a', 'kept', 'x', '[]', '2026-01-01', '2026-01-01')"
        )
    await (await Store.open(path)).close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(SCHEMA_VERSION,)]
        assert connection.execute("SELECT COUNT(*) FROM catalogues").fetchall() == [(0,)]
        assert connection.execute("SELECT name FROM api_tokens").fetchall() == [("kept",)]


async def test_a_file_that_is_no_database_is_a_clear_error(tmp_path):
    path = tmp_path / "hub.sqlite"
    path.write_bytes(b"this is not a database, it is a letter " * 100)
    with pytest.raises(ConfigError, match="cannot be opened"):
        await Store.open(path)


async def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be opened"):
        await Store.open(tmp_path / "file" / "hub.sqlite")


async def test_a_failed_write_leaves_nothing_behind(store):
    def work(connection: sa.Connection) -> None:
        connection.execute(sa.insert(schema_version).values(version=0))
        raise KeyError("half way")

    with pytest.raises(KeyError):
        await store.write(work)
    rows = await store.read(lambda connection: connection.execute(sa.select(schema_version)).all())
    assert [row.version for row in rows] == [SCHEMA_VERSION]


async def test_concurrent_read_and_write_loses_no_update(tmp_path):
    path = tmp_path / "hub.sqlite"
    stores = [await Store.open(path), await Store.open(path)]
    await stores[0].write(lambda connection: connection.execute(sa.update(schema_version).values(version=0)))

    def increment(connection: sa.Connection) -> None:
        found = connection.execute(sa.select(schema_version.c.version)).scalar_one()
        connection.execute(sa.update(schema_version).values(version=found + 1))

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(stores[number % 2].write, increment)
    total = await stores[0].read(lambda c: c.execute(sa.select(schema_version.c.version)).scalar_one())
    assert total == 40
    for store in stores:
        await store.close()


def test_a_time_without_a_zone_is_a_mistake():
    with pytest.raises(ValueError, match="zone"):
        Moment().process_bind_param(datetime(2026, 1, 1), sa.create_engine("sqlite://").dialect)


def test_a_stored_time_comes_back_as_utc():
    naive = datetime(2026, 1, 1, 12)
    restored = Moment().process_result_value(naive, sa.create_engine("sqlite://").dialect)
    assert restored == datetime(2026, 1, 1, 12, tzinfo=UTC)
