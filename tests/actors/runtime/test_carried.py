"""Context variables that travel with messages."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

import pytest
import trio

from actors.runtime import Actor, ChildSpec, carry, handle

request = ContextVar("request", default="none")
private = ContextVar("private", default="none")
carry(request)


@dataclass(frozen=True)
class Show:
    how: str


class Shower(Actor):
    """Shows the variable as different parts of an actor see it."""

    def __init__(self, seen: list[str] | None = None) -> None:
        self.seen = [] if seen is None else seen

    @handle
    async def show(self, message: Show) -> str:
        self.seen.append(request.get())
        match message.how:
            case "delegate":
                return self.context.delegate(self.later)
            case "ask":
                return await self.context.find("second").ask(Show("here"), timeout=1)
            case "change":
                request.set("changed in the handler")
            case "private":
                return private.get()
        return request.get()

    async def later(self) -> str:
        await trio.sleep(1)
        return request.get()


@pytest.fixture
async def tree(start):
    return await start(ChildSpec("first", Shower), ChildSpec("second", Shower))


@pytest.mark.parametrize("how", ["here", "delegate", "ask"])
async def test_a_handler_sees_the_senders_value_and_passes_it_on(tree, how):
    answers = {}

    async def ask(name):
        request.set(name)
        answers[name] = await tree.ref("first").ask(Show(how), timeout=5)

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(ask, name)
    assert answers == {"a": "a", "b": "b", "c": "c"}
    assert request.get() == "none"


async def test_a_told_message_carries_it_too(start):
    seen = []
    tree = await start(ChildSpec("first", lambda: Shower(seen)))
    for name in ("a", "b"):
        request.set(name)
        tree.ref("first").tell(Show("here"))
    request.set("later")
    await tree.ref("first").ask(Show("here"), timeout=1)
    assert seen == ["a", "b", "later"]


async def test_what_a_handler_sets_does_not_reach_the_next_message(tree):
    assert await tree.ref("first").ask(Show("change"), timeout=1) == "changed in the handler"
    assert await tree.ref("first").ask(Show("here"), timeout=1) == "none"


async def test_other_variables_stay_at_home(tree):
    private.set("mine")
    assert await tree.ref("first").ask(Show("private"), timeout=1) == "none"


def test_a_variable_without_default_cannot_be_carried():
    with pytest.raises(ValueError, match="default"):
        carry(ContextVar("bare"))
