"""Stores written by earlier releases: brought to the present layout whole, or left as they were."""

from __future__ import annotations

import io
import sqlite3
import sys
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
import sqlglot
import trio
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from actors.directory import Standing
from syndb_common.errors import ConfigError
from syndb_hub.store import Store, migrations
from syndb_hub.store.clusters import Clusters
from syndb_hub.store.jobs import Jobs
from syndb_hub.store.migrations import LAYOUT, layout_of
from syndb_hub.store.schema import metadata
from syndb_hub.store.tokens import Tokens

EARLIER = sorted((Path(__file__).parent / "layouts").glob("*.sql"))
"""What earlier releases wrote, as their own statements."""


def restore(dump: Path, path: Path, *more: str) -> None:
    """Make a store from a dump."""
    connection = sqlite3.connect(path)
    connection.executescript(dump.read_text(encoding="utf-8"))
    for statement in more:
        connection.execute(statement)
    connection.commit()
    connection.close()


def content(path: Path) -> list[str]:
    """All a store holds."""
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


@pytest.mark.parametrize("dump", EARLIER, ids=lambda dump: f"layout {dump.stem}")
async def test_a_store_of_an_earlier_release_keeps_what_it_holds(dump, tmp_path):
    path = tmp_path / "hub.sqlite"
    restore(dump, path)
    store = await Store.open(path)
    try:
        fly, worm = await Clusters(store).load()
        assert (worm.name, worm.peer_id, worm.institution) == ("worm", "12D3worm", "Institut für Würmer")
        assert (worm.standing, fly.standing) == (Standing.ACTIVE, Standing.INACTIVE)
        assert (worm.protocol_version, worm.key_id, worm.observed_hosts, worm.approved_hosts) == (1, "", (), ())
        assert [each.to_state for each in await Clusters(store).transitions(fly.id)] == ["healthy"]
        assert [each.name for each in await Tokens(store).all()] == ["laptop"]
        job = await Jobs(store).get(UUID(int=3))
        assert job is not None
        assert job.rows == 1
        assert await store.read(layout_of) == LAYOUT
    finally:
        await store.close()


@pytest.mark.parametrize("dump", [None, *EARLIER], ids=lambda dump: f"from layout {dump.stem}" if dump else "new")
async def test_migrations_lead_to_the_tables_the_code_works_with(dump, tmp_path):
    if dump is not None:
        restore(dump, tmp_path / "hub.sqlite")
    store = await Store.open(tmp_path / "hub.sqlite")
    kept = {"schema_version"}

    def ours(name: str | None, kind: str, _: object) -> bool:
        return kind != "table" or name not in kept

    def differences(connection: sa.Connection) -> list[object]:
        options = {"include_name": ours, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    assert await store.read(differences) == []
    await store.close()


async def test_a_store_is_not_written_when_its_layout_is_the_present_one(tmp_path):
    path = tmp_path / "hub.sqlite"
    await (await Store.open(path)).close()
    before = content(path)
    await (await Store.open(path)).close()
    assert content(path) == before


@pytest.mark.parametrize("dump", EARLIER, ids=lambda dump: f"layout {dump.stem}")
async def test_a_migration_that_fails_leaves_the_store_as_it_was(dump, tmp_path):
    path = tmp_path / "hub.sqlite"
    restore(dump, path, "INSERT INTO health_transitions VALUES (9, 'nobody', '2026-01-01', 'healthy', 'degraded', '')")
    before = content(path)
    with pytest.raises(ConfigError, match="rows refer to others that do not exist"):
        await Store.open(path)
    assert content(path) == before


KILLED = """
import os, signal, sys
import sqlalchemy as sa
from pathlib import Path
from syndb_hub.store.database import _prepare

left = int(sys.argv[2])

@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def _count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

_prepare(Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("statement", [5, 12, 20, 30, 40])
async def test_a_kill_in_the_middle_leaves_the_old_layout_and_the_next_start_finds_the_new_one(statement, tmp_path):
    path = tmp_path / "hub.sqlite"
    restore(EARLIER[-1], path)
    before = content(path)
    killed = await trio.run_process([sys.executable, "-c", KILLED, str(path), str(statement)], check=False)
    assert killed.returncode == -9
    assert content(path) == before
    store = await Store.open(path)
    assert [record.name for record in await Clusters(store).load()] == ["fly", "worm"]
    assert await store.read(layout_of) == LAYOUT
    await store.close()


@pytest.mark.parametrize("found", ["0099", "ff00ab"])
async def test_a_store_of_a_newer_layout_is_refused_and_not_touched(found, tmp_path):
    path = tmp_path / "hub.sqlite"
    await (await Store.open(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (found,))
    before = content(path)
    with pytest.raises(ConfigError, match=f"this release knows layouts up to {LAYOUT}"):
        await Store.open(path)
    assert content(path) == before


async def test_a_release_that_counted_layouts_otherwise_sees_that_the_store_is_newer(store):
    found = await store.read(lambda c: c.exec_driver_sql("SELECT MAX(version) FROM schema_version").scalar_one())
    assert found == 3


def test_migrations_are_statements_of_postgresql_too():
    buffer = io.StringIO()
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    scripts = ScriptDirectory.from_config(config)
    steps = lambda revision, _: scripts._upgrade_revs("head", revision)  # noqa: E731
    options = {"as_sql": True, "output_buffer": buffer, "fn": steps, "render_as_batch": True}
    context = MigrationContext.configure(dialect_name="postgresql", opts=options)
    with Operations.context(context):
        context.run_migrations()
    statements = sqlglot.parse(buffer.getvalue(), read="postgres")
    altered = [each.sql("postgres", comments=False) for each in statements if isinstance(each, sqlglot.exp.Alter)]
    assert "ALTER TABLE clusters ALTER COLUMN peer_id DROP NOT NULL" in altered
    assert "ALTER TABLE clusters DROP COLUMN is_active" in altered
    created = {each.find(sqlglot.exp.Table).name for each in statements if isinstance(each, sqlglot.exp.Create)}
    assert set(metadata.tables) <= created
