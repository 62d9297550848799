"""One database, opened once, used in short transactions from threads."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import trio

from syndb_common.errors import ConfigError, Conflict, DataError, SynDBError, Unavailable
from syndb_hub.store.migrations import upgrade

T = TypeVar("T")

CONNECTIONS = 4
BUSY_SECONDS = 5.0
"""How long a transaction waits for another process, for instance ``syndb-hub token create``."""


class Store:
    """The hub's store. Open it with :meth:`open`, close it with :meth:`close`.

    Reads see one consistent state; writes are serialised from their first statement on, so that what a write
    has read cannot change before it commits.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(syndb_write=True)
        self._limiter = trio.CapacityLimiter(CONNECTIONS)

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Open the SQLite file at ``path`` and bring it to the present layout; create it, readable by its owner only,
        where there is none.

        Raises:
            ConfigError: the file is not ours, cannot be used, or was written by a newer release.
        """
        engine = _sqlite(path)
        store = cls(engine)
        try:
            await trio.to_thread.run_sync(_prepare, path, limiter=store._limiter)
        except BaseException:
            engine.dispose()
            raise
        return store

    async def close(self) -> None:
        """Close all connections; the store is unusable afterwards."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._engine.dispose, limiter=self._limiter)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` in a transaction that reads only.

        Raises:
            Unavailable: the database stayed locked.
            DataError: the database does not take a value of the question.
        """
        return await trio.to_thread.run_sync(_transact, self._engine, work, limiter=self._limiter)

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` in a transaction that may write: all of it is stored, or on an error none.

        Raises:
            Unavailable: the database stayed locked or its disk cannot be written.
            Conflict: it contradicts what is stored.
            DataError: the database does not take one of the values.
        """
        return await trio.to_thread.run_sync(_transact, self._writer, work, limiter=self._limiter)


def _transact(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    try:
        with engine.begin() as connection:
            return work(connection)
    except sa.exc.OperationalError as error:
        raise Unavailable(
            f"the hub's store cannot be used: {error.orig}", hint="Check free disk space and other processes using it."
        ) from error
    except sa.exc.IntegrityError as error:
        raise Conflict(f"this contradicts what the hub's store holds: {error.orig}") from error
    except (sa.exc.SQLAlchemyError, OverflowError, UnicodeError) as error:
        # Drivers report a number or a text that no column holds each in their own way.
        raise DataError(f"the hub's store does not take this: {getattr(error, 'orig', error)}") from error


def _sqlite(path: Path, *, foreign_keys: bool = True) -> sa.Engine:
    """An engine whose transactions really begin where SQLAlchemy says so.

    The driver's own transactions start late and silently, which loses updates; ours are explicit.
    """
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"isolation_level": None, "timeout": BUSY_SECONDS},
        pool_size=CONNECTIONS,
        max_overflow=0,
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, record: Any) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", f"foreign_keys = {int(foreign_keys)}"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get("syndb_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _prepare(path: Path) -> None:
    engine = _sqlite(path, foreign_keys=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        _transact(engine.execution_options(syndb_write=True), lambda connection: upgrade(connection, str(path)))
    except (OSError, DataError, Unavailable) as error:
        cause = error.message if isinstance(error, SynDBError) else error
        raise ConfigError(
            f"the hub's store {path} cannot be opened: {cause}", hint="Check the path and its permissions."
        ) from error
    finally:
        engine.dispose()
