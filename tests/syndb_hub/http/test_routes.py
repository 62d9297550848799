"""The routes, asked over a socket as any client would."""

from __future__ import annotations

import io
from uuid import UUID, uuid4

import pyarrow as pa
import pyarrow.parquet
import pytest
import trio

from syndb_common.errors import PolicyRefused
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.model import METADATA, TABLES
from syndb_hub.auth import Right
from syndb_hub.federation.service import ComponentHealth

SUMS = "SELECT dataset, SUM(synapse_count) AS total, AVG(connection_score) AS score FROM synapses GROUP BY dataset"


async def completed(client, query: str, **more) -> dict:
    answer = await client.post("/v1/syql/exec", json={"query": query, "wait": 20, **more})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "completed", answer.text
    return answer.json()


async def test_health_names_every_component_and_the_store_in_use(hub):
    async with hub.client("") as client:
        health = (await client.get("/health")).json()
    assert health["status"] == "healthy"
    assert health["components"]["postgres"] == {"status": "ok", "latency_ms": 0.2, "store": "SQLite", "detail": ""}
    assert health["components"]["meilisearch"]["status"] == "not_configured"
    assert set(health["components"]) == {"postgres", "clickhouse", "storage", "meilisearch"}


async def test_one_failed_component_degrades_the_hub(hub):
    hub.probe.found["clickhouse"] = ComponentHealth(status="failed", detail="the engine is restarting")
    async with hub.client("") as client:
        health = (await client.get("/health")).json()
    assert (health["status"], health["components"]["clickhouse"]["detail"]) == ("degraded", "the engine is restarting")


async def test_the_schema_has_every_column_with_unit_and_meaning(hub):
    async with hub.client("") as client:
        schema = (await client.get("/v1/schema")).json()
    assert [table["name"] for table in schema["tables"]] == list(TABLES)
    neurons = {column["name"]: column for column in schema["tables"][0]["columns"]}
    assert neurons["mesh_volume"] == {
        "name": "mesh_volume",
        "type": "Nullable(Float64)",
        "kind": "metric",
        "unit": "nm^3",
        "description": "volume enclosed by the mesh",
        "nullable": True,
    }
    assert {each["name"]: each["description"] for each in schema["metadata"]} == dict(METADATA)
    assert schema["schema_version"] == 2


async def test_the_federation_is_described(hub):
    async with hub.client() as client:
        status = (await client.get("/v1/federation/status")).json()
        clusters = (await client.get("/v1/federation/clusters")).json()
        newer = (await client.get("/v1/federation/schema", params={"since_version": 1})).json()
        all_of_it = (await client.get("/v1/federation/schema")).json()
    assert status == {
        "total_clusters": 2,
        "active_clusters": 2,
        "healthy": 1,
        "degraded": 0,
        "unreachable": 1,
        "unknown": 0,
        "schema_version": 2,
    }
    assert [(each["name"], each["health"], len(each["datasets"])) for each in clusters] == [
        ("fly-lab", "unreachable", 0),
        ("worm-lab", "healthy", 4),
    ]
    assert [each["version"] for each in newer["migrations"]] == [2]
    assert [each["version"] for each in all_of_it["migrations"]] == [1, 2]


async def test_ping_needs_no_token(hub):
    async with hub.client("") as client:
        pong = await client.get("/v1/federation/ping")
    assert (pong.status_code, pong.json()["status"], pong.json()["version"]) == (200, "ok", "1.2.3")


async def test_a_query_is_planned_and_explained_without_being_run(hub):
    async with hub.client() as client:
        planned = (await client.post("/v1/syql/plan", json={"query": SUMS})).json()
        explained = (await client.post("/v1/syql/explain", json={"query": SUMS})).json()
    assert (planned["table"], planned["columns"]) == ("synapses", ["dataset", "total", "score"])
    assert len(planned["plan_hash"]) == 64
    assert explained["node_sql"]["worm-lab"].startswith("SELECT")
    assert explained["targets"][1] == {"cluster": "fly-lab", "included": False, "reason": "no matching data"}
    assert hub.queries.asked == []


async def test_a_query_is_executed_and_says_where_its_answer_came_from(hub):
    async with hub.client() as client:
        executed = await completed(client, SUMS, scope="federation")
        job = (await client.get(f"/v1/jobs/{executed['job_id']}")).json()
    assert executed["query_id"] == executed["job_id"]
    assert executed["rows"] == 4
    assert executed["provenance"]["scope"] == "federation"
    assert [node["status"] for node in executed["provenance"]["nodes"]] == ["answered", "failed", "skipped"]
    assert (job["status"], job["query"], job["provenance"]) == ("completed", SUMS, executed["provenance"])
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]


