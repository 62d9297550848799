"""A long-running part kept alive by its supervisor."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actors.runtime import (
    ActorCrashed,
    ActorStopped,
    Backoff,
    ChildSpec,
    Intensity,
    RestartIntensityExceeded,
    Supervisor,
    run_tree,
)
from actors.runtime.testing import next_event
from actors.service import Dispensable, Service
from syndb_common.engine.local import START_SECONDS, STOP_SECONDS
from syndb_common.errors import EngineUnavailable, Unavailable


def kept(run: Any, **options: Any) -> Supervisor:
    return Supervisor("root", [ChildSpec("part", partial(Service, run, **options))], backoff=Backoff(jitter=0))


def never_restarted(run: Any, **options: Any) -> Supervisor:
    return Supervisor("root", [ChildSpec("part", partial(Service, run, **options))], intensity=Intensity(restarts=0))


async def test_a_service_has_started_once_its_part_works(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async def part(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(5)
        task_status.started()
        await trio.sleep_forever()

    await nursery.start(run_tree, kept(part))
    assert trio.current_time() == pytest.approx(5)


@pytest.mark.parametrize("ending", ["returns", "raises"])
async def test_a_part_that_ends_is_started_again(nursery: trio.Nursery, autojump_clock: MockClock, ending: str) -> None:
    starts = []

    async def part(*, task_status: trio.TaskStatus[None]) -> None:
        starts.append(trio.current_time())
        task_status.started()
        await trio.sleep(60 if len(starts) == 1 else float("inf"))
        if ending == "raises":
            raise OSError("broken")

    tree = await nursery.start(run_tree, kept(part))
    crash = await next_event(tree.events.subscribe(), ActorCrashed, "part")
    assert isinstance(crash.error, Unavailable if ending == "returns" else OSError)
    await trio.sleep(10)
    assert len(starts) == 2


@pytest.mark.parametrize("options", [{"start_seconds": 3}, {}])
async def test_a_part_that_never_works_fails_the_start_and_is_named(
    autojump_clock: MockClock, options: dict[str, float]
) -> None:
    async def part(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()

    with pytest.RaisesGroup(RestartIntensityExceeded, flatten_subgroups=True) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(run_tree, never_restarted(part, **options))
    cause = caught.value.exceptions[0].__cause__
    assert isinstance(cause, Unavailable)
    assert re.search(r"part did not work within \d+ seconds", cause.message)
    assert trio.current_time() == pytest.approx(options.get("start_seconds", 90), abs=0.1)


async def test_an_engine_may_use_all_its_time_to_start(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async def part(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(START_SECONDS)
        task_status.started()
        await trio.sleep_forever()

    await nursery.start(run_tree, never_restarted(part))
    assert trio.current_time() == pytest.approx(START_SECONDS)


async def test_an_engine_that_does_not_start_says_so_itself(autojump_clock: MockClock) -> None:
    async def part(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(START_SECONDS + STOP_SECONDS)
        raise EngineUnavailable("the engine process did not answer")

    with pytest.RaisesGroup(RestartIntensityExceeded, flatten_subgroups=True) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(run_tree, never_restarted(part))
    assert isinstance(caught.value.exceptions[0].__cause__, EngineUnavailable)


async def test_stopping_ends_the_part(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    ended = trio.Event()

    async def part(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    tree = await nursery.start(run_tree, kept(part))
    events = tree.events.subscribe()
    await tree.stop()
    assert ended.is_set()
    assert isinstance(await next_event(events, ActorStopped, "part"), ActorStopped)


async def test_dispensable_parts_end_nothing_however_often_they_fail(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    tries: dict[str, list[float]] = {"records": [], "relays": []}
    works = []

    def fails(name: str) -> Any:
        async def part(*, task_status: trio.TaskStatus[None]) -> None:
            tries[name].append(trio.current_time())
            raise OSError("broken")

        return part

    async def part(*, task_status: trio.TaskStatus[None]) -> None:
        works.append(trio.current_time())
        task_status.started()
        await trio.sleep_forever()

    children = [ChildSpec(name, partial(Dispensable, fails(name))) for name in tries]
    children += [ChildSpec("jobs", partial(Dispensable, part)), ChildSpec("registry", partial(Service, part))]
    root = Supervisor("root", children, intensity=Intensity(1))
    with trio.fail_after(1):
        await nursery.start(run_tree, root)
    await trio.sleep(3600)
    assert works == [0, 0]
    for at in tries.values():
        assert 50 < len(at) < 100
        assert 40 < at[-1] - at[-2] < 80
