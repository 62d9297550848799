"""Changes of health reach the registry, each once and in order; the rest in batches."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
import trio
from trio.testing import MockClock

from actors.directory import Health
from actors.health import HealthObservations, HealthObserved
from actors.health_reports import AGAIN_SECONDS, GATHER_SECONDS, MOST_PER_NODE, HealthReports
from syndb_common.errors import Unavailable

WORM, FLY = uuid4(), uuid4()


class Taking:
    """A registry that takes what it is sent, or fails."""

    def __init__(self) -> None:
        self.batches: list[tuple[HealthObserved, ...]] = []
        self.failing = False
        self.seconds = 0.0

    async def take(self, message: HealthObservations) -> None:
        await trio.sleep(self.seconds)
        if self.failing:
            raise Unavailable("away")
        self.batches.append(message.observations)

    def of(self, cluster_id: UUID) -> list[str]:
        return [one.health.value for batch in self.batches for one in batch if one.cluster_id == cluster_id]


def seen(health: Health, cluster_id: UUID = WORM, latency: float = 0.01) -> HealthObserved:
    return HealthObserved(cluster_id, health, "", 0, latency)


@pytest.fixture
def registry() -> Taking:
    return Taking()


@pytest.fixture
async def reports(nursery: trio.Nursery, registry: Taking) -> HealthReports:
    reports = HealthReports(registry.take)
    nursery.start_soon(reports.run)
    return reports


async def test_a_change_is_told_at_once(reports: HealthReports, registry: Taking, autojump_clock: MockClock) -> None:
    reports.add(seen(Health.HEALTHY), urgent=True)
    await trio.sleep(0.01)
    assert registry.of(WORM) == ["healthy"]


async def test_what_is_not_urgent_waits_for_others(
    reports: HealthReports, registry: Taking, autojump_clock: MockClock
) -> None:
    for number in range(10):
        reports.add(seen(Health.HEALTHY, WORM, number), urgent=False)
        reports.add(seen(Health.HEALTHY, FLY, number), urgent=False)
    await trio.sleep(GATHER_SECONDS - 0.01)
    assert registry.batches == []
    await trio.sleep(0.02)
    [batch] = registry.batches
    assert [one.latency_seconds for one in batch if one.cluster_id == WORM] == [0, 9]
    await trio.sleep(10)
    assert len(registry.batches) == 1


async def test_what_changes_while_the_registry_is_busy_or_away_is_all_told_later(
    reports: HealthReports, registry: Taking, autojump_clock: MockClock
) -> None:
    registry.failing, registry.seconds = True, 0.3
    ways = [Health.HEALTHY, Health.DEGRADED, Health.UNREACHABLE, Health.DEGRADED, Health.HEALTHY]
    for health in ways:
        for _ in range(3):
            reports.add(seen(health), urgent=True)
        await trio.sleep(0.2)
    registry.failing = False
    await trio.sleep(3 * (AGAIN_SECONDS + registry.seconds))
    told = registry.of(WORM)
    assert [one for one, before in zip(told, [None, *told], strict=False) if one != before] == [h.value for h in ways]


async def test_what_is_kept_for_an_absent_registry_is_bounded(
    reports: HealthReports, registry: Taking, autojump_clock: MockClock
) -> None:
    registry.failing = True
    await trio.sleep(0.1)
    for _ in range(1000):
        reports.add(seen(Health.DEGRADED), urgent=True)
        reports.add(seen(Health.UNREACHABLE), urgent=True)
    registry.failing = False
    await trio.sleep(5)
    assert len(registry.of(WORM)) <= MOST_PER_NODE


async def test_one_can_wait_until_everything_is_told(
    reports: HealthReports, registry: Taking, autojump_clock: MockClock
) -> None:
    await reports.delivered()
    registry.seconds = 2.0
    reports.add(seen(Health.HEALTHY), urgent=True)
    await trio.sleep(0.1)
    reports.add(seen(Health.HEALTHY, FLY), urgent=False)
    await reports.delivered()
    assert (registry.of(WORM), registry.of(FLY)) == (["healthy"], ["healthy"])
    assert trio.current_time() < 5
