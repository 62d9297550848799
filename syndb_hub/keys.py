"""The hub's keys, and how it changes to a new one without losing a node.

A node obeys the hub whose key it has pinned, so a new key has to be announced under the old one:

1. :meth:`Keys.make_next` makes the next key. The running hub tells its PeerId with every ping once it has read its
   configuration again, and nodes pin it beside the present one.
2. The hub notes who has been told (:class:`Announcement`).
3. :meth:`Keys.change` puts the next key in place of the present one while the hub is stopped.

The PeerId also salts the stretching of a federation password that a person chose: hub and nodes derive its key anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa
import structlog
import trio

from actors.directory import Directory, Standing
from actors.remote.identity import Identity
from syndb_common.errors import ConfigError, Conflict, NotFound, SynDBError
from syndb_common.settings import sync_folder
from syndb_hub.store.clusters import Clusters
from syndb_hub.store.database import Store
from syndb_hub.store.schema import TOLD, hub_state

log = structlog.get_logger(__name__)

NOTE_SECONDS = 1.0
"""Between two looks at who has been told the next key."""
NEXT_KEY_PROTOCOL = 2
"""Nodes of an earlier protocol do not understand the announcement."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The key files in the hub's data folder, all of mode 0600."""

    data_dir: Path

    @property
    def current(self) -> Path:
        """The key the hub is known by."""
        return self.data_dir / "identity.key"

    @property
    def next(self) -> Path:
        """The key it will change to."""
        return self.data_dir / "identity.next.key"

    @property
    def previous(self) -> Path:
        """The key it had before."""
        return self.data_dir / "identity.previous.key"

    def load_current(self) -> Identity:
        """The present key, made when there is none."""
        return Identity.load_or_create(self.current)

    def load_next(self) -> Identity | None:
        """The next key, if one was made."""
        return Identity.load(self.next) if self.next.exists() else None

    def make_next(self) -> Identity:
        """The next key, made when there is none."""
        return Identity.load_or_create(self.next)

    def change(self) -> None:
        """Put the next key in place of the present one, which is kept as the previous one.

        Raises:
            NotFound: no next key was made.
            ConfigError: a file cannot be moved.
        """
        if self.load_next() is None:
            raise NotFound("there is no next key", hint="Make and announce one: syndb-hub key next.")
        try:
            self.previous.unlink(missing_ok=True)
            os.link(self.current, self.previous)
            self.next.replace(self.current)
            sync_folder(self.data_dir)
        except OSError as error:
            raise ConfigError(f"cannot move the key files in {self.data_dir}: {error.strerror}") from error


class Announcement:
    """Which nodes have been told the next key's PeerId."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def note(self, cluster_ids: Sequence[UUID], next_peer_id: str) -> None:
        """These nodes have been told."""
        rows = [{"name": f"{TOLD}{each}", "value": next_peer_id} for each in cluster_ids]

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(hub_state).where(hub_state.c.name.in_([row["name"] for row in rows])))
            connection.execute(sa.insert(hub_state), rows)

        if rows:
            await self._store.write(work)

    async def told(self, next_peer_id: str) -> frozenset[UUID]:
        """All that have been told of this one."""
        found = sa.select(hub_state.c.name).where(hub_state.c.name.startswith(TOLD), hub_state.c.value == next_peer_id)
        names = await self._store.read(lambda connection: connection.execute(found).scalars().all())
        return frozenset(UUID(name.removeprefix(TOLD)) for name in names)

    async def missing(self, next_peer_id: str) -> list[str]:
        """The names of the active nodes that have not been told."""
        told = await self.told(next_peer_id)
        records = await Clusters(self._store).load()
        return [record.name for record in records if record.standing is Standing.ACTIVE and record.id not in told]


class Announcer:
    """Notes which nodes have been told the next key: those that answered a ping that carried it.

    Args:
        directory: says when a node was seen last.
        announcement: where it is noted.
        next_peer_id: the next key's PeerId; empty while no change is planned.
        ping_seconds: how long a ping without it may have been under way.
    """

    def __init__(
        self,
        directory: Directory,
        announcement: Announcement,
        next_peer_id: Callable[[], str],
        ping_seconds: float,
    ) -> None:
        self._directory = directory
        self._announcement = announcement
        self._next_peer_id = next_peer_id
        self._delay = timedelta(seconds=ping_seconds)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Note it until cancelled."""
        task_status.started()
        announced, since, told = "", datetime.now(UTC), frozenset[UUID]()
        while True:
            coming = self._next_peer_id()
            try:
                if coming and coming != announced:
                    # Read first: while that fails nobody counts as told of this key.
                    told = await self._announcement.told(coming)
                    announced, since = coming, datetime.now(UTC) + self._delay
                if coming and (new := [each for each in self._seen_since(since) if each not in told]):
                    await self._announcement.note(new, coming)
                    told = told.union(new)
            except SynDBError as error:
                log.warning("not noted who knows the next key", cause=error.message)
            await trio.sleep(NOTE_SECONDS)

    def _seen_since(self, since: datetime) -> Iterator[UUID]:
        for cluster in self._directory.clusters.values():
            seen, record = cluster.last_seen, cluster.record
            if record.is_active and record.protocol_version >= NEXT_KEY_PROTOCOL and seen is not None and seen > since:
                yield record.id


async def change(keys: Keys, store: Store, *, force: bool) -> None:
    """Change to the next key; the hub must be stopped.

    Raises:
        NotFound: no next key was made.
        Conflict: active nodes do not know it yet; ``force`` loses them.
    """
    coming = keys.load_next()
    missing = [] if coming is None or force else await Announcement(store).missing(coming.peer_id)
    if missing:
        raise Conflict(
            f"these nodes have not been told the next key yet: {', '.join(missing)}",
            hint="Start the hub until they were seen, deactivate them, or use --force: "
            "their operators must then run `syndb-node trust`.",
        )
    keys.change()
