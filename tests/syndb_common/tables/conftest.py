"""A running, empty engine, for every test its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from syndb_common.engine.local import LocalEngine


@pytest.fixture
async def engine(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(tmp_path)
    await nursery.start(engine.run)
    yield engine
    nursery.cancel_scope.cancel()
