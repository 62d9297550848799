"""Fault injection, as users of the runtime get it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio

from actors.runtime import Actor, ActorCrashedError, AskTimeout, ChildSpec, handle
from actors.runtime.testing import Faults, InjectedCrash


@dataclass(frozen=True)
class Add:
    amount: int


@dataclass(frozen=True)
class AddLater:
    amount: int


@dataclass(frozen=True)
class Read:
    pass


class Counter(Actor):
    def __init__(self) -> None:
        self.total = 0

    @handle
    async def add(self, message: Add) -> int:
        self.total += message.amount
        return self.total

    @handle
    async def add_later(self, message: AddLater) -> int:
        return self.context.delegate(self.add, message)

    @handle
    async def read(self, message: Read) -> int:
        return self.total


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def counter(start, faults):
    return (await start(ChildSpec("counter", faults.inject(Counter)))).ref("counter")


async def test_without_a_plan_nothing_changes(counter):
    assert await counter.ask(Add(2), timeout=1) == 2


async def test_a_planned_crash_strikes_its_type_of_message_across_restarts(counter, faults):
    faults.crash(Add, times=2)
    assert await counter.ask(Read(), timeout=1) == 0
    for _ in range(2):
        with pytest.raises(ActorCrashedError) as caught:
            await counter.ask(Add(1), timeout=10)
        assert isinstance(caught.value.__cause__, InjectedCrash)
    assert await counter.ask(Add(1), timeout=10) == 1


async def test_a_delayed_message_holds_up_the_mailbox(counter, faults):
    faults.delay(Add, seconds=5)
    counter.tell(Add(1))
    begun = trio.current_time()
    assert await counter.ask(Read(), timeout=10) == 1
    assert trio.current_time() - begun == pytest.approx(5)


async def test_a_dropped_message_is_neither_handled_nor_answered(counter, faults):
    faults.drop()
    with pytest.raises(AskTimeout):
        await counter.ask(Add(1), timeout=2)
    assert await counter.ask(Read(), timeout=1) == 0


async def test_a_duplicated_message_is_handled_twice(counter, faults):
    faults.duplicate(Add)
    assert await counter.ask(Add(1), timeout=1) == 2
    assert await counter.ask(Add(1), timeout=1) == 3


async def test_a_duplicated_message_is_delegated_twice(counter, faults):
    faults.duplicate(AddLater)
    assert await counter.ask(AddLater(1), timeout=1) in (1, 2)
    await trio.sleep(1)
    assert await counter.ask(Read(), timeout=1) == 2
