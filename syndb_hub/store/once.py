"""The store for a moment: what commands do in it, also while the hub is running."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from syndb_hub.store.database import Store

T = TypeVar("T")


def once(path: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    """Open the store at ``path``, do ``work`` in an event loop of its own, close it."""

    async def main() -> T:
        store = await Store.open(path)
        try:
            return await work(store)
        finally:
            await store.close()

    return trio.run(main)
