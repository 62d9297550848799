"""From the embedded engine to a ClickHouse server: every published version, each verified by its content
hash, and who published and deleted what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from syndb_common.engine.copying import Versions
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.owning import bring_tables, owned
from syndb_common.engine.settings import Server
from syndb_common.engine.work import Keeper


def migrate(base: Path, server: Server, tell: Callable[[str], None]) -> int:
    """Copy what the embedded engine at ``base`` has published to ``server`` and return the number of versions.

    The embedded engine's data stay as they are. What is there already is verified and not sent again, so a copy that
    was cut short is continued by doing it again. Nothing else may use the server's databases meanwhile.

    Raises:
        ConfigError: the daemon runs, or the server does not accept us.
        EngineUnavailable: the server cannot be reached.
        Conflict: another version of the same id and number is there.
        IncompleteResult: a copy does not have its content hash; it is not visible.
    """
    from syndb_common.engine.server_backend import ServerBackend

    with owned(base) as keeper:
        source = Versions(keeper)
        commits = source.published()
        backend = ServerBackend(server)
        try:
            bring_tables(LocalEngine(None, server=server), source.schema_version())
            target = Versions(Keeper(backend))
            if (audit := source.audit()) is not None:
                target.put_audit(audit)
            for number, commit in enumerate(commits, 1):
                new = target.put(commit, lambda table, commit=commit: source.rows(commit, table))  # type: ignore[misc]
                said = "copied" if new else "is there already"
                tell(f"{number} of {len(commits)}: {commit} {said}, its content hash is right")
        finally:
            backend.close()
    return len(commits)
