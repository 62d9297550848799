"""The routes of single nodes and of benchmarks, asked over a socket."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from syndb_common.tables.identity import dataset_id
from syndb_hub.auth import Right
from syndb_hub.federation.service import ClusterEntry

WORM = dataset_id("worm-lab")
CLUSTERS = "/v1/federation/clusters"
BENCHMARKS = "/v1/federation/benchmarks"
MEASURED = {
    "query_type": "remote_single",
    "latency_ms": 145,
    "row_count": 50_000,
    "cluster_count": 1,
    "payload_bytes": 2_048_000,
    "success": True,
}


async def test_one_node_is_shown_with_everything_the_hub_knows_of_it(hub):
    async with hub.client() as client:
        shown = (await client.get(f"{CLUSTERS}/{WORM}")).json()
        missing = await client.get(f"{CLUSTERS}/{uuid4()}")
    assert (shown["name"], shown["standing"], shown["health"]) == ("worm-lab", "active", "healthy")
    assert {"health_since", "clock_skew_ms", "flaps", "secret", "refused_addresses", "approved_hosts"} <= set(shown)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_a_node_is_entered_as_the_documents_describe(hub):
    body = {
        "name": "partner-lab",
        "endpoint": "ch.partner-lab.edu",
        "port": 9440,
        "description": "Partner Lab ClickHouse node",
        "institution": "Partner University",
        "contact_email": "someone@partner-lab.edu",
    }
    async with hub.client() as client:
        entered = await client.post(CLUSTERS, json=body)
        wrong = await client.post(CLUSTERS, json=body | {"name": "Partner Lab"})
    assert entered.status_code == 200
    assert hub.control.asked == [("enter", ClusterEntry(**body))]
    assert (wrong.status_code, "body.name" in wrong.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "body", "asked"),
    [
        ("POST", "activate", None, ("activate", WORM)),
        ("DELETE", "", None, ("deactivate", WORM)),
        ("POST", "forget", None, ("forget", WORM)),
        ("POST", "revoke-key", {"cause": "stolen"}, ("revoke", WORM, "stolen")),
        (
            "PUT",
            "approved-hosts",
            {"hosts": ["10.0.0.0/8", "a.example"]},
            ("approve", WORM, ("10.0.0.0/8", "a.example")),
        ),
        ("PUT", "approved-hosts", {"hosts": []}, ("approve", WORM, ())),
        ("POST", "verify", None, ("verify", WORM)),
        ("POST", "test/connectivity", None, ("connectivity", WORM)),
        ("POST", "test/schema", None, ("schema", WORM)),
        ("POST", "test/query", None, ("query", WORM)),
    ],
)
async def test_what_changes_or_tests_a_node_needs_the_right_to(hub, method, path, body, asked):
    reader = await hub.tokens.create("reader", [Right.QUERY, Right.FEDERATION])
    url = f"{CLUSTERS}/{WORM}/{path}".rstrip("/")
    async with hub.client() as client, hub.client(reader.text) as other:
        refused = await other.request(method, url, json=body)
        assert (refused.status_code, hub.control.asked) == (403, [])
        done = await client.request(method, url, json=body)
        missing = await client.request(method, url.replace(str(WORM), str(uuid4())), json=body)
    assert (done.status_code, missing.status_code) == (200, 404)
    assert hub.control.asked == [asked]


async def test_a_test_that_fails_is_an_answer_with_its_cause(hub):
    async with hub.client() as client:
        passed = (await client.post(f"{CLUSTERS}/{WORM}/test/connectivity")).json()
        failed = (await client.post(f"{CLUSTERS}/{WORM}/test/schema")).json()
    assert (passed["passed"], passed["latency_ms"], passed["cause"]) == (True, 1.5, "")
    assert (failed["passed"], failed["cause"]) == (False, "behind: schema version 1, the hub has 2")


async def test_the_history_of_a_node_is_read_without_the_right_to_change_it(hub):
    reader = await hub.tokens.create("reader", [Right.FEDERATION])
    async with hub.client(reader.text) as client:
        health = (await client.get(f"{CLUSTERS}/{WORM}/health", params={"limit": 2})).json()
        too_much = await client.get(f"{CLUSTERS}/{WORM}/health", params={"limit": 100_000})
    assert health["cluster"]["name"] == "worm-lab"
    assert [(each["from_state"], each["to_state"], each["cause"]) for each in health["transitions"]] == [
        ("unknown", "healthy", "first ping")
    ] * 2
    assert too_much.status_code == 400


async def test_schemas_are_synced_at_all_nodes_or_at_those_named(hub):
    async with hub.client() as client:
        everywhere = (await client.post("/v1/federation/schema/sync", json={})).json()
        named = await client.post("/v1/federation/schema/sync", json={"dry_run": True, "cluster_ids": [str(WORM)]})
        nobody = await client.post("/v1/federation/schema/sync", json={"cluster_ids": []})
    assert everywhere["results"][0]["cluster"] == "worm-lab"
    assert (named.status_code, nobody.status_code) == (200, 400)
    assert hub.control.asked == [("sync", False, None), ("sync", True, [WORM])]


async def test_a_measurement_is_kept_and_found_again(hub):
    async with hub.client() as client:
        kept = (await client.post(BENCHMARKS, json=MEASURED | {"cluster_id": str(WORM)})).json()
        await client.post(BENCHMARKS, json=MEASURED | {"query_type": "health_check", "latency_ms": 2})
        everything = (await client.get(BENCHMARKS)).json()
        single = (await client.get(BENCHMARKS, params={"query_type": "remote_single", "limit": 50})).json()
        of_worm = (await client.get(BENCHMARKS, params={"cluster_id": str(WORM)})).json()
        summed = (await client.get(f"{BENCHMARKS}/aggregate", params={"since": "2024-01-01"})).json()
    assert [each["query_type"] for each in everything] == ["health_check", "remote_single"]
    assert single == of_worm == [kept]
    assert {name: kept[name] for name in MEASURED} == MEASURED
    assert [(each["query_type"], each["count"], each["latency_ms_p95"]) for each in summed] == [
        ("health_check", 1, 2.0),
        ("remote_single", 1, 145.0),
    ]


@pytest.mark.parametrize(("since", "found"), [("-1", 1), ("1", 0)])
@pytest.mark.parametrize("form", ["day", "moment", "moment with zone"])
async def test_measurements_are_narrowed_by_day_or_moment(hub, since, found, form):
    at = datetime.now(UTC) + timedelta(days=int(since))
    texts = {"day": f"{at:%Y-%m-%d}", "moment": f"{at:%Y-%m-%dT%H:%M:%S}", "moment with zone": at.isoformat()}
    async with hub.client() as client:
        await client.post(BENCHMARKS, json=MEASURED)
        listed = await client.get(BENCHMARKS, params={"since": texts[form]})
        summed = await client.get(f"{BENCHMARKS}/aggregate", params={"since": texts[form]})
    assert (len(listed.json()), len(summed.json())) == (found, found), listed.text


@pytest.mark.parametrize(
    "change", [{"query_type": "guess"}, {"latency_ms": -1}, {"row_count": -1}, {"unknown": 1}, {"latency_ms": 1e300}]
)
async def test_a_measurement_that_is_none_is_refused(hub, change):
    async with hub.client() as client:
        assert (await client.post(BENCHMARKS, json=MEASURED | change)).status_code == 400
        assert (await client.get(BENCHMARKS)).json() == []
