"""API tokens as they are stored: a name, what it may do, and the hash of its secret."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from syndb_common.errors import Conflict
from syndb_hub.store.database import Store
from syndb_hub.store.schema import api_tokens


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One API token. The secret itself is nowhere stored."""

    id: str
    name: str
    secret_sha256: str = field(repr=False)
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None

    def live(self, now: datetime) -> bool:
        """Whether it is neither expired nor revoked."""
        return self.revoked_at is None and now < self.expires_at


class Tokens:
    """Repository of API tokens."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, record: TokenRecord) -> None:
        """Store a new token.

        Raises:
            Conflict: a live token has that name already.
        """

        def work(connection: sa.Connection) -> None:
            same_name = sa.select(api_tokens).where(api_tokens.c.name == record.name)
            if any(_record(row).live(record.created_at) for row in connection.execute(same_name)):
                raise Conflict(
                    f"there is already a valid token named {record.name!r}", hint="Revoke it first, or choose a name."
                )
            connection.execute(
                sa.insert(api_tokens).values(
                    id=record.id,
                    name=record.name,
                    secret_sha256=record.secret_sha256,
                    scopes=list(record.scopes),
                    created_at=record.created_at,
                    expires_at=record.expires_at,
                )
            )

        await self._store.write(work)

    async def get(self, token_id: str) -> TokenRecord | None:
        """The token of that id, whatever its state."""

        def work(connection: sa.Connection) -> TokenRecord | None:
            row = connection.execute(sa.select(api_tokens).where(api_tokens.c.id == token_id)).one_or_none()
            return None if row is None else _record(row)

        return await self._store.read(work)

    async def all(self) -> list[TokenRecord]:
        """Every token, newest first."""

        def work(connection: sa.Connection) -> list[TokenRecord]:
            newest_first = sa.select(api_tokens).order_by(api_tokens.c.created_at.desc(), api_tokens.c.id)
            return [_record(row) for row in connection.execute(newest_first)]

        return await self._store.read(work)

    async def revoke(self, name_or_id: str, at: datetime) -> int:
        """Revoke the tokens of that name or id; returns how many were valid until now."""

        def work(connection: sa.Connection) -> int:
            done = connection.execute(
                sa.update(api_tokens)
                .where(sa.or_(api_tokens.c.name == name_or_id, api_tokens.c.id == name_or_id))
                .where(api_tokens.c.revoked_at.is_(None), api_tokens.c.expires_at > at)
                .values(revoked_at=at)
            )
            return done.rowcount

        return await self._store.write(work)

    async def revoked(self, token_ids: Collection[str]) -> set[str]:
        """Those of these tokens that have been revoked."""

        def work(connection: sa.Connection) -> set[str]:
            known = sa.select(api_tokens.c.id).where(api_tokens.c.id.in_(token_ids))
            return set(connection.scalars(known.where(api_tokens.c.revoked_at.is_not(None))))

        return await self._store.read(work)


def _record(row: sa.Row[tuple[object, ...]]) -> TokenRecord:
    values = dict(row._mapping)
    return TokenRecord(**{**values, "scopes": tuple(values["scopes"])})
