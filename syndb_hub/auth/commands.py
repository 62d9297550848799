"""What ``syndb-hub token`` does: the same service on the same file, also while the hub is running."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from syndb_hub.auth.principal import Right
from syndb_hub.auth.tokens import DEFAULT_LIFETIME, IssuedToken, TokenService
from syndb_hub.store.once import once
from syndb_hub.store.tokens import TokenRecord


def create_token(
    store_path: Path,
    name: str,
    rights: Iterable[Right] = (Right.EVERYTHING,),
    lifetime: timedelta = DEFAULT_LIFETIME,
) -> IssuedToken:
    """Make a token in the store at ``store_path``; errors as in :meth:`TokenService.create`."""
    return once(store_path, lambda store: TokenService(store).create(name, rights, lifetime))


def list_tokens(store_path: Path) -> list[TokenRecord]:
    """All tokens in the store at ``store_path``, newest first."""
    return once(store_path, lambda store: TokenService(store).list())


def revoke_token(store_path: Path, name_or_id: str) -> None:
    """End a token in the store at ``store_path``; a running hub refuses it from its next request on."""
    once(store_path, lambda store: TokenService(store).revoke(name_or_id))
