"""A long-running part as an actor: an engine process, a network host, an HTTP server.

The part is a coroutine function that reports when it works and then runs until cancelled. When it ends or raises,
the actor crashes and its supervisor starts a fresh one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar

import structlog
import trio

from actors.runtime import Actor, Backoff, ChildSpec
from syndb_common.errors import Unavailable
from syndb_common.metrics import ACTOR_EVENTS

log = structlog.get_logger(__name__)

Run = Callable[..., object]
"""``async def run(*, task_status)``: calls ``task_status.started()`` once it works, then runs until cancelled."""
AGAIN = Backoff(initial=1.0, maximum=60.0)
"""Pauses between two attempts of a part that can be done without."""


class Service(Actor):
    """Keeps one long-running part alive; takes no messages.

    Args:
        run: the part.
        start_seconds: how long it may take until it works; beyond that the start counts as failed. The default is
            more than any part allows itself, so that a part says why it does not start; at most ``start_timeout``.
    """

    start_timeout: ClassVar[float] = 120.0

    def __init__(self, run: Run, *, start_seconds: float = 90.0) -> None:
        self._run = run
        self._start_seconds = start_seconds

    async def on_start(self) -> None:
        """Start the part and wait until it works.

        Raises:
            Unavailable: it did not in time.
        """
        started = _Started()
        self.context.start_soon(self._serve, started)
        with trio.move_on_after(self._start_seconds):
            await started.event.wait()
            return
        raise Unavailable(f"{self.context.name} did not work within {self._start_seconds:g} seconds of its start")

    async def _serve(self, started: _Started) -> None:
        await self._run(task_status=started)  # type: ignore[misc]
        raise Unavailable(f"{self.context.name} ended by itself")


class Dispensable(Actor):
    """Keeps a part alive that the daemon does without while it fails; takes no messages.

    Nobody waits for it at the start, and it never crashes: a part that fails again and again is tried again for ever,
    at last once a minute. Each failure is logged and counted.

    Args:
        run: the part.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    async def on_start(self) -> None:
        """Start the part."""
        self.context.start_soon(self._keep)

    async def _keep(self) -> None:
        failures = 0
        while True:
            began = trio.current_time()
            cause = "ended by itself"
            try:
                await self._run(task_status=trio.TASK_STATUS_IGNORED)  # type: ignore[misc]
            except Exception as error:
                log.exception("part failed", part=self.context.name)
                cause = repr(error)
            ACTOR_EVENTS.labels(self.context.name, "crashed").inc()
            failures = 1 if trio.current_time() - began > AGAIN.maximum else failures + 1
            pause = AGAIN.delay(failures)
            log.warning("the daemon goes on without a part", part=self.context.name, cause=cause, again_in=round(pause))
            await trio.sleep(pause)


def dispensable(**parts: Run | None) -> Iterator[ChildSpec]:
    """A child under its name for each part that the daemon can do without, but for those that are not configured."""
    for name, run in parts.items():
        if run is not None:
            yield ChildSpec(name, partial(Dispensable, run))


class _Started:
    """A task status that sets an event: the actor waits for it without holding a nursery open."""

    def __init__(self) -> None:
        self.event = trio.Event()

    def started(self, value: object = None) -> None:
        """Called by the part when it works."""
        self.event.set()
