"""Answers given recently, by the id of the request, so that a repeated request is not executed twice.

An asker that lost the stream cannot know whether its request was executed. It sends it again with the same id, and
gets the first answer: from here, or from the execution that is still going on. What is kept is bounded in number,
bytes and time; when an answer had to go before its time, its id stays, and the repetition is refused. An answer that
need not be kept, because nothing was executed, leaves no trace.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio


class Execution:
    """One request being executed, or executed.

    Attributes:
        answer: what was answered; None until then, and once it is no longer kept.
        done: whether the execution has ended.
        kept: whether the answer is to be remembered; set it within the execution.
    """

    __slots__ = ("_waiting", "answer", "done", "kept", "until")

    def __init__(self) -> None:
        self.answer: bytes | None = None
        self.done = False
        self.kept = True
        self.until = float("inf")
        self._waiting: trio.Event | None = None

    async def ended(self) -> None:
        """Wait for the end of the execution."""
        if not self.done:
            if self._waiting is None:
                self._waiting = trio.Event()
            await self._waiting.wait()

    def end(self) -> None:
        """Let everybody know who waits."""
        self.done = True
        if self._waiting is not None:
            self._waiting.set()


class RecentAnswers:
    """The recent requests of one peer.

    Args:
        requests: how many are remembered.
        size: bytes of answers that are kept.
        seconds: how long after the answer.
        clock: seconds, monotonic.
    """

    __slots__ = ("_clock", "_executions", "_limit", "_requests", "_running", "_seconds", "_size")

    def __init__(
        self,
        *,
        requests: int = 256,
        size: int = 2 * 1024 * 1024,
        seconds: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests, self._limit, self._seconds, self._clock = requests, size, seconds, clock
        self._executions: OrderedDict[bytes, Execution] = OrderedDict()
        self._size = 0
        self._running = 0

    def __len__(self) -> int:
        return len(self._executions)

    @property
    def busy(self) -> bool:
        """Whether something is being executed."""
        return self._running > 0

    def find(self, request_id: bytes) -> Execution | None:
        """The execution of a request that was seen before and is still remembered."""
        now = self._clock()
        while self._executions:
            oldest = next(iter(self._executions))
            if self._executions[oldest].until > now:
                break
            self._forget(oldest)
        return self._executions.get(request_id)

    @contextmanager
    def executing(self, request_id: bytes) -> Iterator[Execution]:
        """Remember a request while it is executed in the block, which sets ``answer``, and for a while after.

        A block that ends without an answer, or sets ``kept`` to False, leaves no trace: the request may be sent again.
        """
        execution = self._executions[request_id] = Execution()
        self._running += 1
        try:
            yield execution
        finally:
            self._running -= 1
            execution.end()
            if execution.answer is None or not execution.kept:
                self._executions.pop(request_id, None)
            else:
                execution.until = self._clock() + self._seconds
                self._executions.move_to_end(request_id)
                self._size += len(execution.answer)
                self._shrink()

    def _shrink(self) -> None:
        if len(self._executions) <= self._requests and self._size <= self._limit:
            return
        for request_id, execution in tuple(self._executions.items()):
            if len(self._executions) > self._requests and execution.done:
                self._forget(request_id)
            elif self._size > self._limit and execution.answer is not None and execution.done:
                self._size -= len(execution.answer)
                execution.answer = None
            elif len(self._executions) <= self._requests and self._size <= self._limit:
                break

    def _forget(self, request_id: bytes) -> None:
        execution = self._executions.pop(request_id)
        if execution.answer is not None:
            self._size -= len(execution.answer)
