"""A supervisor at work: it starts its children, hears of their ends and decides what is started again.

Every child runs in a task of its own, shielded from cancellation from outside, because it is the supervisor that
passes a cancellation on: to one child at a time, the last one first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from actors.runtime.clock import Clock
from actors.runtime.errors import RestartIntensityExceeded
from actors.runtime.events import ActorRestarting, EventStream, SupervisorEscalated
from actors.runtime.policy import Restart, Strategy, Supervisor


class Child(Protocol):
    """What a supervisor keeps: an actor's cell, or another supervisor at work."""

    name: str
    restart: Restart

    async def run(self, on_started: Callable[[], None]) -> Exception | None:
        """Run from start to end; return what crashed it, None after a normal end."""
        ...

    def drain(self) -> None:
        """Finish what has been accepted, then let ``run`` return. Never undone."""
        ...

    def close(self) -> None:
        """``run`` will not be called again."""
        ...


class _Slot:
    """A child and where it stands."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.scope: trio.CancelScope | None = None  # set while the child runs; cancelling it ends the child
        self.ended = trio.Event()
        self.up = trio.Event()  # set while the child is up, and when it is never to be started again
        self.up_since = math.inf
        self.finished = False
        self.to_judge = False  # the child ended by itself, with ``error`` or None, and nothing is decided yet
        self.error: Exception | None = None
        self.attempts = 0

    @property
    def running(self) -> bool:
        return self.scope is not None

    def finish(self) -> None:
        """Never start the child again."""
        self.finished = True
        self.child.close()
        self.up.set()


class Supervision:
    """Runs a :class:`Supervisor`, again and again if its parent restarts it."""

    restart = Restart.PERMANENT

    def __init__(self, spec: Supervisor, children: Sequence[Child], clock: Clock, events: EventStream) -> None:
        self.name = spec.name
        self._spec = spec
        self._children = children
        self._clock = clock
        self._events = events
        self._slots: list[_Slot] = []
        self._restarts: deque[float] = deque()
        self._wake = trio.Event()
        self._draining = False
        self._halting = False
        self._starting = trio.CancelScope()
        self._on_started: Callable[[], None] | None = None

    def drain(self) -> None:
        """Drain the children one after another, the last one first, then end."""
        self._draining = True
        self._wake.set()

    def close(self) -> None:
        """Close all children, which ends whatever waits in their mailboxes."""
        for child in self._children:
            child.close()

    async def run(self, on_started: Callable[[], None]) -> Exception | None:
        """Keep the children until drained, or until restarting them does not help.

        Args:
            on_started: called when every child has started.

        Returns:
            None when drained, else the RestartIntensityExceeded to escalate. Either way no child is left running.
        """
        self._slots = [_Slot(child) for child in self._children]
        self._restarts.clear()
        self._halting = False
        self._on_started = on_started
        async with trio.open_nursery() as nursery:
            try:
                self._start_in_order(nursery, self._slots, 0.0)
                error = await self._watch(nursery)
                if error is None:
                    await self._stop_all(drain=True)
            finally:
                with trio.CancelScope(shield=True):
                    await self._stop_all(drain=False)
                nursery.cancel_scope.cancel()
        return error

    async def _watch(self, nursery: trio.Nursery) -> Exception | None:
        while not self._draining:
            await self._wake.wait()
            self._wake = trio.Event()
            for slot in self._slots:
                if slot.to_judge and not self._draining:
                    error = await self._judge(slot, nursery)
                    if error is not None:
                        return error
        return None

    async def _judge(self, slot: _Slot, nursery: trio.Nursery) -> Exception | None:
        """Decide about a child that ended by itself; an exception means to escalate."""
        slot.to_judge = False
        if not slot.child.restart.after(slot.error):
            slot.finish()
            self._report_started()
            return None
        now = self._clock.now()
        if not self._may_restart(now):
            return self._escalate(slot, now)
        if now - slot.up_since > self._spec.intensity.within:
            slot.attempts = 0
        slot.attempts += 1
        delay = self._spec.backoff.delay(slot.attempts)
        self._events.publish(ActorRestarting(slot.child.name, now, delay, slot.attempts))
        group = await self._stop_group(slot)
        self._start_in_order(nursery, group, delay)
        return None

    def _may_restart(self, now: float) -> bool:
        limit = self._spec.intensity
        while self._restarts and now - self._restarts[0] > limit.within:
            self._restarts.popleft()
        if len(self._restarts) >= limit.restarts:
            return False
        self._restarts.append(now)
        return True

    def _escalate(self, slot: _Slot, now: float) -> RestartIntensityExceeded:
        limit = self._spec.intensity
        why = "ended" if slot.error is None else f"crashed ({slot.error!r})"
        error = RestartIntensityExceeded(
            f"supervisor {self.name!r} gave up: {slot.child.name!r} {why} after {limit.restarts} restarts "
            f"within {limit.within:g} s"
        )
        error.__cause__ = slot.error
        self._events.publish(SupervisorEscalated(self.name, now, slot.error or error))
        return error

    async def _stop_group(self, slot: _Slot) -> list[_Slot]:
        """Stop whatever the strategy restarts together with ``slot``; return what is to be started, in order."""
        if self._spec.strategy is Strategy.ONE_FOR_ONE:
            return [slot]
        # A start under way would go on starting what is about to be stopped; the new one takes over its rest.
        self._starting.cancel()
        first = 0 if self._spec.strategy is Strategy.ONE_FOR_ALL else self._slots.index(slot)
        group = self._slots[first:]
        for other in reversed(group):
            was_running = other.running
            await self._stop(other, drain=False)
            stays_down = was_running and other.child.restart is Restart.TEMPORARY
            ended_for_good = other.to_judge and not other.child.restart.after(other.error)
            other.to_judge = False
            if stays_down or ended_for_good:
                other.finish()
        return [other for other in group if not other.finished]

    def _start_in_order(self, nursery: trio.Nursery, slots: Sequence[_Slot], delay: float) -> None:
        self._starting = trio.CancelScope()
        nursery.start_soon(self._start, nursery, slots, delay, self._starting)

    async def _start(
        self, nursery: trio.Nursery, slots: Sequence[_Slot], delay: float, scope: trio.CancelScope
    ) -> None:
        with scope:
            await self._clock.sleep(delay)
            for slot in slots:
                # Cancelled just as its wait ended, this task runs on to the next checkpoint: it must start nothing.
                if self._halting or scope.cancel_called:
                    return
                slot.scope = trio.CancelScope(shield=True)
                slot.ended = trio.Event()
                slot.up_since = math.inf
                nursery.start_soon(self._run, slot, slot.scope)
                # A child that crashes in on_start is judged and started again; the next one waits for its success.
                await slot.up.wait()
            self._report_started()

    def _report_started(self) -> None:
        if self._on_started is not None and all(slot.up.is_set() for slot in self._slots):
            self._on_started()
            self._on_started = None

    async def _run(self, slot: _Slot, scope: trio.CancelScope) -> None:
        def up() -> None:
            slot.up_since = self._clock.now()
            slot.up.set()

        slot.error = None
        try:
            with scope:
                slot.error = await slot.child.run(up)
        finally:
            if slot.up.is_set():
                slot.up = trio.Event()
            slot.to_judge = not scope.cancel_called
            slot.scope = None
            slot.ended.set()
            self._wake.set()

    async def _stop(self, slot: _Slot, *, drain: bool) -> None:
        if slot.scope is None:
            return
        if drain:
            slot.child.drain()
        else:
            slot.scope.cancel()
        await slot.ended.wait()

    async def _stop_all(self, *, drain: bool) -> None:
        self._halting = True
        for slot in reversed(self._slots):
            await self._stop(slot, drain=drain)
