"""API tokens ``syndb_<id>_<secret>``: created, verified, listed, revoked.

The secret has 256 bits, so a plain SHA-256 protects it at rest: there is nothing to guess that a slow hash
would slow down.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from syndb_common.errors import InvalidRequest, NotFound, Unauthenticated
from syndb_hub.auth.principal import Principal, Right
from syndb_hub.store.database import Store
from syndb_hub.store.tokens import TokenRecord, Tokens

DEFAULT_LIFETIME = timedelta(days=90)
MAX_LIFETIME = timedelta(days=3650)

_TOKEN = re.compile(r"syndb_(?P<id>[0-9a-f]{16})_(?P<secret>[A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,99}")
_UNKNOWN = hashlib.sha256(b"no such token").hexdigest()


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token. ``text`` is the only copy of it: the hub keeps a hash."""

    text: str = field(repr=False)
    record: TokenRecord


class TokenService:
    """Issues and verifies API tokens. ``now`` is the clock, replaceable in tests."""

    def __init__(self, store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._tokens = Tokens(store)
        self._now = now

    async def create(
        self, name: str, rights: Iterable[Right] = (Right.EVERYTHING,), lifetime: timedelta = DEFAULT_LIFETIME
    ) -> IssuedToken:
        """Make a token.

        Raises:
            InvalidRequest: the name, the rights or the lifetime cannot be used.
            Conflict: a valid token has that name.
        """
        scopes = tuple(sorted({Right(right).value for right in rights}))
        if _NAME.fullmatch(name) is None:
            raise InvalidRequest(
                f"{name[:100]!r} cannot name a token", hint="Use 1 to 100 letters, digits, blanks and . _ @ -"
            )
        if not scopes:
            raise InvalidRequest("a token needs at least one scope", hint=f"Choose from {', '.join(Right)}.")
        if not timedelta(0) < lifetime <= MAX_LIFETIME:
            raise InvalidRequest(f"a token lives between a moment and {MAX_LIFETIME.days} days")
        secret = secrets.token_urlsafe(32)
        now = self._now()
        record = TokenRecord(
            id=secrets.token_hex(8),
            name=name,
            secret_sha256=_digest(secret),
            scopes=scopes,
            created_at=now,
            expires_at=now + lifetime,
        )
        await self._tokens.add(record)
        return IssuedToken(f"syndb_{record.id}_{secret}", record)

    async def verify(self, text: str) -> Principal:
        """The principal a token stands for.

        Raises:
            Unauthenticated: it is malformed, unknown, expired or revoked.
        """
        parts = _TOKEN.fullmatch(text)
        record = await self._tokens.get(parts["id"]) if parts else None
        expected = _UNKNOWN if record is None else record.secret_sha256
        if not hmac.compare_digest(_digest(parts["secret"] if parts else ""), expected) or record is None:
            raise Unauthenticated(
                "the token is not valid", hint="Check that it was copied whole, or create one: syndb-hub token create."
            )
        if not record.live(self._now()):
            state = "expired" if record.revoked_at is None else "was revoked"
            raise Unauthenticated(
                f"the token {record.name!r} {state}", hint="Create a new one with `syndb-hub token create`."
            )
        return Principal(record.id, record.name, frozenset(Right(scope) for scope in record.scopes))

    async def list(self) -> list[TokenRecord]:
        """All tokens, newest first, whatever their state."""
        return await self._tokens.all()

    async def revoke(self, name_or_id: str) -> None:
        """End a token at once.

        Raises:
            NotFound: no valid token has that name or id.
        """
        if not await self._tokens.revoke(name_or_id, self._now()):
            raise NotFound(f"no valid token is called {name_or_id!r}", hint="See `syndb-hub token list`.")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
