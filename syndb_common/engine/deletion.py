"""Deleting published versions: whole, written down, and never mistaken for an empty answer.

The commit row goes first, so that from then on nothing finds the version; then its partitions. What was begun is
written down before and finished after a crash. Queries under way that name a deleted version end with an error, and
so does one that was planned before and starts after.
"""

# ruff: noqa: S608 - names come from the data model, ids are UUIDs

from __future__ import annotations

import re
import threading
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

from syndb_common.engine.records import LIMITS, Change, Records
from syndb_common.engine.room import LEAST_BYTES, check_room
from syndb_common.engine.work import Keeper
from syndb_common.errors import EngineUnavailable, LimitExceeded, NotFound
from syndb_common.tables.model import DATABASE, TABLES

_CHOICE = re.compile(r"""equals\("version", (\d+)\) AND "dataset_id" IN \(((?:toUUID\('[0-9a-f-]{36}'\)(?:, )?)+)\)""")
"""How a compiled plan names the versions it reads."""
_ID = re.compile(r"[0-9a-f-]{36}")
_REWRITE = replace(LIMITS, seconds=60.0)
"""Of taking a commit row out of its small table. On a full disk ClickHouse would put it off for ever."""


class Deletions:
    """The versions that are gone. Thread-safe."""

    def __init__(self, keeper: Keeper, records: Records) -> None:
        self._keeper = keeper
        self._records = records
        self._gone: dict[tuple[UUID, int], str] = {}
        self._lock = threading.Lock()

    def recover(self) -> None:
        """Finish what a crash interrupted, and remember what was deleted ever."""
        with self._lock:
            self._gone = {(c.dataset_id, c.version): c.dataset for c in self._records.changes("what = 'deleting'")}
        with suppress(EngineUnavailable):  # on a full disk; whatever names the version is refused
            self.resume()

    def resume(self) -> None:
        """Finish what was interrupted."""
        self._remove(self._unfinished())

    def _unfinished(self, condition: str = "1") -> list[Change]:
        begun = {(c.dataset_id, c.version): c for c in self._records.changes(f"what = 'deleting' AND {condition}")}
        ended = {(c.dataset_id, c.version) for c in self._records.changes(f"what = 'deleted' AND {condition}")}
        return [change for key, change in begun.items() if key not in ended]

    def delete(self, dataset: UUID, version: int | None, who: str) -> tuple[int, ...]:
        """Delete one version, or all, and return their numbers. Asked again it goes on where it was interrupted.

        Raises:
            NotFound: there is no such version.
            EngineUnavailable: it is not done yet; it goes on when it is asked again, or at the next start.
        """
        only = "" if version is None else f" AND version = {version}"
        unfinished = self._unfinished(f"dataset_id = '{dataset}'{only}")
        known = {change.version for change in unfinished}
        rows = self._records.read(
            f"SELECT version, content_hash, JSONExtractString(metadata, 'dataset') AS dataset, "
            f"arraySum(mapValues(row_counts)) AS rows FROM {DATABASE}.dataset_versions "
            f"WHERE dataset_id = toUUID('{dataset}'){only} ORDER BY version",
            of=f"{DATABASE}.dataset_versions",
        )
        if not rows and not unfinished:
            what = f"version {version} of data set {dataset}" if version else f"data set {dataset}"
            raise NotFound(f"{what} is not published here")
        changes = [
            Change(who=who, what="deleting", dataset_id=dataset, **row) for row in rows if row["version"] not in known
        ]
        self._records.note(changes)
        with self._lock:
            self._gone |= {(dataset, change.version): change.dataset for change in changes}
        changes = sorted([*unfinished, *changes], key=lambda change: change.version)
        self._remove(changes)
        return tuple(change.version for change in changes)

    def _remove(self, changes: list[Change]) -> None:
        if not changes:
            return
        for change in changes:
            self._hide(change)
        with self._keeper.working(LIMITS) as work:
            for change in changes:
                for table in TABLES:
                    place = f"(toUUID('{change.dataset_id}'), {change.version})"
                    work.run(f"ALTER TABLE {DATABASE}.{table} DROP PARTITION {place}")
        self._end_queries()
        self._records.note([change.model_copy(update={"what": "deleted"}) for change in changes])

    def _hide(self, change: Change) -> None:
        """Remove the commit row."""
        at = f"dataset_id = toUUID('{change.dataset_id}') AND version = {change.version}"
        try:
            with self._keeper.working(_REWRITE) as work:
                check_room(work, LEAST_BYTES)
                work.run(f"ALTER TABLE {DATABASE}.dataset_versions DELETE WHERE {at} SETTINGS mutations_sync = 2")
        except LimitExceeded:
            raise EngineUnavailable(
                f"version {change.version} of {change.dataset} is not deleted yet: the engine could not write",
                hint="make room on the disk of the engine if it is full, and delete it again",
            ) from None

    def _end_queries(self) -> None:
        running = self._records.read("SELECT Settings['log_comment'] AS tag, query FROM system.processes")
        for row in running:
            if (reason := self._reason(row["query"])) is not None:
                self._keeper.end_tagged(row["tag"], reason)

    def check(self, sql: str) -> None:
        """Raise when a query that has started names a version that is gone.

        Raises:
            NotFound: it does.
        """
        if (reason := self._reason(sql)) is not None:
            raise reason

    def _reason(self, sql: str) -> NotFound | None:
        with self._lock:
            gone = dict(self._gone)
        if not gone:
            return None
        for version, ids in _CHOICE.findall(sql):
            for found in _ID.findall(ids):
                if (name := gone.get((UUID(found), int(version)))) is not None:
                    return NotFound(
                        f"version {version} of {name} was deleted", hint="repeat the query without this version"
                    )
        return None
