"""A real engine, and a hub's registry, for those tests of actors that need one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.directory import Directory
from syndb_common.engine.local import LocalEngine
from syndb_common.flight.settings import FlightSettings
from tests.actors.hub_parts import Hub, StartHub, open_store


@pytest.fixture
async def engine(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[LocalEngine]:
    """An engine process with a Flight server and no tables yet."""
    engine = LocalEngine(tmp_path / "engine", flight=FlightSettings("127.0.0.1", 0, tmp_path / "tls"))
    await nursery.start(engine.run)
    yield engine
    nursery.cancel_scope.cancel()


@pytest.fixture
async def start_hub(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[StartHub]:
    """Starts a hub on the one store of this test; starting it again is a restart of the process."""
    hubs: list[Hub] = []

    async def start(**settings: Any) -> Hub:
        hub = Hub(Directory(), await open_store(tmp_path))
        hubs.append(hub)
        await hub.start(nursery, **settings)
        return hub

    yield start
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        for hub in hubs:
            await hub.store.close()


@pytest.fixture
async def hub(start_hub: StartHub) -> Hub:
    """A hub that nobody has joined."""
    return await start_hub()
