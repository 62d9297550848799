"""The event stream: who sees what, and what a slow reader loses."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
import trio

from actors.runtime import (
    Actor,
    ActorCrashed,
    ActorRestarting,
    ActorStarted,
    ActorStopped,
    ChildSpec,
    EventStream,
    handle,
)


@dataclass(frozen=True)
class Crash:
    pass


class Worker(Actor):
    @handle
    async def crash(self, message: Crash) -> None:
        raise RuntimeError("crash")


async def test_a_life_with_one_crash_is_told_in_order(start):
    tree = await start(ChildSpec("worker", Worker))
    first, second = tree.events.subscribe(), tree.events.subscribe()
    tree.ref("worker").tell(Crash())
    await trio.sleep(1)
    await tree.stop()
    told = [event async for event in first]
    assert [type(event) for event in told] == [ActorCrashed, ActorRestarting, ActorStarted, ActorStopped]
    assert told[2].incarnation == 2
    assert [event async for event in second] == told


async def test_a_subscriber_that_lags_loses_the_oldest_events_and_holds_nobody_up():
    stream = EventStream()
    slow, fast = stream.subscribe(size=2), stream.subscribe(size=10)
    events = [ActorStarted("worker", float(n), n) for n in range(5)]
    for event in events:
        stream.publish(event)
    stream.end()
    assert [event async for event in slow] == events[3:]
    assert (slow.dropped, fast.dropped) == (3, 0)
    assert [event async for event in fast] == events


async def test_a_closed_subscription_is_forgotten():
    stream = EventStream()
    with stream.subscribe():
        pass
    kept = stream.subscribe()
    stream.publish(ActorStarted("worker", 0.0, 1))
    assert kept.receive_nowait() == ActorStarted("worker", 0.0, 1)


async def test_a_subscription_after_the_end_ends_at_once(start):
    tree = await start(ChildSpec("worker", Worker))
    await tree.stop()
    with pytest.raises(trio.EndOfChannel):
        await tree.events.subscribe().receive()


async def test_a_crash_is_logged_with_its_traceback_where_nobody_subscribes(start, caplog):
    tree = await start(ChildSpec("worker", Worker))
    with caplog.at_level(logging.ERROR, "actors.runtime"):
        tree.ref("worker").tell(Crash())
        await trio.sleep(1)
    (record,) = caplog.records
    assert record.getMessage() == "actor worker crashed: RuntimeError('crash')"
    assert record.exc_info is not None


def test_a_subscription_holds_at_least_one_event():
    with pytest.raises(ValueError, match="at least one"):
        EventStream().subscribe(size=0)
