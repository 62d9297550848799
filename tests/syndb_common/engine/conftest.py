"""A running engine with our tables, for every test its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.flight.settings import FlightSettings
from syndb_common.tables import schema


@pytest.fixture
async def engine(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(tmp_path, flight=FlightSettings("127.0.0.1", 0, tmp_path / "flight"))
    await nursery.start(engine.run)
    await schema.apply(engine, schema.migrations())
    yield engine
    nursery.cancel_scope.cancel()
