"""Migrations: numbered SQL files that bring a ClickHouse to the tables of :mod:`syndb_common.tables.model`.

The hub sends them to nodes, so a node trusts none of the text: it is parsed, every element of the syntax tree
must be on the list below, and what runs is written anew from that tree. A migration only ever adds (CREATE TABLE
or VIEW, ALTER TABLE ADD COLUMN, always IF NOT EXISTS), in the database ``syndb``: no hub can take data away from
a node, point a table elsewhere or read a file by one, and a migration that was cut short is simply repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources

import pyarrow as pa
import sqlglot
import structlog
import trio
from sqlglot import exp
from sqlglot.errors import SqlglotError

from syndb_common.engine.interface import Engine
from syndb_common.errors import Conflict, DataError, UnknownName
from syndb_common.messages import SchemaMigration
from syndb_common.tables.model import DATABASE

log = structlog.get_logger(__name__)

_checking = trio.CapacityLimiter(1)

_ENGINES = frozenset({"MergeTree", "ReplacingMergeTree", "SummingMergeTree", "AggregatingMergeTree"})
_SETTINGS = frozenset(
    {"index_granularity", "fsync_after_insert", "fsync_part_directory", "min_rows_to_fsync_after_merge"}
)
_NAMES = (exp.Table, exp.Identifier, exp.Column, exp.Tuple, exp.Literal)
_COLUMNS = (
    exp.ColumnDef, exp.DataType, exp.DataTypeParam, exp.ColumnConstraint, exp.CommentColumnConstraint,
    exp.DefaultColumnConstraint, exp.ColumnPosition,
)  # fmt: skip
_STORAGE = (
    exp.Schema, exp.Properties, exp.EngineProperty, exp.PartitionedByProperty, exp.Order, exp.Ordered, exp.PrimaryKey,
    exp.SettingsProperty, exp.EQ, exp.SchemaCommentProperty,
)  # fmt: skip
_VIEWS = (
    exp.Select, exp.From, exp.Where, exp.Group, exp.Alias, exp.Star, exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.GT,
    exp.GTE, exp.LT, exp.LTE, exp.Is, exp.Null, exp.Paren, exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max, exp.Schema,
)  # fmt: skip

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_SELECT = frozenset({"expressions", "from_", "where", "group"})
"""Clauses of a view. No SETTINGS, which would hold for whoever reads it, and no FORMAT."""
_OWN_TABLE = "schema_migrations"
"""Which migrations an engine has is written here and by nothing else."""

_RECORD = pa.schema([("version", pa.uint32()), ("name", pa.string()), ("applied_at", pa.timestamp("ms", "UTC"))])
_RECORD_TABLE = f"""
CREATE TABLE IF NOT EXISTS {DATABASE}.schema_migrations
(
    version UInt32 COMMENT 'number of the migration',
    name String COMMENT 'what it does',
    applied_at DateTime64(3, 'UTC') COMMENT 'when it was applied'
)
ENGINE = MergeTree ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
"""


def _text(tree: exp.Expr) -> str:
    return tree.sql("clickhouse", comments=False)


@lru_cache
def _all() -> tuple[SchemaMigration, ...]:
    found = []
    folder = resources.files("syndb_common.tables.migrations")
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        number, _, rest = entry.name.partition("_")
        if number.isdigit() and rest.endswith(".sql"):
            trees = sqlglot.parse(entry.read_text(encoding="utf-8"), read="clickhouse")
            statements = tuple(_text(tree) for tree in trees if isinstance(tree, exp.Expr))
            found.append(SchemaMigration(version=int(number), name=rest.removesuffix(".sql"), statements=statements))
    return tuple(found)


def migrations(since: int = 0) -> tuple[SchemaMigration, ...]:
    """The migrations with a number above ``since``, in order."""
    return tuple(migration for migration in _all() if migration.version > since)


CURRENT = _all()[-1].version
"""Number of the last migration this software knows."""


def check_statements(migration: SchemaMigration) -> tuple[str, ...]:
    """The statements of a migration, each parsed, found harmless and written anew; run these, not the originals.

    Raises:
        DataError: a statement is something else than an addition to the database ``syndb``.
    """
    found = []
    for number, statement in enumerate(migration.statements, 1):
        where = f"migration {migration.version}, statement {number}"
        try:
            found.append(_checked(statement, where))
        except RecursionError:
            raise DataError(f"{where}: nested too deeply") from None
    return tuple(found)


def _checked(statement: str, where: str) -> str:
    try:
        trees = sqlglot.parse(statement, read="clickhouse")
    except SqlglotError:
        raise DataError(f"{where}: not a statement that can be read") from None
    if len(trees) != 1:
        raise DataError(f"{where}: exactly one statement is expected, found {len(trees)}")
    tree = trees[0]
    if isinstance(tree, exp.Create) and tree.args.get("exists") and not tree.args.get("replace"):
        kind = str(tree.args.get("kind"))
    elif isinstance(tree, exp.Alter) and tree.args.get("kind") == "TABLE":
        kind = "ALTER"
    else:
        kind = "other"
    allowed: dict[str, tuple[type[exp.Expr], ...]] = {
        "TABLE": (exp.Create, *_NAMES, *_COLUMNS, *_STORAGE),
        "VIEW": (exp.Create, *_NAMES, *_VIEWS),
        "ALTER": (exp.Alter, *_NAMES, *_COLUMNS),
    }
    if kind not in allowed or not isinstance(tree, exp.Expr):
        raise DataError(f"{where}: only CREATE TABLE, CREATE VIEW and ALTER TABLE ADD COLUMN, with IF NOT EXISTS")
    for node in tree.walk():
        if type(node) not in allowed[kind]:
            raise DataError(f"{where}: {type(node).__name__} is not allowed in a migration")
        _check_node(node, where)
    if kind == "TABLE" and tree.find(exp.EngineProperty) is None:
        raise DataError(f"{where}: a table names its engine")
    if kind == "ALTER" and not all(
        isinstance(action, exp.ColumnDef) and action.args.get("exists") for action in tree.args.get("actions") or ()
    ):
        raise DataError(f"{where}: ALTER TABLE may only ADD COLUMN IF NOT EXISTS")
    return _text(tree)


def _check_node(node: exp.Expr, where: str) -> None:
    if isinstance(node, exp.Table) and (node.db != DATABASE or node.catalog):
        raise DataError(f"{where}: {node.sql('clickhouse')[:100]} is outside the database {DATABASE}")
    if isinstance(node, exp.Table) and node.name == _OWN_TABLE:
        raise DataError(f"{where}: {_OWN_TABLE} is not for migrations to change")
    if isinstance(node, exp.Identifier) and _NAME.fullmatch(node.name) is None:
        raise DataError(f"{where}: {node.name[:100]!r} is no name; letters, digits and _ are, at most 100")
    if isinstance(node, exp.Select) and (clauses := {key for key, value in node.args.items() if value} - _SELECT):
        raise DataError(f"{where}: {', '.join(sorted(clauses))} is not allowed in a view")
    if isinstance(node, exp.EngineProperty) and node.this.name not in _ENGINES:
        raise DataError(f"{where}: engine {node.this.sql('clickhouse')[:100]} is not of the MergeTree family")
    if isinstance(node, exp.SettingsProperty):
        unknown = {setting.this.name for setting in node.expressions} - _SETTINGS
        if unknown:
            raise DataError(f"{where}: setting {', '.join(sorted(unknown))} is not allowed")


async def schema_version(engine: Engine) -> int:
    """Number of the last migration this engine has; 0 for an empty one."""
    return max(await _applied(engine), default=0)


async def _applied(engine: Engine) -> set[int]:
    try:
        answer = await engine.query(f"SELECT version FROM {DATABASE}.schema_migrations")  # noqa: S608 - our own name
    except UnknownName:
        return set()
    return set(answer.table.column("version").to_pylist())


async def apply(engine: Engine, wanted: Iterable[SchemaMigration]) -> tuple[int, tuple[int, ...]]:
    """Bring the engine up to date; migrations it has are skipped, one that was cut short is done again.

    Returns:
        The schema version afterwards and the numbers applied now.

    Raises:
        DataError: a migration holds more than additions to our database; nothing was applied.
        Conflict: numbers are missing between the engine's version and the first new migration.
    """
    checked = await trio.to_thread.run_sync(_check_all, wanted, limiter=_checking)
    await engine.execute(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
    await engine.execute(_RECORD_TABLE)
    done = await _applied(engine)
    version = max(done, default=0)
    applied = []
    for migration, statements in checked:
        if migration.version in done:
            continue
        if migration.version != version + 1:
            raise Conflict(
                f"migration {migration.version} does not follow schema version {version}",
                hint="send all migrations from the engine's version on",
            )
        await _run(engine, migration, statements)
        version = migration.version
        done.add(version)
        applied.append(version)
    return version, tuple(applied)


def _check_all(wanted: Iterable[SchemaMigration]) -> list[tuple[SchemaMigration, tuple[str, ...]]]:
    return [(migration, check_statements(migration)) for migration in sorted(wanted, key=lambda m: m.version)]


async def _run(engine: Engine, migration: SchemaMigration, statements: Sequence[str]) -> None:
    for statement in statements:
        await engine.execute(statement)
    row = {"version": migration.version, "name": migration.name, "applied_at": datetime.now(UTC)}
    await engine.insert("schema_migrations", pa.Table.from_pylist([row], schema=_RECORD))
    log.debug("migration applied", version=migration.version, name=migration.name)
