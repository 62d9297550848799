"""Time as the runtime sees it: restart intensity, backoff and the times in events come from one clock."""

from __future__ import annotations

from typing import Protocol

import trio


class Clock(Protocol):
    """A monotonic clock in seconds. Deadlines of ``ask``, start and stop are cancel scopes and stay on trio's clock."""

    def now(self) -> float:
        """Seconds since an arbitrary start."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long; a checkpoint."""
        ...


class TrioClock:
    """The clock of the running trio loop, hence ``trio.testing.MockClock`` in tests."""

    def now(self) -> float:
        """Seconds on trio's clock."""
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        """Wait on trio's clock."""
        await trio.sleep(seconds)
