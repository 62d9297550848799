"""How a store comes to the layout this release works with: numbered migrations, run by alembic when it is opened.

Each layout is one module of :mod:`versions`, whose revision is the layout's number. All that are missing run in one
transaction, so that a crash leaves the store as it was. Migrations change tables in batches, because SQLite can only
copy a table to change its columns.
"""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa

from syndb_common.errors import ConfigError

LAYOUT = 3
"""Number of the newest migration. A store with a higher one was written by a newer release and is not touched.

1. tokens, jobs, clusters, health
2. catalogues
3. standing, protocol, approved and observed hosts of nodes; invitations, revoked keys, benchmarks, ontology
"""

_ALEMBIC = sa.table("alembic_version", sa.column("version_num"))
_FIRST_TABLE = sa.table("schema_version", sa.column("version"))
"""What counted layouts before alembic did. It stays, and says 3, so that releases which know no other refuse it."""
_one_at_a_time = threading.Lock()
"""Alembic gives migrations their connection through a global."""


def layout_of(connection: sa.Connection) -> int:
    """The layout of a store; 0 for an empty one, and more than :data:`LAYOUT` for one that is not understood."""
    tables = set(sa.inspect(connection).get_table_names())
    found: object = 0
    if _ALEMBIC.name in tables:
        found = connection.execute(sa.select(_ALEMBIC.c.version_num)).scalar_one()
    elif _FIRST_TABLE.name in tables:
        found = connection.execute(sa.select(sa.func.max(_FIRST_TABLE.c.version))).scalar_one()
    try:
        return int(str(found))
    except ValueError:
        return LAYOUT + 1


def upgrade(connection: sa.Connection, name: str) -> None:
    """Bring a store to :data:`LAYOUT`, within the transaction that the connection is in. SQLite must not enforce
    foreign keys on this connection, since tables are copied.

    Args:
        connection: to the store.
        name: what errors call the store.

    Raises:
        ConfigError: a newer release wrote it, or its rows refer to rows that do not exist.
    """
    found = layout_of(connection)
    if found > LAYOUT:
        raise ConfigError(
            f"the hub's store {name} has layout {found}; this release knows layouts up to {LAYOUT}",
            hint="Install the release that wrote it, or restore a backup made by this one.",
        )
    if found == LAYOUT:
        return
    with _one_at_a_time:
        _run(connection, found)
    if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise ConfigError(
            f"the hub's store {name} is damaged: rows refer to others that do not exist",
            hint="Restore a backup.",
        )


def _run(connection: sa.Connection, found: int) -> None:
    from alembic.config import Config
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext, RevisionStep
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)

    def missing(revision: tuple[str, ...], _: MigrationContext) -> list[RevisionStep]:
        return list(scripts._upgrade_revs(f"{LAYOUT:04}", revision))  # type: ignore[arg-type]

    context = MigrationContext.configure(connection, opts={"fn": missing, "render_as_batch": True})
    with Operations.context(context):
        if found and not context.get_current_heads():
            context.stamp(scripts, f"{found:04}")
        context.run_migrations()
