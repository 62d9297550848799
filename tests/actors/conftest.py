"""A real engine for those tests of actors that need one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from syndb_common.engine.embedded import EmbeddedEngine
from syndb_common.flight.settings import FlightSettings


@pytest.fixture
async def engine(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[EmbeddedEngine]:
    """An engine process with a Flight server and no tables yet."""
    engine = EmbeddedEngine(tmp_path / "engine", flight=FlightSettings("127.0.0.1", 0, tmp_path / "tls"))
    await nursery.start(engine.run)
    yield engine
    nursery.cancel_scope.cancel()
