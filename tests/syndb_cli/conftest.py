"""A user's own surroundings, and hubs that commands really join."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from syndb_cli.main import app
from tests.syndb_hub.small_hub import SmallHub, small_hub

VARIABLES = (
    "SYNDB_NODE_CONFIG",
    "FEDERATION_CLUSTER_NAME",
    "SYNDB_FEDERATION_PASSWORD",
    "SYNDB_DATA_DIR",
    "SYNDB_HUB_URL",
    "SYNDB_SERVER_URL",
    "SYNDB_TOKEN",
    "SYNDB_TOKEN_FILE",
    "SYNDB_INVITE",
    "FEDERATION_HUB_MULTIADDRS",
    "FEDERATION_ENABLE_MDNS",
)


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Commands choose what is logged in their process, which here is that of all tests."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's node configuration is; no variable of the tester's own environment is seen."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "syndb" / "node.toml"


@pytest.fixture
def start_hub(tmp_path: Path) -> Iterator[Callable[..., SmallHub]]:
    """Starts hubs of one's own; they end with the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> SmallHub:
            return stack.enter_context(small_hub(tmp_path / f"hub-{len(list(tmp_path.iterdir()))}", **options))

        yield start


def federation(*words: str, stdin: str | None = None) -> Result:
    """``syndb federation`` as an operator types it."""
    return CliRunner().invoke(app, ["federation", *words], input=stdin)
