"""The embedded engine's folder in the hands of a command: the daemon is stopped, and this process owns it meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from syndb_common.engine import lock
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.work import Keeper
from syndb_common.errors import ConfigError, DataError, SynDBError
from syndb_common.tables import schema


@contextmanager
def owned(base: Path) -> Iterator[Keeper]:
    """Work on the ClickHouse of the embedded engine at ``base``.

    Loads ClickHouse into this process: for commands only, never for daemons. From then on SIGINT and SIGTERM end the
    process at once, which harms nothing: what is half done is not seen by anybody.

    Raises:
        ConfigError: another process owns it, or it cannot be written.
    """
    folder = base / lock.FOLDER
    try:
        (folder / "tmp").mkdir(mode=0o700, parents=True, exist_ok=True)
        held = lock.take(folder)
    except OSError as error:
        raise ConfigError(f"cannot use {folder}: {error.strerror}", hint="Run this as the daemon's user.") from error
    if held is None:
        raise ConfigError(f"{base} is in use by another process", hint="Stop the daemon, and do this again.")
    from syndb_common.engine.embedded_backend import EmbeddedBackend

    backend = EmbeddedBackend(str(folder / "data"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT):
        signal.signal(number, signal.SIG_DFL)
    try:
        yield Keeper(backend)
    finally:
        backend.close()
        os.close(held)


def bring_tables(engine: LocalEngine, version: int) -> None:
    """Give an engine that nobody runs the tables of schema ``version``.

    Raises:
        DataError: this release does not know that version.
        SynDBError: the engine cannot be started, or refuses.
    """
    if version > schema.CURRENT:
        raise DataError(
            f"the tables have version {version}, this release knows versions up to {schema.CURRENT}",
            hint="update SynDB and do this again",
        )
    wanted = [migration for migration in schema.migrations() if migration.version <= version]

    async def bring() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            await schema.apply(engine, wanted)
            nursery.cancel_scope.cancel()

    try:
        trio.run(bring)
    except* SynDBError as errors:
        raise errors.exceptions[0] from None