async def test_a_query_that_is_not_waited_for_is_found_later(hub):
    hub.queries.hold = trio.Event()
    async with hub.client() as client:
        executed = (await client.post("/v1/syql/exec", json={"query": SUMS})).json()
        assert executed["status"] == "pending"
        early = await client.get(f"/v1/jobs/{executed['job_id']}/result")
        hub.queries.hold.set()
        assert (await hub.jobs.wait(UUID(executed["job_id"]), 20)).status == "completed"
        listed = (await client.get("/v1/jobs")).json()
    assert (early.status_code, early.json()["code"]) == (409, "conflict")
    assert [job["job_id"] for job in listed] == [executed["job_id"]]


async def test_a_query_that_fails_while_it_runs_says_why(hub):
    hub.queries.error = PolicyRefused("The owner shares counts only.", hint="Ask for COUNT(*).")
    async with hub.client() as client:
        executed = (await client.post("/v1/syql/exec", json={"query": SUMS, "wait": 20})).json()
    assert executed["status"] == "failed"
    assert (executed["error_message"], executed["error_code"]) == ("The owner shares counts only.", "policy_refused")
    assert executed["error_hint"] == "Ask for COUNT(*)."


@pytest.mark.parametrize("way", ["delete", "cancel"])
async def test_a_running_query_is_cancelled(hub, way):
    hub.queries.hold = trio.Event()
    async with hub.client() as client:
        job_id = (await client.post("/v1/syql/exec", json={"query": SUMS})).json()["job_id"]
        if way == "delete":
            cancelled = await client.delete(f"/v1/jobs/{job_id}")
        else:
            cancelled = await client.post("/v1/syql/cancel", json={"query_id": job_id})
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert hub.queries.running == 0


