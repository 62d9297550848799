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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa

from actors.directory import Standing
from actors.remote.identity import Identity
from syndb_common.errors import ConfigError, Conflict, NotFound
from syndb_common.settings import sync_folder
from syndb_hub.store.clusters import Clusters
from syndb_hub.store.database import Store
from syndb_hub.store.schema import hub_state

_TOLD = "told "


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
        rows = [{"name": f"{_TOLD}{each}", "value": next_peer_id} for each in cluster_ids]

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(hub_state).where(hub_state.c.name.in_([row["name"] for row in rows])))
            connection.execute(sa.insert(hub_state), rows)

        if rows:
            await self._store.write(work)

    async def told(self, next_peer_id: str) -> frozenset[UUID]:
        """All that have been told of this one."""
        found = sa.select(hub_state.c.name).where(hub_state.c.name.startswith(_TOLD), hub_state.c.value == next_peer_id)
        names = await self._store.read(lambda connection: connection.execute(found).scalars().all())
        return frozenset(UUID(name.removeprefix(_TOLD)) for name in names)

    async def missing(self, next_peer_id: str) -> list[str]:
        """The names of the active nodes that have not been told."""
        told = await self.told(next_peer_id)
        records = await Clusters(self._store).load()
        return [record.name for record in records if record.standing is Standing.ACTIVE and record.id not in told]


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
