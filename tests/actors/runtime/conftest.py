"""Every test here runs on a clock that jumps over waiting, so that minutes of backoff take no time."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actors.runtime import ChildSpec, Supervisor, Tree, run_tree


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A clock fixture would only be heeded by tests that name it among their arguments.
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.trio(run=run_on_jumping_clock), append=False)


def run_on_jumping_clock(main: Callable[[], Awaitable[Any]], **options: Any) -> Any:
    return trio.run(main, **{**options, "clock": MockClock(autojump_threshold=0)})


@pytest.fixture
def start(nursery: trio.Nursery) -> Callable[..., Awaitable[Tree]]:
    """Starts children under a supervisor named ``root``; the tree is cancelled when the test ends."""

    async def start_tree(*children: ChildSpec | Supervisor, clock: Any = None, **options: Any) -> Tree:
        return await nursery.start(partial(run_tree, Supervisor("root", children, **options), clock=clock))

    return start_tree
