"""One actor under supervision: its mailbox and reference, which last, and its incarnations, which come and go."""

from __future__ import annotations

from collections.abc import Callable

import trio

from actors.runtime.actor import NO_ANSWER, Actor, Context, Delegated, Directory
from actors.runtime.carried import unpack
from actors.runtime.clock import Clock
from actors.runtime.errors import (
    ActorCrashedError,
    ActorStoppedError,
    MailboxFull,
    StopTimeout,
    UnhandledMessage,
    split_error,
    unwrap,
)
from actors.runtime.events import (
    ActorCrashed,
    ActorStarted,
    ActorStopped,
    ErrorUnheard,
    EventStream,
    MessagesDropped,
)
from actors.runtime.mailbox import Envelope, Mailbox
from actors.runtime.policy import ChildSpec
from actors.runtime.ref import LocalRef


class ActorCell:
    """Runs the incarnations of one child, one at a time, as its supervisor says."""

    def __init__(self, spec: ChildSpec, directory: Directory, clock: Clock, events: EventStream) -> None:
        self.name = spec.name
        self.restart = spec.restart
        self._factory = spec.factory
        self._mailbox = Mailbox(spec.name, Actor.mailbox_size)
        self.ref = LocalRef(self._mailbox)
        self._directory = directory
        self._clock = clock
        self._events = events
        self._incarnations = 0
        # Calls taken from the mailbox and not settled yet: those of delegated tasks, and the current one.
        self._delegated: set[Envelope] = set()
        self._current: Envelope | None = None

    def drain(self) -> None:
        """Take no more messages, answer those that wait, then end."""
        self._mailbox.seal()

    def close(self) -> None:
        """The actor will not run again."""
        if dropped := self._mailbox.close():
            self._events.publish(MessagesDropped(self.name, self._clock.now(), dropped))

    async def run(self, on_started: Callable[[], None]) -> Exception | None:
        """Live through one incarnation.

        Args:
            on_started: called when ``on_start`` has returned.

        Returns:
            None after a normal end, else the exception that crashed the actor. Cancellation and exceptions that
            are no errors, such as KeyboardInterrupt, are raised again after ``on_stop``.
        """
        self._mailbox.open_reading()
        self._incarnations += 1
        error: Exception | None = None
        passing: BaseException | None = None
        actor: Actor | None = None
        started = False

        def start_done() -> None:
            nonlocal started
            started = True
            self._events.publish(ActorStarted(self.name, self._clock.now(), self._incarnations))
            on_started()

        try:
            actor = self._factory()
            self._mailbox.resize(actor.mailbox_size)
            actor.context = Context(self._mailbox, self.ref, self._directory, self._clock, self._events)
            await self._live(actor, start_done)
        except BaseException as raised:
            error, passing = split_error(raised)
        self._settle_open_calls(error)
        if actor is not None and started:
            error = await self._stop(actor, error)
        if error is not None:
            self._events.publish(ActorCrashed(self.name, self._clock.now(), error))
        else:
            ended_itself = passing is None and not self._mailbox.sealed
            self._events.publish(ActorStopped(self.name, self._clock.now(), "normal" if ended_itself else "stopped"))
        if passing is not None:
            raise passing
        return error

    async def _live(self, actor: Actor, start_done: Callable[[], None]) -> None:
        async with trio.open_nursery() as background:
            actor.context._nursery = background
            with trio.fail_after(actor.start_timeout):
                await actor.on_start()
            start_done()
            async with trio.open_nursery() as delegates:
                await self._serve(actor, delegates)
            background.cancel_scope.cancel()

    async def _serve(self, actor: Actor, delegates: trio.Nursery) -> None:
        mailbox, context, receive = self._mailbox, actor.context, actor.receive
        while (envelope := await mailbox.get()) is not None:
            call = envelope.call
            if call is not None:
                # Its asker is about to time out; executing now would surprise it.
                if trio.current_time() >= call.deadline:
                    continue
                call.begun = True
            self._current = envelope
            context.sender = envelope.sender
            if envelope.luggage:
                unpack(envelope.luggage)
            try:
                answer = await receive(envelope.message)
            except Exception as raised:
                error = unwrap(raised)
                if not (isinstance(error, actor.expected) or _is_unhandled(error, envelope)):
                    raise
                self._fail(envelope, error)
            else:
                if type(answer) is Delegated:
                    self._delegate(actor, delegates, answer, envelope)
                elif call is not None and answer is not NO_ANSWER:
                    call.answer(answer)
            self._current = None

    def _delegate(self, actor: Actor, delegates: trio.Nursery, work: Delegated, envelope: Envelope) -> None:
        if len(self._delegated) >= actor.max_delegates:
            text = f"{self.name!r} already has {actor.max_delegates} delegated tasks"
            self._fail(envelope, MailboxFull(text, message=envelope.message))
            return
        self._delegated.add(envelope)
        delegates.start_soon(self._run_delegated, work, envelope)

    async def _run_delegated(self, work: Delegated, envelope: Envelope) -> None:
        call = envelope.call
        with trio.CancelScope() as scope:
            if call is not None:
                if call.settled:
                    scope.cancel()
                call.on_abandoned = scope.cancel
            try:
                value = await work.task(*work.args)
            except BaseException as raised:
                error, passing = split_error(raised)
                if error is not None:
                    self._fail(envelope, error)
                if passing is not None:
                    raise passing from None
            else:
                if call is not None:
                    call.answer(value)
        self._delegated.discard(envelope)

    def _fail(self, envelope: Envelope, error: Exception) -> None:
        if envelope.call is not None:
            envelope.call.fail(error)
        else:
            self._events.publish(ErrorUnheard(self.name, self._clock.now(), error))

    def _settle_open_calls(self, cause: Exception | None) -> None:
        cut_off = [*self._delegated] if self._current is None else [*self._delegated, self._current]
        self._delegated.clear()
        self._current = None
        for envelope in cut_off:
            if envelope.call is None:
                continue
            if cause is None:
                envelope.call.fail(ActorStoppedError(f"the actor {self.name!r} stopped before it answered"))
            else:
                crashed = ActorCrashedError(f"the actor {self.name!r} crashed: {cause!r}")
                crashed.__cause__ = cause
                envelope.call.fail(crashed)

    async def _stop(self, actor: Actor, error: Exception | None) -> Exception | None:
        try:
            with trio.move_on_after(actor.stop_timeout, shield=True) as scope:
                await actor.on_stop()
            if not scope.cancelled_caught:
                return error
            stop_error: Exception = StopTimeout(f"on_stop of {self.name!r} took longer than {actor.stop_timeout:g} s")
        except Exception as raised:
            stop_error = unwrap(raised)
        if error is None:
            return stop_error
        error.add_note(f"then on_stop failed: {stop_error!r}")
        return error


def _is_unhandled(error: Exception, envelope: Envelope) -> bool:
    return isinstance(error, UnhandledMessage) and error.message is envelope.message
