"""Each measurement in miniature: that it runs and what it writes, never how fast it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bench import (
    cancel,
    cold_start,
    engine_restart,
    federated,
    loopback,
    node_scan,
    reconnect,
    row_queries,
    rpc,
    upload,
)
from bench.result import Result, compared, measured, rate, write

FIELDS = {"name", "value", "reference", "ratio", "unit", "n", "goal", "met"}


def written(results: list[Result], folder: Path) -> dict[str, dict[str, object]]:
    write(results, folder)
    entries = json.loads((folder / "results.json").read_text())
    assert all(entry.keys() == FIELDS for entry in entries)
    return {entry["name"]: entry for entry in entries}


def test_a_ratio_is_ours_by_the_reference_and_meets_its_goal_at_most(tmp_path: Path) -> None:
    entries = written(
        [compared("slow", 3.2, 2.0, "s", 9, goal=1.5), compared("fast", 3.0, 2.0, "s", 9, goal=1.5)], tmp_path
    )
    assert [(entry["ratio"], entry["met"]) for entry in entries.values()] == [(1.6, False), (1.5, True)]


def test_a_rate_meets_its_goal_at_least(tmp_path: Path) -> None:
    entries = written(
        [rate("slow", 3.0, 10.0, "B/s", 9, goal=0.4), rate("fast", 4.0, 10.0, "B/s", 9, goal=0.4)], tmp_path
    )
    assert [(entry["ratio"], entry["met"]) for entry in entries.values()] == [(0.3, False), (0.4, True)]


def test_a_value_without_reference_is_held_against_its_goal_or_against_nothing(tmp_path: Path) -> None:
    entries = written([measured("start", 26.0, "s", 3, goal=25.0), measured("memory", 80.0, "MB", 3)], tmp_path)
    assert (entries["start"]["ratio"], entries["start"]["met"]) == (None, False)
    assert (entries["memory"]["goal"], entries["memory"]["met"]) == (None, None)


def test_a_name_has_one_entry(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one entry per name"):
        write([measured("a", 1.0, "s", 1), measured("a", 2.0, "s", 1)], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_machine_is_described(tmp_path: Path) -> None:
    write([], tmp_path)
    machine = json.loads((tmp_path / "machine.json").read_text())
    named = {"cpu", "cores", "memory_GB", "kernel", "python", "chdb", "pyarrow", "libp2p", "trio", "date"}
    assert machine.keys() == named
    assert all(machine.values())
    assert machine["cores"] == len(os.sched_getaffinity(0))


@pytest.mark.largest
def test_asks_are_measured_on_both_transports(tmp_path: Path) -> None:
    entries = written(rpc.run(rounds=20), tmp_path)
    assert {name: entry["goal"] for name, entry in entries.items()} == {
        "rpc_ask_vs_bare_stream": 1.3,
        "rpc_ask_p99_vs_bare_stream": 2.0,
        "rpc_ask_vs_bare_stream_tcp": 1.3,
        "rpc_ask_p99_vs_bare_stream_tcp": 2.0,
    }
    assert all(entry["n"] == 20 for entry in entries.values())


@pytest.mark.largest
def test_a_node_is_back_after_both_ways_in_which_a_hub_ends(tmp_path: Path) -> None:
    entries = written(reconnect.run(rounds=1), tmp_path)
    for name in ("reconnect_seconds", "reconnect_seconds_after_sigkill"):
        from_bound, from_start = entries.pop(name), entries.pop(f"{name}_from_start")
        assert (from_bound["n"], from_bound["goal"]) == (from_start["n"], 3.0) == (1, 3.0)
        assert from_start["goal"] is None
        assert from_start["value"] > from_bound["value"]
    assert not entries


@pytest.mark.largest
def test_the_federated_answer_is_right_before_it_is_timed(tmp_path: Path) -> None:
    (entry,) = written(federated.run(rows=20_000, rounds=2), tmp_path).values()
    assert (entry["name"], entry["n"]) == ("federated_aggregate_vs_one_clickhouse", 2)
    assert entry["ratio"] == pytest.approx(entry["value"] / entry["reference"])


def test_answers_that_differ_are_no_measurement() -> None:
    federated.compare({"a": (2, 1.0, 0.5)}, {"a": (2, 1.0 + 1e-12, 0.5)})
    with pytest.raises(RuntimeError, match="counts"):
        federated.compare({"a": (2, 1.0, 0.5)}, {"a": (3, 1.0, 0.5)})
    with pytest.raises(RuntimeError, match="differ"):
        federated.compare({"a": (2, 1.0, 0.5)}, {"a": (2, 1.0, 0.5 + 1e-8)})


@pytest.mark.largest
def test_a_start_is_timed_cold_and_warm_and_the_daemons_weighed(tmp_path: Path, real_files: Path) -> None:
    entries = written(cold_start.run(rounds=1, sources=real_files), tmp_path)
    assert entries["cold_start_seconds"]["goal"] == 25.0
    assert entries["cold_start_seconds"]["value"] > entries["warm_start_seconds"]["value"] > 0
    for who in ("hub", "node"):
        assert 0 < entries[f"idle_memory_{who}_MB"]["value"] <= entries[f"idle_memory_{who}_rss_MB"]["value"]


def goals(entries: dict[str, dict[str, object]]) -> dict[str, object]:
    return {name: entry["goal"] for name, entry in entries.items()}


@pytest.mark.slow
def test_flight_stands_against_a_socket_both_ways_with_one_stream_and_four_plain_and_with_tls(tmp_path: Path) -> None:
    entries = written(loopback.run(rows=20_000, rounds=1), tmp_path)
    assert goals(entries) == {
        "flight_get_vs_loopback": 0.4,
        "flight_get_vs_loopback_tls": 0.25,
        "flight_get_vs_loopback_4_streams": 0.4,
        "flight_get_vs_loopback_4_streams_tls": 0.25,
        "flight_put_vs_loopback": 0.4,
        "flight_put_vs_loopback_tls": 0.25,
        "flight_put_vs_loopback_4_streams": 0.4,
        "flight_put_vs_loopback_4_streams_tls": 0.25,
        "flight_get_vs_bare_flight": None,
        "flight_get_vs_bare_flight_tls": None,
    }
    assert all(entry["unit"] == "B/s" for entry in entries.values())


@pytest.mark.slow
def test_a_scan_by_flight_stands_against_the_engines_own_stream(tmp_path: Path) -> None:
    entries = written(node_scan.run(rows=20_000, rounds=1), tmp_path)
    assert goals(entries) == {"node_scan_vs_engine": 1.5}


@pytest.mark.slow
def test_an_upload_is_published_whole_before_it_is_timed_against_a_bare_insert(tmp_path: Path) -> None:
    entries = written(upload.run(rows=20_000, rounds=1), tmp_path)
    assert goals(entries) == {"upload_vs_engine_insert": 0.3}
    assert entries["upload_vs_engine_insert"]["unit"] == "rows/s"


@pytest.mark.slow
def test_a_killed_engine_has_its_rows_again_before_the_clock_stops(tmp_path: Path) -> None:
    entries = written(engine_restart.run(rows=1_000, rounds=1), tmp_path)
    assert goals(entries) == {"engine_restart_seconds": 1.5}


@pytest.mark.slow
def test_a_cancelled_query_is_gone_from_clickhouse_before_the_clock_stops(tmp_path: Path) -> None:
    assert goals(written(cancel.run(rounds=1), tmp_path)) == {"query_cancel_seconds": 0.5}


@pytest.mark.largest
def test_row_queries_are_whole_before_they_are_timed_and_weighed(tmp_path: Path) -> None:
    entries = written(row_queries.run(rows=3_000, large_rows=6_000, rounds=1), tmp_path)
    assert goals(entries) == {
        "federated_rows_vs_slowest_node": 1.2,
        "hub_memory_during_5M_rows": 200.0,
        "node_memory_during_5M_rows": 200.0,
        "hub_memory_during_20M_rows": 200.0,
        "node_memory_during_20M_rows": 200.0,
    }
