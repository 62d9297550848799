"""What Prometheus sees of a daemon."""

from __future__ import annotations

import socket
from collections.abc import Iterable

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from syndb_common.errors import ConfigError, NotFound
from syndb_common.metrics import RPC_SENT, Sample, serve_metrics, timed


def nothing() -> Iterable[Sample]:
    return ()


def two_nodes() -> Iterable[Sample]:
    yield "syndb_nodes", "Nodes by health.", ("health",), [(("healthy",), 2.0), (("degraded",), 0.0)]


async def scrape(url: str) -> dict[str, dict[tuple[str, ...], float]]:
    async with httpx.AsyncClient(timeout=10) as client:
        answer = await client.get(url)
    assert answer.status_code == 200
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


async def test_counters_of_the_process_and_values_of_the_daemon_are_served_together(nursery: trio.Nursery) -> None:
    url = await nursery.start(serve_metrics, "127.0.0.1:0", two_nodes)
    before = (await scrape(url)).get("syndb_rpc_ask_seconds_count", {}).get(("SomeMessage", "not_found"), 0.0)
    with pytest.raises(NotFound), timed(RPC_SENT, "SomeMessage"):
        raise NotFound("gone")
    after = await scrape(url)
    assert after["syndb_rpc_ask_seconds_count"]["SomeMessage", "not_found"] == before + 1
    assert after["syndb_nodes"] == {("healthy",): 2.0, ("degraded",): 0.0}
    assert after["process_resident_memory_bytes"][()] > 1e6


async def test_only_metrics_are_served(nursery: trio.Nursery) -> None:
    url = await nursery.start(serve_metrics, "127.0.0.1:0", nothing)
    async with httpx.AsyncClient(timeout=10) as client:
        assert (await client.get(url.removesuffix("/metrics"))).status_code == 404


async def test_no_address_means_no_listener(nursery: trio.Nursery) -> None:
    assert await nursery.start(serve_metrics, "", nothing) == ""


async def test_a_stopped_listener_can_be_started_again() -> None:
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve_metrics, "127.0.0.1:0", two_nodes)
            assert "syndb_nodes" in await scrape(url)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("listen", ["9464", "host:", "host:port", ":9464", "127.0.0.1:99999"])
async def test_what_is_no_address_is_refused_with_an_example(listen: str) -> None:
    with pytest.raises(ConfigError) as refused:
        await serve_metrics(listen, nothing)
    assert "127.0.0.1:9464" in refused.value.hint


async def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=listen):
            await serve_metrics(listen, nothing)
