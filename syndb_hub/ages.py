"""How old kept things are, by a clock that only goes forward: whoever sets the machine's makes nothing expire."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID


class Ages:
    """Ages of what a daemon keeps. What an earlier run has left is as old as its date says, when it is first seen.

    Args:
        now: the machine's clock.
        clock: seconds that never go back; replaceable in tests.
    """

    def __init__(self, now: Callable[[], datetime], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._clock = clock
        self._since: dict[UUID, float] = {}

    def begin(self, each: UUID) -> None:
        """It is new."""
        self._since[each] = self._clock()

    def of(self, each: UUID, date: datetime) -> timedelta:
        """How old it is; ``date`` counts if nothing else is known."""
        stated = max(timedelta(0), self._now() - date).total_seconds()
        return timedelta(seconds=self._clock() - self._since.setdefault(each, self._clock() - stated))

    def forget(self, gone: UUID) -> None:
        """It is not kept any more."""
        self._since.pop(gone, None)
