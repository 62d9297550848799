"""Supervision: the table policy x exit, strategies, intensity, backoff, escalation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.runtime import (
    Actor,
    ActorCrashed,
    ActorRestarting,
    ActorStarted,
    ActorStopped,
    ActorStoppedError,
    Backoff,
    ChildSpec,
    Intensity,
    Restart,
    RestartIntensityExceeded,
    Strategy,
    Supervisor,
    SupervisorEscalated,
    handle,
    run_tree,
)
from actors.runtime.testing import next_event

STEADY = Backoff(initial=1, factor=1, maximum=1, jitter=0)


@dataclass(frozen=True)
class Count:
    pass


@dataclass(frozen=True)
class Crash:
    pass


@dataclass(frozen=True)
class Leave:
    pass


class Worker(Actor):
    def __init__(self, log: list[str] | None = None) -> None:
        self.log = [] if log is None else log
        self.count = 0

    async def on_start(self) -> None:
        self.log.append(f"+{self.context.name}")

    async def on_stop(self) -> None:
        self.log.append(f"-{self.context.name}")

    @handle
    async def do_count(self, message: Count) -> int:
        self.count += 1
        return self.count

    @handle
    async def crash(self, message: Crash) -> None:
        raise RuntimeError("crash")

    @handle
    async def leave(self, message: Leave) -> None:
        self.context.stop()


def workers(names: str, log: list[str], **restart: Restart) -> list[ChildSpec]:
    return [ChildSpec(name, lambda: Worker(log), restart.get(name, Restart.PERMANENT)) for name in names]


async def is_up(ref) -> bool:
    try:
        return bool(await ref.ask(Count(), timeout=30))
    except ActorStoppedError:
        return False


@pytest.mark.parametrize(
    ("restart", "exit_message", "comes_back"),
    [
        (Restart.PERMANENT, Leave(), True),
        (Restart.PERMANENT, Crash(), True),
        (Restart.TRANSIENT, Leave(), False),
        (Restart.TRANSIENT, Crash(), True),
        (Restart.TEMPORARY, Leave(), False),
        (Restart.TEMPORARY, Crash(), False),
    ],
)
async def test_policy_table_when_a_child_ends_by_itself(start, restart, exit_message, comes_back):
    tree = await start(ChildSpec("worker", Worker, restart))
    ref = tree.ref("worker")
    with tree.events.subscribe() as events:
        ref.tell(exit_message)
        ended = await next_event(events, ActorCrashed if exit_message == Crash() else ActorStopped)
        assert getattr(ended, "reason", "normal") == "normal"
        assert await is_up(ref) is comes_back


@pytest.mark.parametrize(
    ("restart", "comes_back"), [(Restart.PERMANENT, True), (Restart.TRANSIENT, True), (Restart.TEMPORARY, False)]
)
async def test_policy_table_when_a_child_is_stopped_with_its_group(start, restart, comes_back):
    log: list[str] = []
    tree = await start(*workers("ab", log, b=restart), strategy=Strategy.ONE_FOR_ALL)
    tree.ref("a").tell(Crash())
    await trio.sleep(1)
    assert await is_up(tree.ref("b")) is comes_back
    assert log == ["+a", "+b", "-a", "-b", "+a"] + ["+b"] * comes_back


@pytest.mark.parametrize("restart", list(Restart))
async def test_policy_table_when_the_tree_is_stopped(start, restart):
    log: list[str] = []
    tree = await start(*workers("a", log, a=restart))
    await tree.stop()
    await trio.sleep(60)
    assert log == ["+a", "-a"]


async def test_a_restart_makes_a_fresh_instance_behind_the_same_reference(start):
    ref = (await start(ChildSpec("worker", Worker))).ref("worker")
    assert [await ref.ask(Count(), timeout=1) for _ in range(2)] == [1, 2]
    ref.tell(Crash())
    assert await ref.ask(Count(), timeout=10) == 1


@pytest.mark.parametrize(
    ("strategy", "then"),
    [
        (Strategy.ONE_FOR_ONE, ["-b", "+b"]),
        (Strategy.ONE_FOR_ALL, ["-b", "-c", "-a", "+a", "+b", "+c"]),
        (Strategy.REST_FOR_ONE, ["-b", "-c", "+b", "+c"]),
    ],
)
async def test_the_strategy_says_who_is_restarted_in_which_order(start, strategy, then):
    log: list[str] = []
    tree = await start(*workers("abc", log), strategy=strategy)
    assert log == ["+a", "+b", "+c"]
    log.clear()
    tree.ref("b").tell(Crash())
    await trio.sleep(5)
    assert log == then


async def test_messages_waiting_at_a_sibling_survive_a_group_restart(start):
    tree = await start(*workers("ab", []), strategy=Strategy.ONE_FOR_ALL, backoff=STEADY)
    tree.ref("a").tell(Crash())
    await wait_all_tasks_blocked()  # both are down now, for one second
    tree.ref("b").tell(Count())
    assert await tree.ref("b").ask(Count(), timeout=5) == 2


async def test_an_earlier_child_that_crashes_during_a_group_restart_widens_the_group(start):
    log: list[str] = []
    tree = await start(*workers("abc", log), strategy=Strategy.REST_FOR_ONE, backoff=STEADY)
    log.clear()
    tree.ref("c").tell(Crash())
    await trio.sleep(0.5)
    tree.ref("a").tell(Crash())
    await trio.sleep(5)
    assert log == ["-c", "-a", "-b", "+a", "+b", "+c"]


async def test_one_child_in_backoff_does_not_hold_up_the_restart_of_another(start):
    tree = await start(*workers("ab", []), backoff=STEADY)
    begun = trio.current_time()
    tree.ref("a").tell(Crash())
    await trio.sleep(0.9)
    tree.ref("b").tell(Crash())
    await tree.ref("a").ask(Count(), timeout=10)
    assert trio.current_time() - begun == pytest.approx(1)
    await tree.ref("b").ask(Count(), timeout=10)
    assert trio.current_time() - begun == pytest.approx(1.9)


async def test_a_failing_start_counts_as_a_crash_and_later_children_wait_for_it(start):
    log: list[str] = []
    failures = [OSError("port in use"), OSError("port in use")]

    class Hesitant(Worker):
        async def on_start(self) -> None:
            if failures:
                raise failures.pop()
            await super().on_start()

    tree = await start(ChildSpec("hesitant", lambda: Hesitant(log)), *workers("b", log))
    assert log == ["+hesitant", "+b"]  # on_stop never follows an on_start that failed
    assert await is_up(tree.ref("hesitant"))


async def test_a_failing_factory_counts_as_a_crash(start):
    failures = [ValueError("not yet")]

    def factory() -> Worker:
        if failures:
            raise failures.pop()
        return Worker()

    assert await is_up((await start(ChildSpec("worker", factory))).ref("worker"))


async def test_a_start_that_hangs_is_a_crash(nursery):
    class Stuck(Actor):
        start_timeout = 3.0

        async def on_start(self) -> None:
            await trio.sleep_forever()

    begun = trio.current_time()
    with pytest.raises(RestartIntensityExceeded) as caught:
        await nursery.start(run_tree, Supervisor("root", [ChildSpec("stuck", Stuck)], intensity=Intensity(0, 10)))
    assert isinstance(caught.value.__cause__, trio.TooSlowError)
    assert trio.current_time() - begun == pytest.approx(3)


async def test_a_temporary_child_that_fails_to_start_does_not_keep_the_tree_from_starting(start):
    class Broken(Actor):
        async def on_start(self) -> None:
            raise OSError

    tree = await start(ChildSpec("broken", Broken, Restart.TEMPORARY), ChildSpec("worker", Worker))
    assert await is_up(tree.ref("worker"))
    assert not await is_up(tree.ref("broken"))


async def test_a_transient_child_may_finish_just_when_the_last_one_has_started():
    class Task(Worker):
        async def on_start(self) -> None:
            self.context.start_soon(self._finish)

        async def _finish(self) -> None:
            await trio.sleep(1)
            self.context.stop()

    class Slow(Worker):
        def __init__(self, steps: int) -> None:
            super().__init__()
            self.steps = steps

        async def on_start(self) -> None:
            await trio.sleep(1)
            for _ in range(self.steps):
                await trio.lowlevel.checkpoint()

    for steps in [*range(12)] * 4:  # the finish takes some steps of the scheduler, in an order left to chance
        slow = ChildSpec("slow", lambda steps=steps: Slow(steps))
        root = Supervisor("root", [ChildSpec("task", Task, Restart.TRANSIENT), slow])
        async with trio.open_nursery() as nursery:
            with trio.fail_after(60):
                tree = await nursery.start(run_tree, root)
            await wait_all_tasks_blocked()
            assert [await is_up(tree.ref(name)) for name in ("task", "slow")] == [False, True]
            await tree.stop()


async def test_a_crashing_background_task_crashes_its_actor(start):
    class Poller(Worker):
        async def on_start(self) -> None:
            self.context.start_soon(self._poll)

        async def _poll(self) -> None:
            await trio.sleep(1)
            raise OSError("lost")

    tree = await start(ChildSpec("poller", Poller))
    with tree.events.subscribe() as events:
        crash = await next_event(events, ActorCrashed, "poller")
    assert isinstance(crash.error, OSError)


async def test_a_failing_stop_is_a_crash_and_does_not_hide_an_earlier_one(start):
    class Clumsy(Worker):
        async def on_stop(self) -> None:
            raise OSError("cannot close")

    tree = await start(ChildSpec("clumsy", Clumsy))
    with tree.events.subscribe() as events:
        tree.ref("clumsy").tell(Crash())
        crash = await next_event(events, ActorCrashed)
        assert isinstance(crash.error, RuntimeError)
        assert crash.error.__notes__ == ["then on_stop failed: OSError('cannot close')"]
        tree.ref("clumsy").tell(Leave())
        assert isinstance((await next_event(events, ActorCrashed)).error, OSError)


async def test_intensity_allows_so_many_restarts_and_the_root_then_ends_the_tree():
    crashes = []

    class Doomed(Actor):
        async def on_start(self) -> None:
            crashes.append(trio.current_time())
            raise KeyError("config")

    spec = Supervisor("root", [ChildSpec("doomed", Doomed)], intensity=Intensity(3, within=60), backoff=STEADY)
    with pytest.raises(RestartIntensityExceeded, match="supervisor 'root' gave up: 'doomed' crashed") as caught:
        await run_tree(spec)
    assert isinstance(caught.value.__cause__, KeyError)
    assert len(crashes) == 4


async def test_restarts_further_apart_than_the_period_never_escalate(start):
    tree = await start(ChildSpec("worker", Worker), intensity=Intensity(1, within=10), backoff=STEADY)
    for _ in range(5):
        tree.ref("worker").tell(Crash())
        await trio.sleep(20)
    assert await is_up(tree.ref("worker"))


async def test_normal_ends_of_a_permanent_child_count_towards_the_intensity(nursery):
    tree = None

    async def run(task_status: Any) -> None:
        with pytest.raises(RestartIntensityExceeded, match="'worker' ended after 1 restarts"):
            await run_tree(Supervisor("root", workers_spec, intensity=Intensity(1, 60)), task_status=task_status)

    workers_spec = [ChildSpec("worker", Worker)]
    tree = await nursery.start(run)
    tree.ref("worker").tell(Leave())
    tree.ref("worker").tell(Leave())
    await tree.stopped.wait()


async def test_a_supervisor_that_gives_up_is_restarted_by_its_parent_with_all_its_children(start):
    log: list[str] = []
    inner = Supervisor("inner", workers("bc", log, c=Restart.TEMPORARY), intensity=Intensity(0, 10))
    tree = await start(*workers("a", log), inner, *workers("d", log), backoff=STEADY)
    refs = {name: tree.ref(name) for name in "bc"}
    log.clear()
    with tree.events.subscribe() as events:
        refs["c"].tell(Leave())
        await trio.sleep(1)
        refs["b"].tell(Crash())
        escalated = await next_event(events, SupervisorEscalated)
        assert escalated.name == "inner"
        assert isinstance(escalated.error, RuntimeError)
        assert (await next_event(events, ActorRestarting)).name == "inner"
    assert await refs["b"].ask(Count(), timeout=10) == 1
    await wait_all_tasks_blocked()
    assert await is_up(refs["c"])  # a new life of the supervisor is a new life of all it keeps
    assert log == ["-c", "-b", "+b", "+c"]


async def test_a_restarted_supervisor_counts_restarts_from_zero(start):
    inner = Supervisor("inner", workers("b", []), intensity=Intensity(1, 1000), backoff=STEADY)
    tree = await start(inner, backoff=STEADY)
    with tree.events.subscribe() as events:
        for _ in range(3):
            tree.ref("b").tell(Crash())
            await trio.sleep(5)
        await tree.stop()
        restarting = [event.name async for event in events if isinstance(event, ActorRestarting)]
    assert restarting == ["b", "inner", "b"]


async def test_escalation_passes_through_every_level_to_the_root():
    class Doomed(Actor):
        async def on_start(self) -> None:
            raise KeyError("config")

    once = Intensity(1, 60)
    inner = Supervisor("inner", [ChildSpec("doomed", Doomed)], intensity=once)
    with pytest.raises(RestartIntensityExceeded, match="'root'") as caught:
        await run_tree(Supervisor("root", [inner], intensity=once))
    assert "'inner'" in str(caught.value.__cause__)
    assert isinstance(caught.value.__cause__.__cause__, KeyError)


async def test_delays_grow_until_the_child_has_stayed_up_for_the_period(start):
    tree = await start(
        ChildSpec("worker", Worker),
        intensity=Intensity(100, within=10),
        backoff=Backoff(initial=1, factor=2, maximum=5, jitter=0),
    )
    with tree.events.subscribe() as events:
        delays = []
        for pause in (0, 0, 0, 0, 30):
            await trio.sleep(pause)
            tree.ref("worker").tell(Crash())
            delays.append((await next_event(events, ActorRestarting)).delay)
            await next_event(events, ActorStarted)
    assert delays == [1, 2, 4, 5, 1]


@given(
    st.floats(0, 10),
    st.floats(1, 10),
    st.floats(10, 1000),
    st.floats(0, 1),
    st.integers(1, 10_000),
)
def test_a_delay_is_never_further_from_its_nominal_value_than_the_jitter(initial, factor, maximum, jitter, attempt):
    delay = Backoff(initial, factor, maximum, jitter).delay(attempt)
    nominal = min(maximum, initial * factor ** min(attempt - 1, 64))
    assert nominal * (1 - jitter) <= delay * (1 + 1e-12) + 1e-12
    assert delay <= nominal * (1 + jitter) * (1 + 1e-12)


# Halves of a second make crashes meet starts, stops and restarts (which take 0.5, 0.5 and 1 s) at the same moment.
crashes = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 12)), max_size=8)


@given(st.sampled_from(Strategy), crashes)
def test_whatever_crashes_when_no_child_ever_runs_twice_at_once_and_all_come_back(strategy, crashes):
    log: list[str] = []

    class Slow(Worker):
        async def on_start(self) -> None:
            self.log.append(f"+{self.context.name}")
            await trio.sleep(0.5)

        async def on_stop(self) -> None:
            await trio.sleep(0.5)

    class Watched(Slow):
        """Notes the end of an incarnation however it comes."""

        async def on_start(self) -> None:
            self.context.start_soon(self._note_end)
            await super().on_start()

        async def _note_end(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                self.log.append(f"-{self.context.name}")

    async def main() -> None:
        children = [ChildSpec(name, lambda: Watched(log)) for name in "abcd"]
        root = Supervisor("root", children, strategy, Intensity(1000, 1000), STEADY)
        async with trio.open_nursery() as nursery:
            tree = await nursery.start(run_tree, root)
            for name, halves in crashes:
                nursery.start_soon(_crash_at, tree.ref(name), 2 + halves / 2)
            await trio.sleep(500)
            for name in "abcd":
                assert await is_up(tree.ref(name))
            await tree.stop()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    for name in "abcd":
        lives = [entry[0] for entry in log if entry[1] == name]
        assert lives == ["+", "-"] * (len(lives) // 2)


async def _crash_at(ref, time: float) -> None:
    await trio.sleep_until(time)
    ref.tell(Crash())


async def test_time_comes_from_the_clock_that_was_injected(start):
    class Frozen:
        """Waits are over at once, and the time never changes."""

        def now(self) -> float:
            return 42.0

        async def sleep(self, seconds: float) -> None:
            await trio.lowlevel.checkpoint()

    tree = await start(ChildSpec("worker", Worker), clock=Frozen(), backoff=Backoff(initial=3600, maximum=3600))
    begun = trio.current_time()
    with tree.events.subscribe() as events:
        tree.ref("worker").tell(Crash())
        assert (await next_event(events, ActorStarted)).at == 42.0
    assert trio.current_time() == begun


def test_names_are_unique_in_a_tree():
    inner = Supervisor("inner", [ChildSpec("worker", Worker)])
    with pytest.raises(ValueError, match="two children of 'root' are named 'worker'"):
        Supervisor("root", [ChildSpec("worker", Worker), inner])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Intensity(-1, 10),
        lambda: Intensity(1, 0),
        lambda: Backoff(initial=-1),
        lambda: Backoff(initial=9, maximum=1),
        lambda: Backoff(factor=0.5),
        lambda: Backoff(jitter=2),
    ],
)
def test_policies_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError, match=" needs "):
        make()
