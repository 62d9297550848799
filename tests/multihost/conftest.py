"""Federations on several hosts. They are slow, and they need the right to make network namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.multihost.network import Network, NetworkError

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _may_make_networks() -> None:
    """Skips these tests where networks cannot be made."""
    try:
        with Network() as network:
            network.host("first")
    except (NetworkError, PermissionError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")


@pytest.fixture
def network() -> Iterator[Network]:
    """A network of one's own."""
    with Network() as made:
        yield made
