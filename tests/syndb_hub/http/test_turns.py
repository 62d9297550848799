"""Analyses ask the nodes without being jobs: few at once, and whoever waits too long is told so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from syndb_hub.settings import HttpSettings, JobSettings

BODY = {"table": "synapses", "metric": "synapse_count"}
AT_ONCE = 4


@pytest.fixture
def hub_options() -> SimpleNamespace:
    return SimpleNamespace(http=HttpSettings(request_timeout_seconds=2), jobs=JobSettings(), serve={})


async def test_a_further_analysis_waits_its_turn_and_is_then_refused(hub):
    hub.queries.hold = trio.Event()
    statuses: list[int] = []

    async with hub.client() as client, trio.open_nursery() as nursery:

        async def analyze() -> None:
            statuses.append((await client.post("/v1/meta-analysis/analyze", json=BODY)).status_code)

        for _ in range(AT_ONCE):
            nursery.start_soon(analyze)
        await hub.queries.until_running(AT_ONCE)
        refused = await client.post("/v1/meta-analysis/analyze", json=BODY)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert len(hub.queries.asked) == AT_ONCE
        hub.queries.hold.set()
    assert statuses == [200] * AT_ONCE


async def test_an_analysis_that_waits_runs_when_another_has_ended(hub):
    hub.queries.hold = trio.Event()
    async with hub.client() as client, trio.open_nursery() as nursery:

        async def analyze() -> None:
            assert (await client.post("/v1/meta-analysis/analyze", json=BODY)).status_code == 200

        for _ in range(2 * AT_ONCE):
            nursery.start_soon(analyze)
        await hub.queries.until_running(AT_ONCE)
        hub.queries.hold.set()
    assert len(hub.queries.asked) == 2 * AT_ONCE
