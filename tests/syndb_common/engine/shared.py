"""One engine for all tests of a module, which each run in a loop of their own."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.tables import schema

START_SECONDS = 120


class SharedEngine:
    """An engine as tests know it, that runs in the loop of another thread. Cancelling a call cancels it there."""

    def __init__(self, engine: LocalEngine, token: trio.lowlevel.TrioToken, nursery: trio.Nursery) -> None:
        self._engine = engine
        self._token = token
        self._nursery = nursery

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        return partial(self._call, found) if inspect.iscoroutinefunction(found) else found

    async def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        here, done, scope = trio.lowlevel.current_trio_token(), trio.Event(), trio.CancelScope()
        found: list[Any] = []
        raised: list[Exception] = []

        async def there() -> None:
            try:
                with scope:
                    found.append(await function(*arguments, **options))
            except Exception as error:
                raised.append(error)
            finally:
                here.run_sync_soon(done.set)

        self._token.run_sync_soon(self._nursery.start_soon, there)
        try:
            await done.wait()
        except trio.Cancelled:
            self._token.run_sync_soon(scope.cancel)
            with trio.CancelScope(shield=True):
                await done.wait()
            raise
        if raised:
            raise raised[0]
        return found[0]


@contextmanager
def sharing(engine: LocalEngine) -> Iterator[SharedEngine]:
    """Run an engine with our tables, for whatever loop uses it."""
    started = threading.Event()
    shared: list[SharedEngine] = []
    stop: list[Callable[[], None]] = []

    async def run() -> None:
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run)
                await schema.apply(engine, schema.migrations())
                token = trio.lowlevel.current_trio_token()
                shared.append(SharedEngine(engine, token, nursery))
                stop.append(partial(token.run_sync_soon, nursery.cancel_scope.cancel))
                started.set()
        finally:
            started.set()

    thread = threading.Thread(target=trio.run, args=(run,), name="engine")
    thread.start()
    assert started.wait(START_SECONDS)
    assert shared, "the engine did not start"
    try:
        yield shared[0]
    finally:
        stop[0]()
        thread.join()
