"""Delegated tasks: the answer comes from beside the mailbox."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.runtime import (
    Actor,
    ActorCrashedError,
    ActorStoppedError,
    AskTimeout,
    ChildSpec,
    Delegated,
    ErrorUnheard,
    MailboxFull,
    handle,
)
from actors.runtime.testing import next_event


@dataclass(frozen=True)
class Work:
    seconds: float
    error: Exception | None = None
    preparation: float = 0.0


@dataclass(frozen=True)
class Ping:
    pass


@dataclass(frozen=True)
class Crash:
    pass


class Foreman(Actor):
    max_delegates = 2

    def __init__(self) -> None:
        self.cut_off = 0

    @handle
    async def work(self, message: Work) -> Delegated:
        await trio.sleep(message.preparation)
        return self.context.delegate(self._work, message)

    @handle
    async def ping(self, message: Ping) -> int:
        return self.cut_off

    @handle
    async def crash(self, message: Crash) -> None:
        raise RuntimeError("crash")

    async def _work(self, message: Work) -> str:
        try:
            await trio.sleep(message.seconds)
        except trio.Cancelled:
            self.cut_off += 1
            raise
        if message.error is not None:
            raise message.error
        return "done"


@pytest.fixture
async def tree(start):
    return await start(ChildSpec("foreman", Foreman))


async def test_the_mailbox_goes_on_while_a_delegated_task_works(tree, nursery):
    ref = tree.ref("foreman")
    begun = trio.current_time()
    nursery.start_soon(lambda: ref.ask(Work(5), timeout=10))
    await wait_all_tasks_blocked()
    assert await ref.ask(Ping(), timeout=1) == 0
    assert trio.current_time() == begun
    assert await ref.ask(Work(1), timeout=10) == "done"
    assert trio.current_time() - begun == pytest.approx(1)


@pytest.mark.parametrize("error", [ValueError("bad"), ExceptionGroup("nursery", [ValueError("bad")])])
async def test_an_error_of_the_task_goes_to_the_asker_and_crashes_nothing(tree, error):
    with pytest.raises(ValueError, match="bad"):
        await tree.ref("foreman").ask(Work(0, error), timeout=1)
    with tree.events.subscribe() as events:
        assert await tree.ref("foreman").ask(Ping(), timeout=1) == 0
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


async def test_an_error_of_a_task_nobody_asked_for_is_an_event(tree):
    with tree.events.subscribe() as events:
        tree.ref("foreman").tell(Work(1, ValueError("bad")))
        assert isinstance((await next_event(events, ErrorUnheard)).error, ValueError)


async def test_beyond_max_delegates_the_asker_gets_its_message_back(tree, nursery):
    ref = tree.ref("foreman")
    for _ in range(2):
        nursery.start_soon(lambda: ref.ask(Work(5), timeout=10))
    await wait_all_tasks_blocked()
    with pytest.raises(MailboxFull, match="2 delegated tasks") as caught:
        await ref.ask(Work(1), timeout=10)
    assert caught.value.message == Work(1)
    await trio.sleep(6)
    assert await ref.ask(Work(1), timeout=10) == "done"


async def test_a_task_is_cancelled_when_its_asker_times_out_or_is_cancelled(tree):
    ref = tree.ref("foreman")
    with pytest.raises(AskTimeout):
        await ref.ask(Work(60), timeout=1)
    await wait_all_tasks_blocked()
    assert await ref.ask(Ping(), timeout=1) == 1
    with trio.move_on_after(1):
        await ref.ask(Work(60), timeout=50)
    await wait_all_tasks_blocked()
    assert await ref.ask(Ping(), timeout=1) == 2


async def test_a_task_whose_asker_left_before_it_began_is_cancelled(tree):
    ref = tree.ref("foreman")
    with pytest.raises(AskTimeout):
        await ref.ask(Work(60, preparation=2), timeout=1)
    await trio.sleep(2)
    assert await ref.ask(Ping(), timeout=1) == 1


async def test_askers_of_tasks_learn_that_the_actor_crashed(tree, nursery):
    ref = tree.ref("foreman")
    nursery.start_soon(_crash_later, ref)
    with pytest.raises(ActorCrashedError) as caught:
        await ref.ask(Work(60), timeout=50)
    assert str(caught.value.__cause__) == "crash"


async def _crash_later(ref):
    await trio.sleep(1)
    ref.tell(Crash())


async def test_stopping_waits_for_tasks_within_the_grace(tree, nursery):
    ref = tree.ref("foreman")
    answers = []

    async def ask() -> None:
        answers.append(await ref.ask(Work(2), timeout=10))

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    await tree.stop(grace=5)
    await wait_all_tasks_blocked()
    assert answers == ["done"]


async def test_tasks_that_outlast_the_grace_are_cancelled_and_their_askers_told(tree, nursery):
    async def stop_later() -> None:
        await trio.sleep(1)
        await tree.stop(grace=1)

    nursery.start_soon(stop_later)
    with pytest.raises(ActorStoppedError, match="before it answered") as caught:
        await tree.ref("foreman").ask(Work(60), timeout=50)
    assert caught.value.message is None
