"""The store: opened safely, written in transactions that do not lose updates."""

from __future__ import annotations

import stat
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
import trio

from syndb_common.errors import ConfigError, Conflict, DataError
from syndb_hub.store import Store
from syndb_hub.store.schema import Moment, hub_state


async def test_a_new_store_is_readable_by_its_owner_only(tmp_path):
    store = await Store.open(tmp_path / "folder" / "hub.sqlite")
    await store.close()
    assert stat.S_IMODE((tmp_path / "folder" / "hub.sqlite").stat().st_mode) == 0o600


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
        connection.execute(sa.insert(hub_state).values(name="a", value="b"))
        raise KeyError("half way")

    with pytest.raises(KeyError):
        await store.write(work)
    assert await store.read(lambda connection: connection.execute(sa.select(hub_state)).all()) == []


@pytest.mark.parametrize("value", [2**63, "\ud800", object()], ids=["number", "text", "thing"])
async def test_what_no_column_holds_is_an_error_of_ours(store, value):
    with pytest.raises(DataError, match="does not take"):
        await store.write(lambda c: c.execute(sa.insert(hub_state).values(name="a", value=value)))
    assert await store.read(lambda c: c.execute(sa.select(hub_state)).all()) == []


async def test_what_contradicts_the_store_is_a_conflict(store):
    same = sa.insert(hub_state).values(name="a", value="b")
    await store.write(lambda c: c.execute(same))
    with pytest.raises(Conflict):
        await store.write(lambda c: c.execute(same))


async def test_concurrent_read_and_write_loses_no_update(tmp_path):
    path = tmp_path / "hub.sqlite"
    stores = [await Store.open(path), await Store.open(path)]
    await stores[0].write(lambda c: c.execute(sa.insert(hub_state).values(name="count", value="0")))

    def increment(connection: sa.Connection) -> None:
        found = int(connection.execute(sa.select(hub_state.c.value)).scalar_one())
        connection.execute(sa.update(hub_state).values(value=str(found + 1)))

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(stores[number % 2].write, increment)
    assert await stores[0].read(lambda c: c.execute(sa.select(hub_state.c.value)).scalar_one()) == "40"
    for store in stores:
        await store.close()


def test_a_time_without_a_zone_is_a_mistake():
    with pytest.raises(ValueError, match="zone"):
        Moment().process_bind_param(datetime(2026, 1, 1), sa.create_engine("sqlite://").dialect)


def test_a_stored_time_comes_back_as_utc():
    naive = datetime(2026, 1, 1, 12)
    restored = Moment().process_result_value(naive, sa.create_engine("sqlite://").dialect)
    assert restored == datetime(2026, 1, 1, 12, tzinfo=UTC)
