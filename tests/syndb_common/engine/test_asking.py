"""What the engine process asks its daemon: answered once, in time, and stopped when nobody waits any more."""

from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio

from syndb_common.engine.asked import Asked
from syndb_common.engine.asking import MAX_ASKED, MAX_LONG, MAX_LONG_OF_ONE, MAX_QUICK, QUICK_SECONDS, Asker
from syndb_common.errors import Cancelled, DeadlineExceeded, Forbidden, NotFound, SynDBError, TooManyRequests


class _Pair:
    """Both ends, joined as the channel joins them: the asking one in threads, the answering one in the loop."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.ended: list[str] = []
        token = trio.lowlevel.current_trio_token()
        answers = {"double": self._double, "refuse": self._refuse, "fail": self._fail, "for ever": self._for_ever}
        self._asked = Asked(answers, self._reply, nursery)
        self.asker = Asker(lambda frame: token.run_sync_soon(self._asked.take, frame))

    async def _reply(self, frame: dict[str, Any]) -> None:
        self.asker.settle(frame)

    async def ask(self, what: str, seconds: float = 20, **options: Any) -> dict[str, Any]:
        ask = partial(self.asker.ask, what, seconds, **options)
        return await trio.to_thread.run_sync(ask, limiter=trio.CapacityLimiter(1))

    async def _double(self, *, n: int) -> dict[str, Any]:
        return {"n": 2 * n}

    async def _refuse(self) -> dict[str, Any]:
        raise Forbidden("not you", hint="ask the owner")

    async def _fail(self) -> dict[str, Any]:
        raise RuntimeError("/secret/path")

    async def _for_ever(self) -> dict[str, Any]:
        try:
            await trio.sleep_forever()
        finally:
            self.ended.append("for ever")
        raise AssertionError("unreachable")


@pytest.fixture
async def pair(nursery: trio.Nursery) -> AsyncIterator[_Pair]:
    yield _Pair(nursery)
    nursery.cancel_scope.cancel()


async def test_many_questions_at_once_each_get_their_own_answer(pair: _Pair) -> None:
    found = {}

    async def double(n: int) -> None:
        found[n] = (await pair.ask("double", n=n))["n"]

    async with trio.open_nursery() as nursery:
        for n in range(MAX_QUICK // 2):
            nursery.start_soon(double, n)
    assert found == {n: 2 * n for n in range(MAX_QUICK // 2)}


async def test_a_refusal_keeps_its_code_and_hint(pair: _Pair) -> None:
    with pytest.raises(Forbidden, match="not you") as caught:
        await pair.ask("refuse")
    assert caught.value.hint == "ask the owner"


async def test_an_unknown_question_is_said_to_be_one(pair: _Pair) -> None:
    with pytest.raises(NotFound, match="does not know about weather"):
        await pair.ask("weather")


async def test_a_failure_of_the_daemon_tells_nothing_of_it(pair: _Pair) -> None:
    with pytest.raises(SynDBError) as caught:
        await pair.ask("fail")
    assert "/secret/path" not in str(caught.value)


async def test_an_answer_that_does_not_come_in_time_is_given_up_at_both_ends(pair: _Pair) -> None:
    with pytest.raises(DeadlineExceeded):
        await pair.ask("for ever", seconds=0.1)
    with trio.fail_after(5):
        while not pair.ended:  # noqa: ASYNC110 - the daemon's end is told by a thread
            await trio.sleep(0.01)


async def test_a_question_of_a_client_that_left_is_stopped_at_the_daemon(pair: _Pair) -> None:
    with pytest.raises(Cancelled):
        await pair.ask("for ever", gone=lambda: True)
    with trio.fail_after(5):
        while not pair.ended:  # noqa: ASYNC110 - the daemon's end is told by a thread
            await trio.sleep(0.01)


class _Silent:
    """A daemon that never answers, and questions that wait for it until told to leave."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.asker = Asker(lambda frame: None)
        self.left = False
        self._nursery = nursery
        self._limiter = trio.CapacityLimiter(MAX_ASKED)

    async def wait(self, count: int, *, seconds: float, **facts: str) -> None:
        """Let so many more questions wait."""
        wanted = len(self.asker._waiting) + count
        for _ in range(count):
            self._nursery.start_soon(self._ask, seconds, facts)
        with trio.fail_after(20):
            while len(self.asker._waiting) < wanted:  # noqa: ASYNC110 - threads change it
                await trio.sleep(0.01)

    async def _ask(self, seconds: float, facts: dict[str, str]) -> None:
        ask = partial(self.asker.ask, "for ever", seconds, gone=lambda: self.left, **facts)
        with suppress(Cancelled, DeadlineExceeded):
            await trio.to_thread.run_sync(ask, limiter=self._limiter)


@pytest.fixture
async def silent(nursery: trio.Nursery) -> AsyncIterator[_Silent]:
    silent = _Silent(nursery)
    yield silent
    silent.left = True


async def test_queries_leave_room_for_quick_questions_and_one_client_for_others(silent: _Silent) -> None:
    for client in range(MAX_LONG // MAX_LONG_OF_ONE):
        await silent.wait(MAX_LONG_OF_ONE, seconds=60, whose=str(client))
        with pytest.raises(TooManyRequests):
            silent.asker.ask("one more", 60, whose=str(client))
    with pytest.raises(TooManyRequests):
        silent.asker.ask("of another", 60, whose="another")
    with pytest.raises(DeadlineExceeded):
        silent.asker.ask("who is this", 0.01)


async def test_too_many_quick_questions_are_refused_at_once(silent: _Silent) -> None:
    await silent.wait(MAX_QUICK, seconds=QUICK_SECONDS)
    with pytest.raises(TooManyRequests):
        silent.asker.ask("one more", 1)
