"""Lifecycle events: what happens to actors, told to whoever subscribes, for tests, metrics and logs.

Every incarnation of an actor begins with at most one ``ActorStarted`` and ends with exactly one ``ActorStopped``
or ``ActorCrashed``. Publishing never waits: a subscriber that lags loses its oldest events and can see how many.
Events go to the logger ``actors.runtime`` as well, so that a crash is seen where nobody subscribes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import trio

_log = logging.getLogger("actors.runtime")


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """Base of all events.

    Attributes:
        name: of the actor or supervisor it happened to.
        at: seconds on the tree's clock.
    """

    name: str
    at: float


@dataclass(frozen=True, slots=True)
class ActorStarted(LifecycleEvent):
    """``on_start`` returned; messages are handled from now on. ``incarnation`` counts from 1."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class ActorStopped(LifecycleEvent):
    """An incarnation ended without an error: ``normal`` by its own wish, ``stopped`` by its supervisor's."""

    reason: Literal["normal", "stopped"]


@dataclass(frozen=True, slots=True)
class ActorCrashed(LifecycleEvent):
    """An incarnation ended by ``error``: out of a handler, a background task, ``on_start`` or ``on_stop``."""

    error: Exception


@dataclass(frozen=True, slots=True)
class ActorRestarting(LifecycleEvent):
    """A child is to be started again after ``delay`` seconds; ``attempt`` counts restarts in quick succession."""

    delay: float
    attempt: int


@dataclass(frozen=True, slots=True)
class SupervisorEscalated(LifecycleEvent):
    """A supervisor gave up because of ``error``, the last crash; its parent decides now."""

    error: Exception


@dataclass(frozen=True, slots=True)
class ErrorUnheard(LifecycleEvent):
    """A told message ended in an ``error`` that would have been an answer, had there been an asker."""

    error: Exception


@dataclass(frozen=True, slots=True)
class MessagesDropped(LifecycleEvent):
    """An actor stopped for good while ``count`` told messages waited."""

    count: int


class Subscription(trio.abc.ReceiveChannel[LifecycleEvent]):
    """Events from the moment of subscribing, oldest first; iterate over it, and close it when done.

    Attributes:
        dropped: events lost so far because this subscriber lagged behind.
    """

    def __init__(self, size: int) -> None:
        self._send, self._receive = trio.open_memory_channel[LifecycleEvent](size)
        self.dropped = 0

    async def receive(self) -> LifecycleEvent:
        """The next event, waiting for it. Raises ``trio.EndOfChannel`` when the tree has ended."""
        return await self._receive.receive()

    def receive_nowait(self) -> LifecycleEvent:
        """The next event, or ``trio.WouldBlock``."""
        return self._receive.receive_nowait()

    def close(self) -> None:
        """Unsubscribe."""
        self._receive.close()

    async def aclose(self) -> None:
        """Unsubscribe."""
        await self._receive.aclose()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _offer(self, event: LifecycleEvent) -> bool:
        """Hand over an event, in place of the oldest if need be; False when the subscriber has gone."""
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self._receive.receive_nowait()
            self.dropped += 1
            self._send.send_nowait(event)
        except trio.BrokenResourceError:
            return False
        return True

    def _end(self) -> None:
        self._send.close()


class EventStream:
    """Where the actors of a tree publish and others subscribe."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._ended = False

    def subscribe(self, size: int = 256) -> Subscription:
        """Receive every event from now on, keeping at most ``size`` that have not been read.

        256 covers the start of a large tree between two reads. After the tree has ended the subscription is empty.
        """
        if size < 1:
            raise ValueError(f"a subscription holds at least one event, not {size}")
        subscription = Subscription(size)
        if self._ended:
            subscription._end()
        else:
            self._subscriptions.append(subscription)
        return subscription

    def publish(self, event: LifecycleEvent) -> None:
        """Hand ``event`` to all subscribers and the log. Never waits and never fails."""
        _record(event)
        self._subscriptions = [subscription for subscription in self._subscriptions if subscription._offer(event)]

    def end(self) -> None:
        """Let subscribers read what they have and then see the end."""
        self._ended = True
        for subscription in self._subscriptions:
            subscription._end()
        self._subscriptions.clear()


def _record(event: LifecycleEvent) -> None:
    match event:
        case ActorCrashed(name=name, error=error):
            _log.error("actor %s crashed: %r", name, error, exc_info=error)
        case SupervisorEscalated(name=name, error=error):
            _log.error("supervisor %s gave up after %r", name, error)
        case ErrorUnheard(name=name, error=error):
            _log.warning("actor %s had nobody to tell of %r", name, error, exc_info=error)
        case ActorRestarting(name=name, delay=delay, attempt=attempt):
            _log.warning("restarting %s in %.2f s (attempt %d)", name, delay, attempt)
        case MessagesDropped(name=name, count=count):
            _log.warning("actor %s stopped with %d messages waiting", name, count)
        case _:
            _log.debug("%r", event)
