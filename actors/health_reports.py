"""On the way from the health monitor to the registry: what changed at once, the rest gathered for a moment.

A change of health is handed over exactly once as long as the registry answers; if it fails, what it did not confirm is
sent again. Nobody waits for it but those who ask (:meth:`HealthReports.delivered`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog
import trio

from actors.health import HealthObservations, HealthObserved
from actors.runtime import ActorError
from syndb_common.errors import SynDBError

log = structlog.get_logger(__name__)

GATHER_SECONDS = 1.0
"""What is no change of health waits so long for others: many nodes cost the registry one message."""
AGAIN_SECONDS = 0.5
MOST_PER_NODE = 32
"""Of one node's changes that the registry does not take, the latest so many are kept."""


class HealthReports:
    """Observations waiting for the registry.

    Args:
        send: hands a batch over, and returns once it has taken effect.
    """

    def __init__(self, send: Callable[[HealthObservations], Awaitable[object]]) -> None:
        self._send = send
        self._waiting: dict[UUID, list[HealthObserved]] = {}
        self._added = 0
        self._taken = 0
        self._something = trio.Event()
        self._urgent = trio.Event()
        self._progress = trio.Event()

    def add(self, observed: HealthObserved, *, urgent: bool) -> None:
        """Report this soon, ``urgent`` at once; of a node in one state only its first and last observation count."""
        waiting = self._waiting.setdefault(observed.cluster_id, [])
        if len(waiting) > 1 and waiting[-2].health is waiting[-1].health is observed.health:
            waiting.pop()
        waiting.append(observed)
        del waiting[:-MOST_PER_NODE]
        self._added += 1
        self._something.set()
        if urgent:
            self._urgent.set()

    async def delivered(self) -> None:
        """Return when the registry has what was added until now."""
        wanted = self._added
        while self._taken < wanted:
            self._urgent.set()
            await self._progress.wait()

    async def run(self) -> None:
        """Hand over what is added, batch by batch, for ever."""
        while True:
            await self._something.wait()
            with trio.move_on_after(GATHER_SECONDS):
                await self._urgent.wait()
            self._something, self._urgent = trio.Event(), trio.Event()
            batch, self._waiting = self._waiting, {}
            added = self._added
            await self._hand_over(HealthObservations(tuple(one for each in batch.values() for one in each)))
            self._taken = added
            self._progress.set()
            self._progress = trio.Event()

    async def _hand_over(self, observations: HealthObservations) -> None:
        while True:
            try:
                await self._send(observations)
            except (SynDBError, ActorError) as error:
                log.warning("observations not taken, sent again", cause=str(error))
                await trio.sleep(AGAIN_SECONDS)
            else:
                return
