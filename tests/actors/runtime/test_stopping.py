"""Stopping: order, grace, cancellation, and the time on_stop gets."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.runtime import (
    Actor,
    ActorCrashed,
    ActorStopped,
    ActorStoppedError,
    Backoff,
    ChildSpec,
    MessagesDropped,
    StopTimeout,
    Supervisor,
    handle,
    run_tree,
)
from actors.runtime.testing import next_event


@dataclass(frozen=True)
class Job:
    name: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Interrupt:
    pass


class Worker(Actor):
    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def on_start(self) -> None:
        self.context.start_soon(trio.sleep_forever)

    async def on_stop(self) -> None:
        await trio.sleep(0.1)
        self.log.append(f"-{self.context.name}")

    @handle
    async def job(self, message: Job) -> str:
        await trio.sleep(message.seconds)
        self.log.append(message.name)
        return message.name

    @handle
    async def interrupt(self, message: Interrupt) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def children(log):
    inner = Supervisor("inner", [ChildSpec("b", lambda: Worker(log)), ChildSpec("c", lambda: Worker(log))])
    return [ChildSpec("a", lambda: Worker(log)), inner, ChildSpec("d", lambda: Worker(log))]


async def test_stop_ends_children_in_reverse_order_through_all_levels(start, children, log):
    tree = await start(*children)
    await tree.stop()
    assert log == ["-d", "-c", "-b", "-a"]


async def test_cancelling_the_nursery_keeps_the_reverse_order_and_lets_on_stop_run(children, log):
    async with trio.open_nursery() as nursery:
        await nursery.start(run_tree, Supervisor("root", children))
        nursery.cancel_scope.cancel()
    assert log == ["-d", "-c", "-b", "-a"]


async def test_within_the_grace_accepted_messages_are_answered_and_new_ones_refused(start, children, log, nursery):
    tree = await start(*children)
    ref = tree.ref("a")
    ref.tell(Job("first", 2))
    ref.tell(Job("second", 2))
    nursery.start_soon(tree.stop, 10)
    await trio.sleep(1)
    with pytest.raises(ActorStoppedError):
        ref.tell(Job("too late"))
    await tree.stopped.wait()
    assert log == ["-d", "-c", "-b", "first", "second", "-a"]


async def test_an_actor_still_serves_while_those_started_after_it_drain(start, nursery):
    class Forwarder(Actor):
        @handle
        async def job(self, message: Job) -> str:
            await trio.sleep(1)
            return await self.context.find("worker").ask(message, timeout=5)

    tree = await start(ChildSpec("worker", lambda: Worker([])), ChildSpec("forwarder", Forwarder))
    nursery.start_soon(tree.stop)
    assert await tree.ref("forwarder").ask(Job("through"), timeout=5) == "through"


async def test_what_outlasts_the_grace_is_cancelled_and_waiting_askers_are_told(start, children, log, nursery):
    tree = await start(*children)
    ref = tree.ref("d")
    ref.tell(Job("endless", 1000))
    ref.tell(Job("never begun"))
    nursery.start_soon(tree.stop, 3)
    begun = trio.current_time()
    with pytest.raises(ActorStoppedError) as caught:
        await ref.ask(Job("never begun"), timeout=100)
    assert caught.value.message == Job("never begun")
    await tree.stopped.wait()
    assert trio.current_time() - begun == pytest.approx(3.4)  # the grace and four times on_stop
    assert log == ["-d", "-c", "-b", "-a"]


async def test_told_messages_that_are_lost_by_a_stop_are_counted(start, children, nursery):
    tree = await start(*children)
    for _ in range(3):
        tree.ref("d").tell(Job("endless", 1000))
    with tree.events.subscribe() as events:
        nursery.start_soon(tree.stop, 1)
        assert (await next_event(events, MessagesDropped, "d")).count == 2


async def test_an_asker_waiting_for_room_is_told_of_the_stop(start, nursery):
    class Narrow(Worker):
        mailbox_size = 1

    tree = await start(ChildSpec("narrow", lambda: Narrow([])))
    ref = tree.ref("narrow")
    ref.tell(Job("busy", 5))
    await wait_all_tasks_blocked()
    ref.tell(Job("waiting"))

    async def stop_later() -> None:
        await trio.sleep(1)
        await tree.stop(grace=60)

    nursery.start_soon(stop_later)
    with pytest.raises(ActorStoppedError) as caught:
        await ref.ask(Job("in line"), timeout=60)
    assert caught.value.message == Job("in line")


async def test_on_stop_is_cut_off_after_stop_timeout(log):
    class Endless(Worker):
        stop_timeout = 3.0

        async def on_stop(self) -> None:
            await trio.sleep_forever()

    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        tree = await nursery.start(run_tree, Supervisor("root", [ChildSpec("endless", lambda: Endless(log))]))
        events = tree.events.subscribe()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - begun == pytest.approx(3)
    assert isinstance((await next_event(events, ActorCrashed)).error, StopTimeout)


async def test_a_tree_can_be_stopped_while_a_child_waits_for_its_restart(start):
    class Broken(Worker):
        @handle
        async def job(self, message: Job) -> str:
            raise OSError

    backoff = Backoff(initial=100, maximum=100)
    tree = await start(ChildSpec("broken", lambda: Broken([])), backoff=backoff)
    tree.ref("broken").tell(Job("x"))
    await trio.sleep(1)
    begun = trio.current_time()
    await tree.stop()
    assert trio.current_time() == begun


async def test_nothing_is_started_again_once_the_tree_is_being_stopped(start, log):
    starts = []

    class Broken(Worker):
        async def on_start(self) -> None:
            starts.append(self.context.name)

        @handle
        async def job(self, message: Job) -> str:
            raise OSError

    broken, busy = ChildSpec("broken", lambda: Broken(log)), ChildSpec("busy", lambda: Worker(log))
    tree = await start(broken, busy, backoff=Backoff(initial=1, maximum=1, jitter=0))
    tree.ref("busy").tell(Job("long", 5))
    tree.ref("broken").tell(Job("x"))
    await trio.sleep(0.5)
    await tree.stop(grace=60)
    assert starts == ["broken"]


async def test_a_tree_can_be_cancelled_before_it_has_started():
    class Slow(Actor):
        async def on_start(self) -> None:
            await trio.sleep(20)

    with trio.move_on_after(1) as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(run_tree, Supervisor("root", [ChildSpec("slow", Slow)]))
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(scope.deadline)


async def test_stopping_twice_is_stopping_once(start, children):
    tree = await start(*children)
    with tree.events.subscribe() as events:
        await tree.stop()
        await tree.stop()
        ended = [event async for event in events]
    assert sorted(event.name for event in ended) == ["a", "b", "c", "d"]
    assert {type(event) for event in ended} == {ActorStopped}


async def test_a_keyboard_interrupt_in_a_handler_stops_the_tree_in_order_and_goes_on(children, log):
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            tree = await nursery.start(run_tree, Supervisor("root", children))
            tree.ref("a").tell(Interrupt())
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        await main()
    assert caught.value.subgroup(KeyboardInterrupt) is not None
    assert log == ["-a", "-d", "-c", "-b"]
