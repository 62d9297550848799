"""Federations of real processes. They are slow: everything in this folder is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from demo.local import LocalFederation, local_federation

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def start_federation(tmp_path: Path) -> Iterator[Callable[..., LocalFederation]]:
    """Starts a federation of one's own, to break things in: ``start_federation("a", "b")``."""
    with ExitStack() as stack:

        def start(*nodes: str, wait: bool = True, **options: Any) -> LocalFederation:
            found = stack.enter_context(local_federation(tmp_path / "federation", nodes, **options))
            found.start_hub()
            for name in nodes:
                found.start_node(name)
            if wait:
                found.wait_healthy(nodes, seconds=90)
            return found

        yield start
