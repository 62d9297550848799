"""A bounded queue of messages that outlives the actor incarnations reading it.

One reader, any number of writers. ``put_nowait`` refuses when full, ``put`` waits in line. An asker that gives
up takes its message out again, so the dead never fill the queue. An actor that stops for good ends its mailbox
in two steps: sealed, it takes nothing new; closed, whoever still waits is told so.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

import trio

from actors.runtime.carried import pack
from actors.runtime.errors import ActorStoppedError, MailboxFull


class Call:
    """The answer an asker waits for. Settled at most once; settling a call nobody waits for does nothing."""

    __slots__ = ("_asker", "_error", "_value", "begun", "deadline", "on_abandoned", "settled")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.begun = False
        self.settled = False
        self.on_abandoned: Callable[[], None] | None = None
        self._asker: trio.lowlevel.Task | None = None
        self._value: object = None
        self._error: Exception | None = None

    def answer(self, value: object) -> None:
        """Let the asker return ``value``."""
        if not self.settled:
            self._value = value
            self._settle()

    def fail(self, error: Exception) -> None:
        """Let the asker raise ``error``."""
        if not self.settled:
            self._error = error
            self._settle()

    def abandon(self) -> None:
        """The asker does not wait any longer; work that only it wanted is told."""
        if not self.settled:
            self.settled = True
            if self.on_abandoned is not None:
                self.on_abandoned()

    async def wait(self) -> object:
        """Park the asking task until the call is settled; return the value or raise the error."""
        if not self.settled:
            self._asker = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._on_cancel)
        if self._error is not None:
            raise self._error
        return self._value

    def _settle(self) -> None:
        self.settled = True
        if self._asker is not None:
            trio.lowlevel.reschedule(self._asker)

    def _on_cancel(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._asker = None
        return trio.lowlevel.Abort.SUCCEEDED


class Envelope:
    """A message under way: with its sender, what is carried along and, if it was asked, the call to settle."""

    __slots__ = ("call", "luggage", "message", "sender")

    def __init__(self, message: object, sender: object, call: Call | None) -> None:
        self.message = message
        self.sender = sender
        self.call = call
        self.luggage = pack()


class Mailbox:
    """Messages waiting for the actor ``name``, at most ``size`` of them, first in first out."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self._queue: deque[Envelope] = deque()
        # Writers wait only while the queue is full: every removal admits the first in line, so nobody overtakes.
        self._line: OrderedDict[trio.lowlevel.Task, Envelope] = OrderedDict()
        self._reader: trio.lowlevel.Task | None = None
        self.sealed = False
        self._interrupted = False
        self.resize(size)

    def __len__(self) -> int:
        return len(self._queue)

    def put_nowait(self, envelope: Envelope) -> None:
        """Add a message or raise at once.

        Raises:
            MailboxFull: no room.
            ActorStoppedError: the actor takes no more messages.
        """
        if self.sealed:
            raise self._stopped(envelope.message)
        if len(self._queue) >= self.size:
            raise MailboxFull(f"the mailbox of {self.name!r} is full ({self.size} messages)", message=envelope.message)
        self._append(envelope)

    async def put(self, envelope: Envelope) -> None:
        """Add a message, waiting in line while there is no room; the caller sets the deadline.

        Raises:
            ActorStoppedError: the actor takes no more messages.
        """
        if self.sealed:
            raise self._stopped(envelope.message)
        if len(self._queue) < self.size:
            self._append(envelope)
            return
        task = trio.lowlevel.current_task()
        self._line[task] = envelope

        def leave(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._line[task]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def take_back(self, envelope: Envelope) -> None:
        """Remove a message that nobody wants handled any more, if it is still waiting."""
        try:
            self._queue.remove(envelope)
        except ValueError:
            return
        self._admit()

    async def get(self) -> Envelope | None:
        """The next message; None when interrupted, or sealed and empty. Cancelled, it loses nothing."""
        if self._queue:
            await trio.lowlevel.checkpoint()
        while not self._interrupted:
            if self._queue:
                envelope = self._queue.popleft()
                self._admit()
                return envelope
            if self.sealed:
                return None
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._on_reader_cancelled)
        return None

    def resize(self, size: int) -> None:
        """Hold at most ``size`` messages from now on; more that already wait stay."""
        if size < 1:
            raise ValueError(f"the mailbox of {self.name!r} must hold at least one message, not {size}")
        self.size = size
        while self._line and len(self._queue) < size:
            self._admit()

    def open_reading(self) -> None:
        """A new incarnation reads, and messages are taken again if an earlier one had ended for good."""
        self.sealed = False
        self._interrupted = False

    def interrupt(self) -> None:
        """Let ``get`` return None although messages wait; they stay for the next incarnation."""
        self._interrupted = True
        self._wake_reader()

    def seal(self) -> None:
        """Take nothing new. What already waits can still be read."""
        self.sealed = True
        for task, envelope in self._line.items():
            # A writer in line has not been accepted: its call fails, and it finds that when it comes to wait.
            if envelope.call is not None:
                envelope.call.fail(self._stopped(envelope.message))
            trio.lowlevel.reschedule(task)
        self._line.clear()
        self._wake_reader()

    def close(self) -> int:
        """Take nothing new and give up what waits: askers learn it. Returns how many told messages were dropped."""
        self.seal()
        dropped = 0
        while self._queue:
            envelope = self._queue.popleft()
            if envelope.call is None:
                dropped += 1
            else:
                envelope.call.fail(self._stopped(envelope.message))
        return dropped

    def _append(self, envelope: Envelope) -> None:
        self._queue.append(envelope)
        if self._reader is not None:
            self._wake_reader()

    def _admit(self) -> None:
        if self._line and len(self._queue) < self.size:
            task, envelope = self._line.popitem(last=False)
            self._append(envelope)
            trio.lowlevel.reschedule(task)

    def _wake_reader(self) -> None:
        if self._reader is not None:
            trio.lowlevel.reschedule(self._reader)
            self._reader = None

    def _on_reader_cancelled(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _stopped(self, message: object) -> ActorStoppedError:
        return ActorStoppedError(f"the actor {self.name!r} has stopped", message=message)
