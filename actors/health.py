"""How a node feels, as a table of states with hysteresis: a pure function of what was seen, and when.

| before | good answer | slow answer | definite trouble | missed ping |
|---|---|---|---|---|
| unknown | healthy | degraded | degraded | unknown; N in a row: unreachable |
| healthy | healthy | healthy; ``degraded_after``: degraded | degraded | healthy; N in a row: unreachable |
| degraded | degraded; ``healthy_after`` in a row: healthy | degraded | degraded | degraded; N in a row: unreachable |
| degraded, on trial | the same | degraded | degraded | unreachable |
| unreachable | degraded, on trial | degraded, on trial | degraded, on trial | unreachable |

N is ``unreachable_after``. *Definite trouble* is what chance does not explain: an engine that is down, a schema that
differs, a clock that is wrong. Slow answers and missed pings count together towards ``degraded_after``, a row of missed
pings once, until ``healthy_after`` good answers in a row end the series: a node that misses every second ping is no
healthy one.

The states are a circuit breaker too. Closed: ``healthy`` and ``degraded`` nodes are asked. Open: an ``unreachable``
node gets no queries, and pings at growing pauses. Half open: one answer puts it *on trial*, asked last, until it has
given ``healthy_after`` answers in a row; a missed ping before that opens the circuit again at once.

A node lost ``flap_limit`` times within ``flap_window`` is *flapping*: when it answers it stays degraded until it has
answered for ``flap_hold`` without a break. Being lost for the first time since the hub started is no flap.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from uuid import UUID

from actors.directory import Health
from syndb_common.messages import HealthReport

CAUSE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """When a node counts as slow or gone. Seconds; the reasons stand at the hub's settings of these names.

    A *cycle* is ``interval + timeout``: in that time every node was asked once, those included that do not answer.
    A node that is gone is known to be within two: at worst ``interval + timeout + 2 * (retry + retry_timeout)``.

    Attributes:
        interval: from an answer to the next ping; jitter only makes it shorter.
        retry: from a missed ping to the next one, and between pings of a node on trial.
        retry_timeout: patience with a node that has just missed a ping; above ``degraded_latency``, so that a node
            that is merely slow is not taken for dead.
        longest_pause: between pings of an unreachable node, whose pauses double from ``retry``: short enough that one
            that is back and does not say so is found within seconds, long enough that the dead cost little.
    """

    interval: float = 2.0
    timeout: float = 2.0
    retry: float = 0.5
    retry_timeout: float = 1.5
    longest_pause: float = 5.0
    degraded_latency: float = 1.0
    degraded_after: int = 2
    healthy_after: int = 2
    unreachable_after: int = 3
    max_clock_skew: float = 30.0
    flap_limit: int = 5
    flap_window: float = 600.0
    flap_hold: float = 120.0

    @property
    def cycle(self) -> float:
        """Seconds in which every node was asked once."""
        return self.interval + self.timeout


@dataclass(frozen=True, slots=True)
class Answered:
    """A ping was answered; what is wrong all the same, in words an operator can act on."""

    definite: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Missed:
    """A ping was not answered, and why."""

    cause: str


Outcome = Answered | Missed


class Circuit(Enum):
    """Whether queries go to a node; the module's docstring says more."""

    CLOSED = "closed"
    HALF_OPEN = "half open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """The state of one node. Times are of one monotonic clock.

    Attributes:
        cause: why it is not healthy, or what was unusual; empty otherwise.
        failures: missed pings in a row.
        troubled: slow answers and rows of missed pings since the last series of good answers, up to the limit.
        answered: answers in a row, up to ``healthy_after``.
        good: good ones among these, in a row.
        trial: whether it was unreachable and has not answered often enough since.
        reachable_since: since when it answers every ping.
        lost: when it became unreachable, the latest few within the window.
        flapping: whether it is held back.
    """

    health: Health = Health.UNKNOWN
    cause: str = "not checked yet"
    failures: int = 0
    troubled: int = 0
    answered: int = 0
    good: int = 0
    trial: bool = False
    reachable_since: float | None = None
    lost: tuple[float, ...] = ()
    flapping: bool = False

    @property
    def circuit(self) -> Circuit:
        """What the state means for queries; a node never heard of gets none either."""
        if not self.health.routable:
            return Circuit.OPEN
        return Circuit.HALF_OPEN if self.trial else Circuit.CLOSED


def transition(state: NodeHealth, outcome: Outcome, policy: HealthPolicy, now: float) -> NodeHealth:
    """The state after one ping: the table above. Returns ``state`` itself when nothing changed."""
    if isinstance(outcome, Missed):
        return _missed(state, outcome, policy, now)
    return _answered(state, outcome, policy, now)


def _missed(state: NodeHealth, outcome: Missed, policy: HealthPolicy, now: float) -> NodeHealth:
    failures = state.failures + 1
    gone = state.health is Health.UNREACHABLE or state.trial or failures >= policy.unreachable_after
    troubled = state.troubled if state.failures else min(state.troubled + 1, policy.degraded_after)
    health, lost, flapping = state.health, state.lost, state.flapping
    if gone:
        if state.health.routable:
            lost = (*(at for at in lost if now - at < policy.flap_window), now)[-policy.flap_limit :]
            flapping = flapping or len(lost) >= policy.flap_limit
        health = Health.UNREACHABLE
    elif health is Health.HEALTHY and troubled >= policy.degraded_after:
        health = Health.DEGRADED
    return NodeHealth(
        health=health,
        cause=_cut(f"{failures} ping{'s' if failures > 1 else ''} not answered: {outcome.cause}"),
        failures=failures,
        troubled=troubled,
        lost=lost,
        flapping=flapping,
    )


def _answered(state: NodeHealth, outcome: Answered, policy: HealthPolicy, now: float) -> NodeHealth:
    wrong = outcome.definite + outcome.slow
    answered = min(state.answered + 1, policy.healthy_after)
    good = 0 if wrong else min(state.good + 1, policy.healthy_after)
    settled = good >= policy.healthy_after
    since = now if state.reachable_since is None else state.reachable_since
    after = replace(
        state,
        failures=0,
        troubled=min(state.troubled + 1, policy.degraded_after) if wrong else 0 if settled else state.troubled,
        answered=answered,
        good=good,
        trial=(state.trial or state.health is Health.UNREACHABLE) and answered < policy.healthy_after,
        reachable_since=since,
        lost=tuple(at for at in state.lost if now - at < policy.flap_window) if state.lost else (),
        flapping=state.flapping and now - since < policy.flap_hold,
    )
    health, causes = _health(state.health, outcome, after, policy)
    after = replace(after, health=health, cause=_cut("; ".join(causes)))
    return state if after == state else after


def _health(
    before: Health, outcome: Answered, after: NodeHealth, policy: HealthPolicy
) -> tuple[Health, tuple[str, ...]]:
    causes = outcome.definite + outcome.slow
    if after.flapping:
        causes += (
            f"flapping: lost {policy.flap_limit} times within {policy.flap_window:g} s; degraded until it has answered "
            f"for {policy.flap_hold:g} s",
        )
    if outcome.definite or after.flapping:
        return Health.DEGRADED, causes
    if outcome.slow:
        chance = before is Health.HEALTHY and after.troubled < policy.degraded_after
        return Health.HEALTHY if chance else Health.DEGRADED, causes
    if before in (Health.UNKNOWN, Health.HEALTHY) or after.good >= policy.healthy_after:
        return Health.HEALTHY, ()
    return Health.DEGRADED, (f"well again: {after.good} of {policy.healthy_after} good answers in a row",)


def judge(report: HealthReport, latency: float, skew: float, policy: HealthPolicy, *, schema_version: int) -> Answered:
    """What a report says about the node.

    Args:
        report: the node's.
        latency: seconds from question to answer.
        skew: the node's clock minus the middle of our request; half the latency may be the network's.
        policy: what is tolerated.
        schema_version: the hub's.
    """
    definite = []
    if report.engine not in ("ok", "busy"):
        definite.append(f"engine: {report.engine}")
    if abs(skew) - latency / 2 > policy.max_clock_skew:
        definite.append(
            f"clock: {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the hub's, at most "
            f"{policy.max_clock_skew:g} s are accepted; switch on time synchronisation (NTP) at the node, "
            "or at the hub if other nodes differ too"
        )
    if report.engine == "ok" and report.schema_version < schema_version:
        definite.append(f"behind: schema version {report.schema_version}, the hub has {schema_version}")
    if report.schema_version > schema_version:
        definite.append(f"ahead: schema version {report.schema_version}, the hub has {schema_version}; update the hub")
    slow = []
    if report.engine == "busy":
        slow.append("engine: busy")
    if latency > policy.degraded_latency:
        slow.append(f"answers take more than {policy.degraded_latency:g} s")
    return Answered(tuple(definite), tuple(slow))


def pause(state: NodeHealth, policy: HealthPolicy, chance: float) -> float:
    """Seconds until the next ping. ``chance``, 0 to 1, is the jitter that keeps nodes from being asked in step."""
    if state.health is Health.UNREACHABLE:
        doublings = min(max(state.failures - policy.unreachable_after, 0), 16)
        return min(policy.retry * 2.0**doublings, policy.longest_pause) * (0.5 + chance / 2)
    if state.failures or state.trial:
        return policy.retry * (0.5 + chance / 2)
    return policy.interval * (0.8 + chance / 5)


def patience(state: NodeHealth, policy: HealthPolicy) -> float:
    """Seconds that the next ping may take."""
    if state.failures and state.health is not Health.UNREACHABLE:
        return min(policy.retry_timeout, policy.timeout)
    return policy.timeout


@dataclass(frozen=True, slots=True)
class HealthObserved:
    """The outcome of one ping, for the registry.

    Attributes:
        latency_seconds: None when there was no answer; then nothing below is known either.
        flaps: how often the node was lost within the window.
        clock_skew_seconds: the node's clock minus the hub's.
        at: when it was seen.
    """

    cluster_id: UUID
    health: Health
    cause: str
    failures: int
    latency_seconds: float | None = None
    schema_version: int | None = None
    flaps: int = 0
    clock_skew_seconds: float | None = None
    ontology_revision: int | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class HealthObservations:
    """What the health monitor saw lately, oldest first. Every change of health is in exactly one of these messages,
    however often a node changes; what did not change comes every few seconds."""

    observations: tuple[HealthObserved, ...]


@dataclass(frozen=True, slots=True)
class Watch:
    """Look after this node, now."""

    cluster_id: UUID


@dataclass(frozen=True, slots=True)
class Verify:
    """Ping this node now; the answer is its :class:`HealthObserved`, which the directory then holds too."""

    cluster_id: UUID


def _cut(text: str) -> str:
    return text if len(text) <= CAUSE_CHARACTERS else f"{text[: CAUSE_CHARACTERS - 3]}..."
