"""A query is cancelled wherever it is: ClickHouse runs nothing of it any more, whoever waits is told, all goes on."""

# ruff: noqa: ASYNC110 - another process changes what is waited for

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from syndb_common.engine.child import THREADS
from syndb_common.engine.interface import Limits, Offer
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import Cancelled, NotFound, SynDBError
from syndb_common.flight.client import Endpoint, Reading, fetch
from syndb_common.flight.delivering import Delivering
from syndb_common.flight.settings import FlightSettings
from tests.syndb_common.engine.bridging import bridged
from tests.syndb_common.engine.shared import SharedEngine, sharing

FOREVER = "SELECT count() AS n FROM numbers(100000000000) WHERE sipHash64(number) = 1"
ENDLESS = "SELECT number, number + 1 AS next FROM numbers(100000000000)"
WIDE = Limits(result_rows=10**12, result_bytes=10**14)
HANG_SECONDS = 60

Stage = Callable[[SharedEngine], AbstractAsyncContextManager[None]]


@pytest.fixture(scope="module", params=["embedded", "server"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedEngine]:
    folder = tmp_path_factory.mktemp("engine")
    flight = FlightSettings("127.0.0.1", 0, folder / "flight")
    if request.param == "embedded":
        with sharing(LocalEngine(folder, flight=flight)) as shared:
            yield shared
        return
    with bridged(folder / "bridge") as server, sharing(LocalEngine(folder, server=server, flight=flight)) as shared:
        yield shared


async def _until_run(engine: SharedEngine, number: int) -> None:
    """Wait until so many queries run, apart from this question."""
    ours = "startsWith(Settings['log_comment'], 'syndb-')"
    question = f"SELECT count() - 1 AS others FROM system.processes WHERE {ours}"
    with trio.fail_after(HANG_SECONDS):
        while (await engine.query(question)).table["others"][0].as_py() != number:
            await trio.sleep(0.02)


async def _until_known(engine: SharedEngine) -> None:
    """Wait until the engine process has the query."""
    with trio.fail_after(HANG_SECONDS):
        while await engine.progress("q") is None:
            await trio.sleep(0.02)


async def _offered(engine: SharedEngine) -> Offer:
    offer = await engine.answer(ENDLESS, query_id="q", limits=WIDE)
    assert isinstance(offer, Offer)
    return offer


def _reading(endpoint: Endpoint) -> Reading:
    return Reading(endpoint, seconds=HANG_SECONDS, max_bytes=10**14)


async def _fails(call: Callable[..., Any], kind: type[SynDBError] = Cancelled) -> None:
    with pytest.raises(kind):
        await call()


async def _fails_in_thread(call: Callable[..., Any], *args: Any) -> None:
    await _fails(partial(trio.to_thread.run_sync, call, *args), SynDBError)


def _exhaust(batches: Iterator[Any]) -> None:
    for _ in batches:
        pass


@asynccontextmanager
async def in_line(engine: SharedEngine) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for number in range(THREADS):
            nursery.start_soon(_fails, partial(engine.query, FOREVER, query_id=f"other {number}"))
        await _until_run(engine, THREADS)
        nursery.start_soon(_fails, partial(engine.query, FOREVER, query_id="q"))
        await _until_known(engine)
        yield
        await engine.cancel("other 0")  # whose thread is free for the one in line
        await _until_run(engine, THREADS - 1)
        for number in range(1, THREADS):
            await engine.cancel(f"other {number}")


@asynccontextmanager
async def scanning(engine: SharedEngine) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_fails, partial(engine.query, FOREVER, query_id="q"))
        await _until_run(engine, 1)
        yield


@asynccontextmanager
async def before_its_first_rows(engine: SharedEngine) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_fails, partial(engine.answer, FOREVER, query_id="q"))
        await _until_run(engine, 1)
        yield


@asynccontextmanager
async def offered(engine: SharedEngine) -> AsyncIterator[None]:
    offer = await _offered(engine)
    yield
    await _fails(partial(fetch, offer), NotFound)


@asynccontextmanager
async def being_read(engine: SharedEngine) -> AsyncIterator[None]:
    batches = _reading(await _offered(engine)).batches()
    await trio.to_thread.run_sync(next, batches)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_fails_in_thread, _exhaust, batches)
        yield


@asynccontextmanager
async def held_up_by_its_reader(engine: SharedEngine) -> AsyncIterator[None]:
    batches = _reading(await _offered(engine)).batches()
    await trio.to_thread.run_sync(next, batches)
    yield
    await _fails_in_thread(_exhaust, batches)


@asynccontextmanager
async def being_delivered(engine: SharedEngine) -> AsyncIterator[None]:
    offer, hub = await _offered(engine), await engine.expect(HANG_SECONDS)
    delivering = Delivering(_reading(offer), hub, HANG_SECONDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_fails_in_thread, delivering.run)
        batches = _reading(await engine.claim(hub.ticket, b"")).batches()
        await trio.to_thread.run_sync(next, batches)
        nursery.start_soon(_fails_in_thread, _exhaust, batches)
        yield


STAGES = (
    in_line,
    scanning,
    before_its_first_rows,
    offered,
    being_read,
    held_up_by_its_reader,
    being_delivered,
)


@pytest.mark.parametrize("stage", STAGES, ids=[stage.__name__ for stage in STAGES])
async def test_a_query_is_cancelled_at_every_stage(engine: SharedEngine, stage: Stage) -> None:
    with trio.fail_after(3 * HANG_SECONDS):
        async with stage(engine):
            await engine.cancel("q")
            await engine.query("SELECT 1 AS one")
        await _until_run(engine, 0)
        assert await engine.progress("q") is None
