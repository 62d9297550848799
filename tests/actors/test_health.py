"""The table of states: what a row of pings makes of a node."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.directory import Health
from actors.health import (
    CAUSE_CHARACTERS,
    Answered,
    Circuit,
    HealthPolicy,
    Missed,
    NodeHealth,
    Outcome,
    judge,
    patience,
    pause,
    transition,
)
from syndb_common.messages import HealthReport
from syndb_hub.settings import FederationSettings

GOOD = Answered()
SLOW = Answered(slow=("answers take more than 1 s",))
BROKEN = Answered(definite=("engine: no disk",))
GONE = Missed("cannot be reached")
POLICY = HealthPolicy()

outcomes = st.lists(st.sampled_from((GOOD, GOOD, SLOW, BROKEN, GONE, GONE)), max_size=60)
policies = st.builds(
    HealthPolicy,
    degraded_after=st.integers(1, 4),
    healthy_after=st.integers(1, 4),
    unreachable_after=st.integers(1, 4),
    flap_limit=st.integers(2, 4),
    flap_window=st.sampled_from((20.0, 600.0)),
    flap_hold=st.sampled_from((3.0, 30.0)),
)


def after(*seen: Outcome, policy: HealthPolicy = POLICY, state: NodeHealth | None = None) -> NodeHealth:
    """The state after these pings, a second apart."""
    return history(seen, policy, state)[-1]


def history(seen: Any, policy: HealthPolicy = POLICY, state: NodeHealth | None = None) -> list[NodeHealth]:
    states = [state or NodeHealth()]
    for second, outcome in enumerate(seen):
        states.append(transition(states[-1], outcome, policy, float(second)))
    return states


HEALTHY = after(GOOD)
DEGRADED = after(BROKEN, BROKEN)
UNREACHABLE = after(GOOD, GONE, GONE, GONE)
ON_TRIAL = after(BROKEN, state=UNREACHABLE)


@pytest.mark.parametrize(
    ("before", "seen", "health"),
    [
        pytest.param(NodeHealth(), [GOOD], Health.HEALTHY, id="the first good answer makes a node healthy"),
        pytest.param(NodeHealth(), [SLOW], Health.DEGRADED, id="a slow first one does not"),
        pytest.param(NodeHealth(), [BROKEN], Health.DEGRADED, id="nor does a broken engine"),
        pytest.param(NodeHealth(), [GONE] * 2, Health.UNKNOWN, id="never seen and not given up"),
        pytest.param(NodeHealth(), [GONE] * 3, Health.UNREACHABLE, id="never seen and given up"),
        pytest.param(HEALTHY, [SLOW], Health.HEALTHY, id="one slow answer may be chance"),
        pytest.param(HEALTHY, [SLOW, SLOW], Health.DEGRADED, id="two are not"),
        pytest.param(HEALTHY, [SLOW, GOOD, SLOW], Health.DEGRADED, id="a good one between them is not enough"),
        pytest.param(HEALTHY, [SLOW, GOOD, GOOD, SLOW], Health.HEALTHY, id="two good ones are"),
        pytest.param(HEALTHY, [GONE, GOOD, GONE], Health.DEGRADED, id="half of the pings are lost"),
        pytest.param(HEALTHY, [BROKEN], Health.DEGRADED, id="definite trouble is no chance"),
        pytest.param(HEALTHY, [GONE, GONE], Health.HEALTHY, id="lost packets"),
        pytest.param(HEALTHY, [GONE] * 3, Health.UNREACHABLE, id="gone"),
        pytest.param(DEGRADED, [GOOD], Health.DEGRADED, id="one good answer may be chance"),
        pytest.param(DEGRADED, [GOOD, GOOD], Health.HEALTHY, id="two are not, and the node is well"),
        pytest.param(DEGRADED, [GOOD, SLOW, GOOD], Health.DEGRADED, id="well, but not in a row"),
        pytest.param(DEGRADED, [GONE, GONE], Health.DEGRADED, id="degraded and lost packets"),
        pytest.param(DEGRADED, [GONE] * 3, Health.UNREACHABLE, id="degraded and gone"),
        pytest.param(UNREACHABLE, [GOOD], Health.DEGRADED, id="back, on trial"),
        pytest.param(UNREACHABLE, [GOOD, GOOD], Health.HEALTHY, id="back for good"),
        pytest.param(UNREACHABLE, [GOOD, GONE], Health.UNREACHABLE, id="not back after all"),
        pytest.param(UNREACHABLE, [SLOW, SLOW, GONE], Health.DEGRADED, id="slow but back, its trial is over"),
        pytest.param(ON_TRIAL, [GONE], Health.UNREACHABLE, id="broken and not back after all"),
    ],
)
def test_the_table_of_states(before: NodeHealth, seen: list[Outcome], health: Health) -> None:
    assert after(*seen, state=before).health is health


@given(outcomes, policies)
def test_a_node_is_routable_unless_it_was_never_seen_or_is_gone(seen: list[Outcome], policy: HealthPolicy) -> None:
    for state in history(seen, policy):
        assert (state.circuit is Circuit.OPEN) is (state.health in (Health.UNKNOWN, Health.UNREACHABLE))
        assert state.trial <= (state.health is Health.DEGRADED or policy.healthy_after == 1)
        assert state.flapping <= (state.health in (Health.DEGRADED, Health.UNREACHABLE))


@given(outcomes, policies)
def test_enough_missed_pings_in_a_row_make_it_unreachable_whatever_came_before(
    seen: list[Outcome], policy: HealthPolicy
) -> None:
    states = history([*seen, *[GONE] * policy.unreachable_after], policy)
    assert states[-1].health is Health.UNREACHABLE
    assert states[-1].failures >= policy.unreachable_after


@given(outcomes, policies)
def test_fewer_missed_pings_do_so_only_on_trial(seen: list[Outcome], policy: HealthPolicy) -> None:
    states = history(seen, policy)
    for before, state in pairwise(states):
        if state.health is Health.UNREACHABLE and before.health is not Health.UNREACHABLE:
            assert before.trial or state.failures == policy.unreachable_after


@given(outcomes, policies)
def test_a_healthy_node_answered_well_often_enough_or_is_new(seen: list[Outcome], policy: HealthPolicy) -> None:
    states = history(seen, policy)
    for number, (before, state) in enumerate(pairwise(states)):
        if state.health is Health.HEALTHY and before.health is not Health.HEALTHY:
            needed = 1 if before.health is Health.UNKNOWN else policy.healthy_after
            assert seen[: number + 1][-needed:] == [GOOD] * needed


@given(outcomes, policies)
def test_a_healthy_node_is_degraded_by_definite_trouble_or_repeated_chance(
    seen: list[Outcome], policy: HealthPolicy
) -> None:
    states = history(seen, policy)
    for number, (before, state) in enumerate(pairwise(states)):
        if before.health is Health.HEALTHY and state.health is Health.DEGRADED:
            troubles = [one for one in seen[: number + 1] if one is not GOOD]
            assert seen[number] is BROKEN or len(troubles) >= policy.degraded_after


@given(outcomes, policies)
def test_good_answers_bring_every_node_back(seen: list[Outcome], policy: HealthPolicy) -> None:
    enough = policy.healthy_after + int(policy.flap_hold) + 1
    assert after(*seen, *[GOOD] * enough, policy=policy).health is Health.HEALTHY


@given(outcomes, policies)
def test_one_answer_half_opens_the_circuit_and_a_miss_opens_it_again(seen: list[Outcome], policy: HealthPolicy) -> None:
    lost = after(*seen, *[GONE] * policy.unreachable_after, policy=policy)
    back = transition(lost, GOOD, policy, 100.0)
    assert back.circuit is (Circuit.HALF_OPEN if policy.healthy_after > 1 else Circuit.CLOSED)
    if back.trial:
        assert transition(back, GONE, policy, 101.0).circuit is Circuit.OPEN


@given(outcomes, policies)
def test_nothing_is_remembered_without_bound(seen: list[Outcome], policy: HealthPolicy) -> None:
    for state in history(seen, policy):
        assert len(state.lost) <= policy.flap_limit
        assert state.troubled <= policy.degraded_after
        assert max(state.answered, state.good) <= policy.healthy_after
        assert len(state.cause) <= CAUSE_CHARACTERS


def test_a_node_to_which_nothing_happens_keeps_its_very_state() -> None:
    steady = after(GOOD, GOOD, GOOD)
    assert transition(steady, GOOD, POLICY, 99.0) is steady


def test_a_flapping_node_is_held_back_until_it_has_answered_long_enough() -> None:
    state = HEALTHY
    for _ in range(POLICY.flap_limit):
        assert not state.flapping
        state = after(GOOD, GOOD, GONE, GONE, GONE, state=state)
    assert state.flapping
    back = transition(state, GOOD, POLICY, 1000.0)
    assert back.health is Health.DEGRADED
    assert back.cause.startswith("flapping: lost 5 times within 600 s")
    held = transition(back, GOOD, POLICY, 1000.0 + POLICY.flap_hold - 0.1)
    assert held.health is Health.DEGRADED
    assert transition(held, GOOD, POLICY, 1000.0 + POLICY.flap_hold).health is Health.HEALTHY
    lost_again = transition(held, GONE, POLICY, 1100.0)
    assert transition(lost_again, GOOD, POLICY, 1000.0 + POLICY.flap_hold).flapping, "the hold begins anew"


def test_losses_long_ago_are_no_flapping() -> None:
    state, now = HEALTHY, 0.0
    for _ in range(3 * POLICY.flap_limit):
        for outcome in (GOOD, GOOD, GONE, GONE, GONE):
            state = transition(state, outcome, POLICY, now)
        now += POLICY.flap_window / (POLICY.flap_limit - 1) + 1
    assert not state.flapping


def test_a_hub_that_starts_and_finds_a_node_gone_counts_no_flap() -> None:
    assert after(GONE, GONE, GONE).lost == ()


def report(**facts: Any) -> HealthReport:
    known = {"schema_version": 3, "engine": "ok", "load": 0, "catalogue_revision": 1, "clock": 0.0}
    return HealthReport(**{**known, "uptime_seconds": 1.0, "software": "test", **facts})


def judged(latency: float = 0.01, skew: float = 0.0, **facts: Any) -> Answered:
    return judge(report(**facts), latency, skew, POLICY, schema_version=3)


def test_a_node_that_is_well_has_no_troubles() -> None:
    assert judged() == GOOD
    assert judged(latency=POLICY.degraded_latency) == GOOD
    assert judged(skew=-POLICY.max_clock_skew) == GOOD


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (judged(engine="no disk"), "engine: no disk"),
        (judged(schema_version=2), "behind: schema version 2, the hub has 3"),
        (judged(schema_version=4), "ahead: schema version 4, the hub has 3; update the hub"),
        (
            judged(skew=45.2),
            "clock: 45 s ahead of the hub's, at most 30 s are accepted; switch on time synchronisation",
        ),
        (judged(skew=-45.2), "clock: 45 s behind the hub's"),
    ],
)
def test_definite_troubles_say_what_to_do(seen: Answered, said: str) -> None:
    [cause] = seen.definite
    assert cause.startswith(said)
    assert after(seen, state=HEALTHY).health is Health.DEGRADED


def test_what_may_be_chance_has_to_be_repeated() -> None:
    assert judged(latency=1.1) == SLOW
    assert judged(engine="busy").slow == ("engine: busy",)


def test_half_of_the_latency_may_be_the_networks_and_not_the_clocks() -> None:
    assert not judged(latency=10.0, skew=POLICY.max_clock_skew + 4.9).definite
    assert judged(latency=10.0, skew=POLICY.max_clock_skew + 5.1).definite


def test_a_node_without_its_engine_is_not_said_to_be_behind() -> None:
    assert judged(engine="is being restarted", schema_version=0).definite == ("engine: is being restarted",)


@given(outcomes, st.floats(0, 1))
def test_pauses_are_bounded_and_jitter_only_shortens_them(seen: list[Outcome], chance: float) -> None:
    state = after(*seen)
    most = POLICY.longest_pause if state.health is Health.UNREACHABLE else POLICY.interval
    assert 0 < pause(state, POLICY, chance) <= pause(state, POLICY, 1.0) <= most


def test_pauses_of_an_unreachable_node_grow_until_their_bound() -> None:
    pauses = [pause(after(*[GONE] * number), POLICY, 1.0) for number in range(3, 12)]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[4:] == [POLICY.longest_pause] * 5


def test_a_node_that_is_gone_is_known_to_be_within_two_cycles() -> None:
    state, seconds = after(GOOD, GOOD), pause(HEALTHY, POLICY, 1.0)
    while state.health is not Health.UNREACHABLE:
        seconds += patience(state, POLICY)
        state = transition(state, GONE, POLICY, seconds)
        if state.health is not Health.UNREACHABLE:
            seconds += pause(state, POLICY, 1.0)
    assert seconds <= 2 * POLICY.cycle


def test_the_thresholds_are_those_of_the_settings() -> None:
    settings = FederationSettings(password="x")  # type: ignore[call-arg]
    read = HealthPolicy(
        interval=settings.ping_interval_seconds,
        timeout=settings.ping_timeout_seconds,
        degraded_latency=settings.degraded_latency_seconds,
        degraded_after=settings.degraded_after,
        healthy_after=settings.healthy_after,
        unreachable_after=settings.unreachable_after,
        max_clock_skew=settings.max_clock_skew_seconds,
        flap_limit=settings.flap_limit,
        flap_window=settings.flap_window_seconds,
        flap_hold=settings.flap_hold_seconds,
    )
    assert read == HealthPolicy()
