"""Invitations: secrets made for one node each."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from actors.admission import Invitation
from syndb_common.errors import Conflict, NotFound
from syndb_hub.store.database import Store
from syndb_hub.store.schema import invitations

MAX_OPEN = 10_000
"""Invitations that may wait to be used: far more nodes than a federation has."""
REMEMBERED = timedelta(days=30)
"""How long an invitation that nobody used is listed after it expired or was revoked."""


class Invitations:
    """Repository of invitations. Implements :class:`actors.admission.InvitationStore`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, invitation: Invitation) -> None:
        """Store a new invitation; old ones that nobody used are forgotten on this occasion.

        Raises:
            Conflict: too many wait to be used.
        """
        unused = invitations.c.used_by.is_(None)
        before = invitation.created_at - REMEMBERED
        old = sa.or_(invitations.c.expires_at < before, invitations.c.revoked_at < before)

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(invitations).where(unused, old))
            waiting = sa.select(sa.func.count()).select_from(invitations).where(unused)
            if connection.execute(waiting).scalar_one() >= MAX_OPEN:
                raise Conflict(f"{MAX_OPEN} invitations wait to be used", hint="Revoke some: syndb-hub invite revoke.")
            values = {name: getattr(invitation, name) for name in invitations.c.keys()}  # noqa: SIM118 - no mapping
            connection.execute(sa.insert(invitations).values(**values))

        await self._store.write(work)

    async def all(self) -> list[Invitation]:
        """Every invitation, newest first."""
        newest_first = sa.select(invitations).order_by(invitations.c.created_at.desc(), invitations.c.key_id)
        return await self._select(newest_first)

    async def find(self, key_id: str) -> Invitation | None:
        """The invitation of that key, also an expired or revoked one."""
        found = await self._select(sa.select(invitations).where(invitations.c.key_id == key_id))
        return found[0] if found else None

    async def use(self, key_id: str, peer_id: str) -> None:
        """Note that ``peer_id`` has proved it; replaces the PeerId when a node has changed its key."""
        used = sa.update(invitations).where(invitations.c.key_id == key_id).values(used_by=peer_id)
        await self._store.write(lambda connection: connection.execute(used))

    async def revoke(self, key_id: str, at: datetime) -> Invitation:
        """From now on the invitation admits nobody; returns it as it was, with the node that uses it if one does.

        Raises:
            NotFound: there is no such invitation, or it is revoked already.
        """
        valid = sa.and_(invitations.c.key_id == key_id, invitations.c.revoked_at.is_(None))

        def work(connection: sa.Connection) -> Invitation:
            found = connection.execute(sa.select(invitations).where(valid)).one_or_none()
            if found is None:
                raise NotFound(f"no valid invitation has the id {key_id}", hint="See `syndb-hub invite list`.")
            connection.execute(sa.update(invitations).where(valid).values(revoked_at=at))
            return Invitation(**found._mapping)

        return await self._store.write(work)

    async def _select(self, statement: sa.Select[tuple[object, ...]]) -> list[Invitation]:
        return await self._store.read(lambda c: [Invitation(**row._mapping) for row in c.execute(statement)])
