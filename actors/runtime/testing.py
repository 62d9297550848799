"""Faults on purpose: make an actor crash, stall, lose or repeat messages, to test what relies on it.

    faults = Faults()
    spec = ChildSpec("registry", faults.inject(Registry))
    faults.crash(RegisterCluster)             # the next one, once
    faults.drop(HealthPing, times=3)          # the next three get no answer
    faults.delay(HealthPing, seconds=30)

Faults strike where the actor takes a message out of its mailbox, in the order they were planned, and survive
restarts. Together with ``trio.testing.MockClock`` even the long ones take no time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import trio

from actors.runtime.actor import NO_ANSWER, Actor, Delegated
from actors.runtime.events import LifecycleEvent, Subscription

Event = TypeVar("Event", bound=LifecycleEvent)


class InjectedCrash(Exception):
    """A crash that a test asked for. Seen anywhere else, fault injection was left in a running system."""


@dataclass
class _Fault:
    kind: Literal["crash", "delay", "drop", "duplicate"]
    message_type: type
    left: int
    seconds: float = 0.0


class Faults:
    """A plan of faults for the actors made by the factories it was injected into."""

    def __init__(self) -> None:
        self._planned: list[_Fault] = []

    def crash(self, message_type: type = object, *, times: int = 1) -> None:
        """Crash instead of handling the next ``times`` messages of this type."""
        self._planned.append(_Fault("crash", message_type, times))

    def delay(self, message_type: type = object, *, seconds: float, times: int = 1) -> None:
        """Wait before handling them, as a slow handler would; the mailbox waits behind."""
        self._planned.append(_Fault("delay", message_type, times, seconds))

    def drop(self, message_type: type = object, *, times: int = 1) -> None:
        """Do not handle them; askers wait for their deadline."""
        self._planned.append(_Fault("drop", message_type, times))

    def duplicate(self, message_type: type = object, *, times: int = 1) -> None:
        """Handle them twice; the asker gets the second answer."""
        self._planned.append(_Fault("duplicate", message_type, times))

    def inject(self, factory: Callable[[], Actor]) -> Callable[[], Actor]:
        """A factory of actors that suffer the planned faults."""

        def make() -> Actor:
            actor = factory()
            handle = actor.receive

            async def receive(message: Any) -> Any:
                return await self._suffer(actor, message, handle)

            actor.receive = receive  # type: ignore[method-assign]  # the one message path of this instance
            return actor

        return make

    async def _suffer(self, actor: Actor, message: object, handle: Callable[[Any], Awaitable[Any]]) -> Any:
        fault = self._next_for(message)
        match fault.kind if fault else None:
            case "crash":
                raise InjectedCrash(f"injected over {type(message).__name__}")
            case "drop":
                return NO_ANSWER
            case "delay":
                assert fault is not None
                await trio.sleep(fault.seconds)
            case "duplicate":
                first = await handle(message)
                if isinstance(first, Delegated):
                    actor.context.start_soon(_unheard, first)
        return await handle(message)

    def _next_for(self, message: object) -> _Fault | None:
        for fault in self._planned:
            if isinstance(message, fault.message_type):
                fault.left -= 1
                if fault.left == 0:
                    self._planned.remove(fault)
                return fault
        return None


async def _unheard(work: Delegated) -> None:
    """Do what was delegated, for nobody."""
    with contextlib.suppress(Exception):
        await work.task(*work.args)


async def next_event(events: Subscription, kind: type[Event], name: str | None = None) -> Event:
    """The next event of ``kind`` (about the actor ``name``), passing over others. Set a deadline around it.

    Raises:
        trio.EndOfChannel: the tree ended first.
    """
    while True:
        event = await events.receive()
        if isinstance(event, kind) and name in (None, event.name):
            return event
