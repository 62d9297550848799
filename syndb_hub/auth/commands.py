"""What ``syndb-hub token`` does: the same service on the same file, also while the hub is running."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import trio

from syndb_hub.auth.principal import Right
from syndb_hub.auth.tokens import DEFAULT_LIFETIME, IssuedToken, TokenService
from syndb_hub.store.database import Store
from syndb_hub.store.tokens import TokenRecord

T = TypeVar("T")


def create_token(
    store_path: Path,
    name: str,
    rights: Iterable[Right] = (Right.EVERYTHING,),
    lifetime: timedelta = DEFAULT_LIFETIME,
) -> IssuedToken:
    """Make a token in the store at ``store_path``; errors as in :meth:`TokenService.create`."""
    return _with_service(store_path, lambda tokens: tokens.create(name, rights, lifetime))


def list_tokens(store_path: Path) -> list[TokenRecord]:
    """All tokens in the store at ``store_path``, newest first."""
    return _with_service(store_path, TokenService.list)


def revoke_token(store_path: Path, name_or_id: str) -> None:
    """End a token in the store at ``store_path``; a running hub refuses it from its next request on."""
    _with_service(store_path, lambda tokens: tokens.revoke(name_or_id))


def _with_service(store_path: Path, work: Callable[[TokenService], Awaitable[T]]) -> T:
    async def main() -> T:
        store = await Store.open(store_path)
        try:
            return await work(TokenService(store))
        finally:
            await store.close()

    return trio.run(main)
