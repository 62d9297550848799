"""How long a query goes on that nobody wants any more: from its cancellation until ClickHouse does not run it."""

from __future__ import annotations

import statistics
import time

import trio

from bench.result import Result, measured
from syndb_common.engine.interface import Limits
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import Cancelled

ROUNDS = 21
GOAL = 0.5
LIMIT_SECONDS = 60.0
ENDLESS = "SELECT count() AS n FROM numbers(100000000000) WHERE sipHash64(number) = 1"
RUNNING = "SELECT count() AS n FROM system.processes WHERE query LIKE 'SELECT count() AS n FROM numbers%'"


def run(rounds: int = ROUNDS) -> list[Result]:
    """Median seconds from the call of ``cancel`` until the query is gone from ``system.processes``."""
    times = trio.run(_measure, rounds)
    return [measured("query_cancel_seconds", statistics.median(times), "s", rounds, goal=GOAL)]


async def _measure(rounds: int) -> list[float]:
    engine = LocalEngine(None)
    times = []
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        for number in range(rounds):
            async with trio.open_nursery() as asking:
                asking.start_soon(_ask, engine, str(number))
                await _until(engine, 1)
                began = time.perf_counter()
                await engine.cancel(str(number))
                await _until(engine, 0)
                times.append(time.perf_counter() - began)
        nursery.cancel_scope.cancel()
    return times


async def _ask(engine: LocalEngine, query_id: str) -> None:
    try:
        await engine.query(ENDLESS, limits=Limits(seconds=LIMIT_SECONDS), query_id=query_id)
    except Cancelled:
        return
    raise RuntimeError("an endless query has ended")


async def _until(engine: LocalEngine, number: int) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        while (await engine.query(RUNNING)).table["n"][0].as_py() != number:  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(0.002)
