"""``GET /health``: the stores the hub works with, each asked for real and with a deadline of its own."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import sqlalchemy as sa
import trio

from syndb_common.engine.interface import Engine, Limits
from syndb_common.errors import SynDBError
from syndb_hub.federation.service import ComponentHealth
from syndb_hub.store.database import Store

CHECK_SECONDS = 3.0
"""A store that does not answer within this time counts as failed; load balancers ask every few seconds."""


class StoresProbe:
    """Implements :class:`syndb_hub.federation.service.HealthProbe`."""

    def __init__(self, *, store: Store, warehouse: Engine, engine_kind: str, objects: Path) -> None:
        self._store = store
        self._warehouse = warehouse
        self._engine_kind = engine_kind
        self._objects = objects

    async def components(self) -> dict[str, ComponentHealth]:
        """The keys are those of the API's documentation whatever store stands behind them."""
        return {
            "postgres": await _check("sqlite", self._ask_store),
            "clickhouse": await _check(self._engine_kind, self._ask_warehouse),
            "storage": await _check("folder", self._touch_objects),
            "meilisearch": ComponentHealth(status="not_configured"),
        }

    async def _ask_store(self) -> None:
        await self._store.read(lambda connection: connection.execute(sa.text("SELECT 1")).scalar())

    async def _ask_warehouse(self) -> None:
        await self._warehouse.query("SELECT 1", limits=Limits(seconds=CHECK_SECONDS))

    async def _touch_objects(self) -> None:
        probe = trio.Path(self._objects) / ".probe"
        await probe.write_bytes(b"")
        await probe.unlink(missing_ok=True)


async def _check(store: str, ask: Callable[[], Awaitable[None]]) -> ComponentHealth:
    began = time.perf_counter()
    detail = f"no answer within {CHECK_SECONDS:g} s"
    with trio.move_on_after(CHECK_SECONDS):
        try:
            await ask()
        except SynDBError as error:
            detail = error.message
        except (OSError, sa.exc.SQLAlchemyError) as error:
            detail = type(error).__name__
        else:
            return ComponentHealth(status="ok", store=store, latency_ms=round((time.perf_counter() - began) * 1000, 1))
    return ComponentHealth(status="failed", store=store, detail=detail)
