"""Messages: dispatch, answers, bounded mailboxes, deadlines, and what a crash does to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.runtime import (
    Actor,
    ActorCrashedError,
    ActorStoppedError,
    AskTimeout,
    ChildSpec,
    ErrorUnheard,
    MailboxFull,
    UnhandledMessage,
    UnknownActor,
    handle,
)
from actors.runtime.testing import next_event


@dataclass(frozen=True)
class Note:
    text: str


@dataclass(frozen=True)
class UrgentNote(Note):
    pass


@dataclass(frozen=True)
class Whole:
    value: int


@dataclass(frozen=True)
class Fraction:
    value: float


@dataclass(frozen=True)
class Hold:
    """Keeps the actor busy for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Block:
    """Keeps the whole event loop busy for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Fail:
    error: Exception


class Refused(Exception):
    pass


class Scribe(Actor):
    mailbox_size = 3
    expected = (Refused,)

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    @handle
    async def note(self, message: Note) -> int:
        self.log.append(message.text)
        return len(self.log)

    @handle
    async def number(self, message: Whole | Fraction) -> str:
        return f"{message.value} from {self.context.sender}"

    @handle
    async def hold(self, message: Hold) -> None:
        self.log.append("holding")
        await trio.sleep(message.seconds)
        self.log.append("held")

    @handle
    async def block(self, message: Block) -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        clock.jump(message.seconds)

    @handle
    async def fail(self, message: Fail) -> None:
        raise message.error


@pytest.fixture
def log() -> list[Any]:
    return []


@pytest.fixture
def scribe(log: list[Any]) -> ChildSpec:
    return ChildSpec("scribe", lambda: Scribe(log))


async def test_an_ask_returns_what_the_handler_returns(start, scribe):
    ref = (await start(scribe)).ref("scribe")
    assert await ref.ask(Note("a"), timeout=1) == 1


async def test_messages_are_handled_in_the_order_they_were_sent(start, scribe, log):
    ref = (await start(scribe)).ref("scribe")
    for text in "abc":
        ref.tell(Note(text))
    assert await ref.ask(Note("d"), timeout=1) == 4
    assert log == ["a", "b", "c", "d"]


async def test_a_subclass_of_a_message_and_each_member_of_a_union_find_their_handler(start, scribe, log):
    ref = (await start(scribe)).ref("scribe")
    await ref.ask(UrgentNote("now"), timeout=1)
    assert log == ["now"]
    assert await ref.ask(Whole(2), timeout=1) == "2 from None"
    assert await ref.ask(Fraction(0.5), timeout=1, sender="peer") == "0.5 from peer"


async def test_a_message_without_handler_is_handed_back_and_crashes_nothing(start, scribe):
    tree = await start(scribe)
    with tree.events.subscribe() as events:
        with pytest.raises(UnhandledMessage, match="does not handle str") as caught:
            await tree.ref("scribe").ask("text", timeout=1)
        assert caught.value.message == "text"
        tree.ref("scribe").tell("text")
        assert isinstance((await next_event(events, ErrorUnheard)).error, UnhandledMessage)
    assert await tree.ref("scribe").ask(Note("still here"), timeout=1) == 1


async def test_an_expected_exception_is_the_answer_and_keeps_the_state(start, scribe, log):
    ref = (await start(scribe)).ref("scribe")
    refused = Refused("no")
    with pytest.raises(Refused) as caught:
        await ref.ask(Fail(refused), timeout=1)
    assert caught.value is refused
    with pytest.raises(Refused, match="inside a group of one"):
        await ref.ask(Fail(ExceptionGroup("nursery", [Refused("inside a group of one")])), timeout=1)


async def test_an_expected_exception_over_a_told_message_is_an_event(start, scribe):
    tree = await start(scribe)
    with tree.events.subscribe() as events:
        tree.ref("scribe").tell(Fail(Refused("no")))
        assert isinstance((await next_event(events, ErrorUnheard, "scribe")).error, Refused)


async def test_a_crash_is_reported_to_the_asker_and_the_mailbox_behind_it_is_served(start, scribe, log, nursery):
    ref = (await start(scribe)).ref("scribe")
    ref.tell(Hold(1))
    nursery.start_soon(_expect_crash, ref, log)
    await wait_all_tasks_blocked()
    ref.tell(Note("behind"))
    assert await ref.ask(Note("last"), timeout=60) == 5
    assert log == ["holding", "held", "crash seen", "behind", "last"]


async def _expect_crash(ref, log):
    with pytest.raises(ActorCrashedError) as caught:
        await ref.ask(Fail(KeyError("bad state")), timeout=60)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.message is None
    log.append("crash seen")


async def test_the_message_that_crashed_an_actor_is_not_delivered_again(start):
    handled: list[str] = []

    class Fragile(Actor):
        @handle
        async def note(self, message: Note) -> int:
            handled.append(message.text)
            if message.text == "poison":
                raise ValueError
            return len(handled)

    ref = (await start(ChildSpec("fragile", Fragile))).ref("fragile")
    ref.tell(Note("poison"))
    assert await ref.ask(Note("fine"), timeout=60) == 2
    assert handled == ["poison", "fine"]


async def test_telling_a_full_mailbox_fails_and_hands_the_message_back(start, scribe, log):
    ref = (await start(scribe)).ref("scribe")
    ref.tell(Hold(1))
    await wait_all_tasks_blocked()
    for text in "abc":
        ref.tell(Note(text))
    surplus = Note("d")
    with pytest.raises(MailboxFull) as caught:
        ref.tell(surplus)
    assert caught.value.message is surplus
    await trio.sleep(2)
    ref.tell(surplus)
    await wait_all_tasks_blocked()
    assert log == ["holding", "held", "a", "b", "c", "d"]


async def test_asking_a_full_mailbox_waits_in_line_for_room(start, scribe, log, nursery):
    ref = (await start(scribe)).ref("scribe")
    ref.tell(Hold(5))
    await wait_all_tasks_blocked()
    for text in "abc":
        ref.tell(Note(text))
    for text in "de":
        nursery.start_soon(lambda text=text: ref.ask(Note(text), timeout=10))
        await wait_all_tasks_blocked()
    assert await ref.ask(Note("f"), timeout=10) == 8
    assert log[2:] == ["a", "b", "c", "d", "e", "f"]


async def test_waiting_for_room_counts_towards_the_deadline(start, scribe, log):
    ref = (await start(scribe)).ref("scribe")
    ref.tell(Hold(5))
    await wait_all_tasks_blocked()
    for text in "abc":
        ref.tell(Note(text))
    begun = trio.current_time()
    with pytest.raises(AskTimeout) as caught:
        await ref.ask(Note("late"), timeout=2)
    assert trio.current_time() - begun == pytest.approx(2)
    assert caught.value.message == Note("late")
    await trio.sleep(10)
    assert "late" not in log


async def test_a_message_whose_deadline_passed_in_the_mailbox_is_taken_back(start, scribe, log):
    ref = (await start(scribe)).ref("scribe")
    ref.tell(Hold(5))
    with pytest.raises(AskTimeout, match="within 2 s") as caught:
        await ref.ask(Note("late"), timeout=2)
    assert caught.value.message == Note("late")
    for text in "abc":
        ref.tell(Note(text))  # the place of the late one is free again
    await trio.sleep(10)
    assert log == ["holding", "held", "a", "b", "c"]


async def test_a_message_reached_at_its_very_deadline_is_skipped(start, scribe, log):
    ref = (await start(scribe)).ref("scribe")
    for _ in range(20):  # which task trio runs first at that moment is a matter of chance
        ref.tell(Block(2))
        with pytest.raises(AskTimeout):
            await ref.ask(Note("late"), timeout=2)
        await wait_all_tasks_blocked()
    assert log == []


async def test_a_message_taken_back_makes_room_for_the_first_in_line(start, scribe, log, nursery):
    ref = (await start(scribe)).ref("scribe")
    ref.tell(Hold(5))
    await wait_all_tasks_blocked()
    nursery.start_soon(_expect_timeout, ref, Note("late"))
    await wait_all_tasks_blocked()
    for text in "ab":
        ref.tell(Note(text))
    nursery.start_soon(lambda: ref.ask(Note("in line"), timeout=10))
    await trio.sleep(3)
    with pytest.raises(MailboxFull):
        ref.tell(Note("overtaking"))
    await trio.sleep(10)
    assert log[2:] == ["a", "b", "in line"]


async def _expect_timeout(ref, message):
    with pytest.raises(AskTimeout):
        await ref.ask(message, timeout=2)


async def test_a_cancelled_ask_takes_its_message_back(start, scribe, log):
    ref = (await start(scribe)).ref("scribe")
    ref.tell(Hold(5))
    await wait_all_tasks_blocked()
    with trio.move_on_after(1):
        await ref.ask(Note("unwanted"), timeout=60)
    await trio.sleep(10)
    assert log == ["holding", "held"]


async def test_a_handler_that_has_begun_completes_after_its_asker_has_gone(start, scribe, log):
    ref = (await start(scribe)).ref("scribe")
    with pytest.raises(AskTimeout) as caught:
        await ref.ask(Hold(5), timeout=1)
    assert caught.value.message is None
    await trio.sleep(10)
    assert log == ["holding", "held"]


@pytest.mark.parametrize("seconds", [math.inf, math.nan])
async def test_an_ask_without_a_deadline_is_refused(start, scribe, seconds):
    ref = (await start(scribe)).ref("scribe")
    with pytest.raises(ValueError, match="finite timeout"):
        await ref.ask(Note("a"), timeout=seconds)


async def test_a_stopped_actor_refuses_messages_and_hands_them_back(start, scribe):
    tree = await start(scribe)
    ref = tree.ref("scribe")
    await tree.stop()
    with pytest.raises(ActorStoppedError) as caught:
        ref.tell(Note("a"))
    assert caught.value.message == Note("a")
    with pytest.raises(ActorStoppedError):
        await ref.ask(Note("a"), timeout=1)


async def test_an_actor_finds_its_neighbours_by_name(start):
    class Greeter(Actor):
        async def on_start(self) -> None:
            self.neighbour = self.context.find("scribe")

        @handle
        async def note(self, message: Note) -> int:
            return await self.neighbour.ask(message, timeout=1)

    tree = await start(ChildSpec("greeter", Greeter), ChildSpec("scribe", lambda: Scribe([])))
    assert await tree.ref("greeter").ask(Note("hello"), timeout=1) == 1
    with pytest.raises(UnknownActor, match="no actor is named 'nobody'; there are greeter, scribe"):
        tree.ref("nobody")


async def test_an_override_in_a_subclass_handles_the_same_messages():
    class Loud(Scribe):
        async def note(self, message: Note) -> int:
            self.log.append(message.text.upper())
            return 0

    loud = Loud([])
    await loud.receive(Note("quiet"))
    assert loud.log == ["QUIET"]


def test_two_handlers_for_one_message_are_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match="handles Note in first and in second"):

        class Torn(Actor):
            @handle
            async def first(self, message: Note) -> None: ...

            @handle
            async def second(self, message: Note) -> None: ...


def test_a_handler_without_a_usable_annotation_is_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match="annotate `message` with the class"):

        class Vague(Actor):
            @handle
            async def anything(self, message) -> None: ...

    with pytest.raises(TypeError, match="'Elsewhere' is not defined; import message"):

        class Lost(Actor):
            @handle
            async def elsewhere(self, message: Elsewhere) -> None: ...  # noqa: F821

    with pytest.raises(TypeError, match="must be `async def"):

        class Blocking(Actor):
            @handle  # type: ignore[type-var]
            def blocking(self, message: Note) -> None: ...