async def test_jobs_of_another_token_are_not_found(hub):
    other = await hub.tokens.create("other", [Right.QUERY])
    async with hub.client() as mine, hub.client(other.text) as yours:
        job_id = (await completed(mine, SUMS))["job_id"]
        for path in (f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/result"):
            assert (await yours.get(path)).status_code == 404
        assert (await yours.delete(f"/v1/jobs/{job_id}")).status_code == 404
        assert (await yours.get("/v1/jobs")).json() == []
        your_job = (await completed(yours, SUMS))["job_id"]
        assert (await mine.get(f"/v1/jobs/{your_job}")).status_code == 200


async def test_a_result_as_csv_has_the_aliases_as_header_and_integers_as_integers(hub):
    async with hub.client() as client:
        job_id = (await completed(client, SUMS + " ORDER BY dataset"))["job_id"]
        answer = await client.get(f"/v1/jobs/{job_id}/result", params={"format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.text.splitlines() == [
        "dataset,total,score",
        '"worm-a",10,0.5',
        '"worm-b",21,1.375',
        '"worm-c",25,2.375',
        '"worm-single",3,3',
    ]


async def test_a_result_as_json_has_columns_and_rows_and_null_for_what_is_missing(hub):
    query = "SELECT dataset, connection_score AS score, synapse_count FROM synapses LIMIT 2"
    async with hub.client() as client:
        job_id = (await completed(client, query))["job_id"]
        answer = (await client.get(f"/v1/jobs/{job_id}/result", params={"format": "json"})).json()
    assert [(column["name"], column["type"]) for column in answer["columns"]] == [
        ("dataset", "string"),
        ("score", "double"),
        ("synapse_count", "uint32"),
    ]
    assert answer["rows"] == [["worm-a", None, 1], ["worm-a", 0.25, 2]]


async def test_a_result_as_arrow_and_as_parquet_is_the_table(hub):
    async with hub.client() as client:
        job_id = (await completed(client, SUMS))["job_id"]
        arrow = await client.get(f"/v1/jobs/{job_id}/result")
        parquet = await client.get(f"/v1/jobs/{job_id}/result", params={"format": "parquet"})
    table = pa.ipc.open_file(io.BytesIO(arrow.content)).read_all()
    assert table["total"].to_pylist() == [10, 21, 25, 3]
    assert pa.parquet.read_table(io.BytesIO(parquet.content)).equals(table)


@pytest.mark.parametrize("format", ["arrow", "csv", "parquet", "json"])
async def test_an_empty_result_is_a_result_in_every_format(hub, format):
    async with hub.client() as client:
        job_id = (await completed(client, "SELECT dataset FROM synapses WHERE dataset = 'none'"))["job_id"]
        answer = await client.get(f"/v1/jobs/{job_id}/result", params={"format": format})
    assert answer.status_code == 200
    content = io.BytesIO(answer.content)
    found = {
        "arrow": lambda: pa.ipc.open_file(content).schema.names,
        "csv": lambda: answer.text.splitlines(),
        "parquet": lambda: pa.parquet.read_schema(content).names,
        "json": lambda: [column["name"] for column in answer.json()["columns"]] + answer.json()["rows"],
    }[format]()
    assert found == ["dataset"]


async def test_many_batches_arrive_whole_in_every_format(hub):
    numbers = list(range(200_000))
    hub.queries.tables["synapses"] = pa.table({"synapse_count": pa.array(numbers, pa.uint64())})
    async with hub.client() as client:
        job_id = (await completed(client, "SELECT synapse_count FROM synapses"))["job_id"]
        arrow, csv, parquet, json = [
            await client.get(f"/v1/jobs/{job_id}/result", params={"format": format})
            for format in ("arrow", "csv", "parquet", "json")
        ]
    assert pa.ipc.open_file(io.BytesIO(arrow.content)).read_all()["synapse_count"].to_pylist() == numbers
    assert [int(line) for line in csv.text.splitlines()[1:]] == numbers
    assert pa.parquet.read_table(io.BytesIO(parquet.content))["synapse_count"].to_pylist() == numbers
    assert [row[0] for row in json.json()["rows"]] == numbers


@pytest.mark.parametrize("type", [pa.int64(), pa.uint64()])
async def test_integers_that_a_browser_would_round_come_as_strings_in_json(hub, type):
    least = -(2**53) if type == pa.int64() else 0
    roots = pa.array([1, None, 720575940621039145], type)
    first, second = pa.table({"root": roots[:2], "n": roots[:2]}), pa.table({"root": roots[2:], "n": roots[:1]})
    low = pa.table({"root": pa.array([least], type), "n": pa.array([2**53 - 1], type)})
    hub.queries.tables["synapses"] = pa.concat_tables([first, second, low])
    async with hub.client() as client:
        job_id = (await completed(client, "SELECT root, n FROM synapses"))["job_id"]
        answer = (await client.get(f"/v1/jobs/{job_id}/result", params={"format": "json"})).json()
    assert [column["type"] for column in answer["columns"]] == [str(type)] * 2
    assert answer["rows"] == [["1", 1], [None, None], ["720575940621039145", 1], [str(least), 2**53 - 1]]


async def test_ids_and_special_numbers_are_readable_in_text_formats(hub):
    cid = uuid4()
    hub.queries.tables["synapses"] = pa.table(
        {
            "cid": pa.array([cid.bytes], pa.binary(16)),
            "hash": pa.array([b"\xff\x00"]),
            "score": [float("nan")],
            "side": pa.array(["left"]).dictionary_encode(),
            "counts": pa.array([[1, 2]]),
        }
    )
    async with hub.client() as client:
        job_id = (await completed(client, "SELECT cid, hash, score, side, counts FROM synapses"))["job_id"]
        as_json = (await client.get(f"/v1/jobs/{job_id}/result", params={"format": "json"})).json()
        as_csv = (await client.get(f"/v1/jobs/{job_id}/result", params={"format": "csv"})).text
    assert as_json["rows"] == [[str(cid), "ff00", None, "left", [1, 2]]]
    assert as_csv.splitlines()[1] == f'"{cid}","ff00",nan,"left","[1, 2]"'


async def test_a_meta_analysis_pools_one_mean_per_data_set(hub):
    body = {"table": "synapses", "metric": "synapse_count", "scope": "federation"}
    async with hub.client() as client:
        answer = (await client.post("/v1/meta-analysis/analyze", json=body)).json()
        studies = answer["groups"][0]["studies"]
        used = [study for study in studies if not study["excluded"]]
        pairs = {"yi": [study["yi"] for study in used], "vi": [study["vi"] for study in used]}
        direct = (await client.post("/v1/meta-analysis/effects", json=pairs)).json()
    assert [study["dataset"] for study in studies] == ["worm-a", "worm-b", "worm-c", "worm-single"]
    first = studies[0]
    assert (first["n"], first["mean"], first["dataset_id"]) == (4, 2.5, str(dataset_id("worm-a")))
    assert first["vi"] == pytest.approx(5 / 3 / 4)
    assert "fewer than two" in studies[3]["excluded"]
    assert answer["groups"][0]["pooled"] == direct
    assert direct["k"] == 3
    assert [study["weight"] for study in used] == direct["weights"]
    assert sum(direct["weights"]) == pytest.approx(100)
    assert answer["provenance"]["complete"] is False


async def test_a_meta_analysis_by_group_pools_each_group(hub):
    body = {"table": "synapses", "metric": "synapse_count", "group_by": "synapse_type", "method": "DL"}
    async with hub.client() as client:
        answer = (await client.post("/v1/meta-analysis/analyze", json=body)).json()
    assert [group["group"] for group in answer["groups"]] == ["chemical", "electrical"]
    assert answer["groups"][0]["pooled"]["method"] == "DL"


async def test_a_meta_analysis_narrows_to_data_sets_and_a_condition(hub):
    body = {
        "table": "synapses",
        "metric": "synapse_count",
        "dataset_ids": [str(dataset_id("worm-a")), str(dataset_id("worm-b"))],
        "where": "synapse_type = 'chemical'",
    }
    async with hub.client() as client:
        answer = (await client.post("/v1/meta-analysis/analyze", json=body)).json()
    assert [study["n"] for study in answer["groups"][0]["studies"]] == [2, 3]


async def test_a_group_that_cannot_be_pooled_says_so(hub):
    body = {"table": "synapses", "metric": "synapse_count", "where": "dataset = 'worm-single'"}
    async with hub.client() as client:
        group = (await client.post("/v1/meta-analysis/analyze", json=body)).json()["groups"][0]
    assert group["pooled"] is None
    assert group["note"]


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"table": "synapse"}, "syql_unknown_name", "Did you mean synapses?"),
        ({"metric": "synapse_cont"}, "syql_unknown_name", "Did you mean synapse_count?"),
        ({"metric": "synapse_type"}, "invalid_request", "Numeric are"),
        ({"group_by": "centroid_z"}, "syql_unknown_name", "Use one of"),
        ({"group_by": "dataset"}, "syql_unknown_name", ""),
        ({"method": "GUESS"}, "invalid_request", "body.method"),
        ({"where": "1 = 1) OR (1 = 1"}, "invalid_request", "where"),
        ({"where": "1 = 1 GROUP BY dataset"}, "syql_syntax", "where"),
        ({"where": "1 = 1) GROUP BY (dataset"}, "invalid_request", "where"),
        ({"where": "1 = 1 SCOPE local"}, "syql_syntax", "where"),
        ({"where": "1 = 1 -- comment"}, "syql_syntax", "where"),
        ({"where": "1 = 1 /*"}, "syql_syntax", "where"),
        ({"where": "1 = 1) LIMIT (1"}, "invalid_request", "where"),
        ({"where": "1 = 1) SCOPE local --"}, "invalid_request", "where"),
        ({"where": "1 = 1); SELECT (1"}, "syql_syntax", "where"),
        ({"where": "(" * 5000}, "syql_syntax", "where"),
    ],
)
async def test_a_meta_analysis_of_what_does_not_fit_is_refused_before_anything_is_asked(hub, change, code, says):
    body = {"table": "synapses", "metric": "synapse_count"} | change
    async with hub.client() as client:
        answer = await client.post("/v1/meta-analysis/analyze", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert says in answer.json()["error"] + answer.json()["hint"]
    assert hub.queries.asked == []


async def test_an_error_in_the_condition_says_where_it_stands(hub):
    body = {"table": "synapses", "metric": "synapse_count", "where": "gaba > 0.5\n  AND a = = 3"}
    async with hub.client() as client:
        answer = (await client.post("/v1/meta-analysis/analyze", json=body)).json()
    assert answer["code"] == "syql_syntax"
    assert answer["error"].startswith("where: ")
    assert "(line 2, column 11)" in answer["error"]
    assert answer["details"] == {"line": 2, "column": 11, "offending": "="}


async def test_given_studies_are_pooled_as_their_means(hub):
    studies = {"studies": [{"n": 4, "mean": 1.0, "sd": 2.0}, {"n": 9, "mean": 2.0, "sd": 3.0}], "method": "FE"}
    async with hub.client() as client:
        pooled = (await client.post("/v1/meta-analysis/effects", json=studies)).json()
    assert pooled["estimate"] == pytest.approx(1.5)
    assert pooled["se"] == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"yi": [1.0]},
        {"yi": [1.0], "vi": [1.0], "studies": [{"n": 2, "mean": 1, "sd": 1}]},
        {"yi": [1.0, 2.0], "vi": [1.0]},
        {"yi": [1.0, 2.0], "vi": [1.0, -1.0]},
        {"studies": [{"n": 1, "mean": 1, "sd": 1}]},
        {"studies": [{"n": 2, "mean": 1, "sd": 0}]},
    ],
)
async def test_effects_that_cannot_be_pooled_are_refused(hub, body):
    async with hub.client() as client:
        answer = await client.post("/v1/meta-analysis/effects", json=body)
    assert answer.status_code == 400
