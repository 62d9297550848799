"""Restarts of a daemon's parts are counted."""

from __future__ import annotations

from dataclasses import dataclass

import trio
import trio.testing

from actors.part_metrics import count_events
from actors.runtime import Actor, Backoff, ChildSpec, Supervisor, handle, run_tree
from syndb_common.metrics import ACTOR_EVENTS


@dataclass(frozen=True)
class Break:
    """Crash."""


@dataclass(frozen=True)
class Hello:
    """Answer."""


class Fragile(Actor):
    """Crashes when told to."""

    @handle
    async def crash(self, message: Break) -> None:
        raise ZeroDivisionError

    @handle
    async def hello(self, message: Hello) -> str:
        return "hello"


def counted(event: str) -> float:
    return ACTOR_EVENTS.labels("fragile-part", event)._value.get()


async def test_starts_crashes_and_restarts_are_counted() -> None:
    crashed, started = counted("crashed"), counted("started")
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor("root", [ChildSpec("fragile-part", Fragile)], backoff=Backoff(initial=0.01))
        tree = await nursery.start(run_tree, supervisor)
        nursery.start_soon(count_events, tree)
        await trio.testing.wait_all_tasks_blocked()
        tree.ref("fragile-part").tell(Break())
        assert await tree.ref("fragile-part").ask(Hello(), timeout=5) == "hello"
        await tree.stop(grace=1)
    assert counted("crashed") == crashed + 1
    assert counted("started") == started + 1
    assert counted("restarting") >= 1
