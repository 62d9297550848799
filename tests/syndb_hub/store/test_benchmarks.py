"""Measurements of queries as the hub keeps and sums them up."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from syndb_hub.federation.benchmarks import Benchmark
from syndb_hub.store import Store
from syndb_hub.store.benchmarks import StoredBenchmarks

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
WORM = UUID(int=1)


def measured(minute: int = 0, latency_ms: float = 1.0, **changes: object) -> Benchmark:
    values = {"query_type": "remote_single", "cluster_id": WORM, **changes}
    return Benchmark(id=uuid4(), at=BEGAN + timedelta(minutes=minute), latency_ms=latency_ms, **values)


async def test_a_measurement_comes_back_as_it_was_added(store):
    one = measured(row_count=50_000, payload_bytes=2**40, success=False, cluster_count=0)
    await StoredBenchmarks(store).add(one)
    assert await StoredBenchmarks(store).latest() == [one]


async def test_the_latest_come_first_and_filters_narrow_them(store):
    benchmarks = StoredBenchmarks(store)
    first, second, other = measured(0), measured(1), measured(2, query_type="health_check", cluster_id=None)
    for each in (second, first, other):
        await benchmarks.add(each)
    assert await benchmarks.latest() == [other, second, first]
    assert await benchmarks.latest(limit=1) == [other]
    assert await benchmarks.latest(query_type="remote_single") == [second, first]
    assert await benchmarks.latest(cluster_id=WORM, since=second.at) == [second]


async def test_the_oldest_give_way(store, monkeypatch):
    monkeypatch.setattr("syndb_hub.store.benchmarks.MAX_KEPT", 3)
    benchmarks = StoredBenchmarks(store)
    for minute in range(5):
        await benchmarks.add(measured(minute, minute))
    assert [each.latency_ms for each in await benchmarks.latest()] == [4, 3, 2]


async def test_there_is_one_summary_for_each_type_of_query(store):
    benchmarks = StoredBenchmarks(store)
    for minute in range(200):
        await benchmarks.add(measured(minute, float(minute + 1), row_count=10, success=minute != 0))
    await benchmarks.add(measured(0, 5.0, query_type="health_check", payload_bytes=7))
    check, single = await benchmarks.aggregate()
    assert (check.query_type, check.count, check.successes, check.bytes) == ("health_check", 1, 1, 7)
    assert (single.count, single.successes, single.rows) == (200, 199, 2000)
    assert (single.latency_ms_p50, single.latency_ms_p95, single.latency_ms_p99) == (100, 190, 198)
    assert (single.latency_ms_mean, single.latency_ms_max) == (100.5, 200)
    recent = await benchmarks.aggregate(since=BEGAN + timedelta(minutes=190))
    assert [(each.query_type, each.count) for each in recent] == [("remote_single", 10)]
    assert await benchmarks.aggregate(since=BEGAN + timedelta(days=1)) == []


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=40))
def test_quantiles_are_those_of_nearest_rank(tmp_path_factory, latencies):
    async def summed():
        store = await Store.open(tmp_path_factory.mktemp("store") / "hub.sqlite")
        for latency in latencies:
            await StoredBenchmarks(store).add(measured(latency_ms=latency))
        (found,) = await StoredBenchmarks(store).aggregate()
        await store.close()
        return found

    found, ordered = trio.run(summed), sorted(latencies)
    for percent in (50, 95, 99):
        expected = ordered[math.ceil(percent * len(ordered) / 100) - 1]
        assert getattr(found, f"latency_ms_p{percent}") == expected
