"""How children are kept alive: what is started, when it is started again, and when a supervisor gives up."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from actors.runtime.actor import Actor

# Jitter keeps many trees from restarting in step; it needs no seed, since nothing else depends on it.
_RANDOM = random.SystemRandom()


class Restart(Enum):
    """Which ends of a child are followed by a restart. See the table in :mod:`actors.runtime`."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"

    def after(self, error: Exception | None) -> bool:
        """Whether a child that ended by itself, with ``error`` or normally (None), is started again."""
        return self is Restart.PERMANENT or (self is Restart.TRANSIENT and error is not None)


class Strategy(Enum):
    """Which children are restarted together with the one that ended."""

    ONE_FOR_ONE = "one_for_one"
    """Only itself: children that do not rely on each other."""
    ONE_FOR_ALL = "one_for_all"
    """All: children that hold parts of one state."""
    REST_FOR_ONE = "rest_for_one"
    """Those after it in the list: each child relies on earlier ones."""


@dataclass(frozen=True, slots=True)
class Intensity:
    """How many restarts a supervisor grants its children together before it escalates.

    Attributes:
        restarts: restarts allowed; 0 escalates at the first.
        within: seconds over which they are counted. Five in ten seconds outlive a short outage with the default
            backoff, and end a crash loop after about two seconds.
    """

    restarts: int = 5
    within: float = 10.0

    def __post_init__(self) -> None:
        if self.restarts < 0 or self.within <= 0:
            raise ValueError(f"an intensity needs restarts >= 0 and within > 0, not {self}")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait before a restart: ``initial * factor ** n``, at most ``maximum``, spread by ``jitter``.

    ``n`` counts the restarts of one child in quick succession; it begins again once the child has stayed up for
    the supervisor's ``Intensity.within``. A jitter of 0.2 multiplies by a random number from 0.8 to 1.2.
    """

    initial: float = 0.05
    factor: float = 2.0
    maximum: float = 5.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if self.initial < 0 or self.factor < 1 or self.maximum < self.initial or not 0 <= self.jitter <= 1:
            raise ValueError(f"a backoff needs 0 <= initial <= maximum, factor >= 1, 0 <= jitter <= 1, not {self}")

    def delay(self, attempt: int) -> float:
        """Seconds before restart number ``attempt``, counted from 1."""
        # Beyond 64 doublings only overflow would be new.
        unspread = min(self.maximum, self.initial * self.factor ** min(attempt - 1, 64))
        return unspread * _RANDOM.uniform(1 - self.jitter, 1 + self.jitter)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """An actor to be kept: its name, how to make a fresh instance of it, and when to restart it."""

    name: str
    factory: Callable[[], Actor]
    restart: Restart = Restart.PERMANENT


@dataclass(frozen=True)
class Supervisor:
    """Children started in order and stopped in reverse order, restarted by ``strategy``.

    A supervisor among the children is restarted like a PERMANENT child when it escalates.

    Raises:
        ValueError: a name occurs twice in the tree.
    """

    name: str
    children: Sequence[ChildSpec | Supervisor] = ()
    strategy: Strategy = Strategy.ONE_FOR_ONE
    intensity: Intensity = Intensity()
    backoff: Backoff = Backoff()

    def __post_init__(self) -> None:
        object.__setattr__(self, "children", tuple(self.children))
        seen: set[str] = set()
        for name in self.names():
            if name in seen:
                raise ValueError(f"two children of {self.name!r} are named {name!r}; names are addresses")
            seen.add(name)

    def names(self) -> Iterator[str]:
        """The names of this supervisor and of everything below it."""
        yield self.name
        for child in self.children:
            if isinstance(child, Supervisor):
                yield from child.names()
            else:
                yield child.name
