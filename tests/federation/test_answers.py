"""One question, answered across three nodes with real connectomes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from demo.local import LocalFederation
from demo.processes import command, run
from demo.reference import Expected, mean, pool, read_all, variance

COUNTS = (
    "SELECT dataset, COUNT(*) AS connections, SUM(synapse_count) AS synapses FROM synapses "
    "WHERE synapse_type = '{}' GROUP BY dataset ORDER BY dataset SCOPE federation"
)


@pytest.fixture(scope="session")
def expected(real_files: Path) -> dict[str, Expected]:
    return read_all(real_files)


def test_chemical_counts_are_the_published_ones(federation: LocalFederation) -> None:
    rows = {row[0]: tuple(row[1:]) for row in federation.query(COUNTS.format("chemical"))["rows"]}
    assert rows["cook-2019-hermaphrodite"] == (4879, 28113)
    assert rows["cook-2019-male"] == (5306, 45959)
    assert rows["witvliet-2020-8"] == (2186, 7970)


@pytest.mark.parametrize("kind", ["chemical", "electrical"])
def test_counts_and_sums_equal_an_independent_reading(
    federation: LocalFederation, expected: dict[str, Expected], kind: str
) -> None:
    wanted = [[name, len(w), sum(w)] for name, e in sorted(expected.items()) for w in [getattr(e, kind)]]
    assert federation.query(COUNTS.format(kind))["rows"] == wanted


def test_means_and_spreads_equal_an_independent_reading(
    federation: LocalFederation, expected: dict[str, Expected]
) -> None:
    text = "SELECT dataset, AVG(synapse_count), VARIANCE(synapse_count) FROM synapses GROUP BY dataset"
    rows = {row[0]: (row[1], row[2]) for row in federation.query(text, scope="federation")["rows"]}
    assert rows.keys() == expected.keys()
    for name, e in expected.items():
        assert math.isclose(rows[name][0], mean(e.weights), rel_tol=1e-12)
        assert math.isclose(rows[name][1], variance(e.weights), rel_tol=1e-9)


def test_metadata_of_data_sets_are_columns(federation: LocalFederation, expected: dict[str, Expected]) -> None:
    text = "SELECT sex, COUNT(*) FROM synapses WHERE species = 'Caenorhabditis elegans' GROUP BY sex SCOPE remote"
    rows = dict(federation.query(text)["rows"])
    male = len(expected["cook-2019-male"].weights)
    assert rows == {"male": male, "hermaphrodite": sum(len(e.weights) for e in expected.values()) - male}


def test_only_nodes_that_hold_matching_data_are_asked(federation: LocalFederation) -> None:
    job = federation.query("SELECT COUNT(*) FROM synapses WHERE dataset = 'cook-2019-male' SCOPE federation")
    assert [node["cluster"] for node in job["provenance"]["nodes"]] == ["male"]


def test_a_result_too_large_for_a_message_comes_whole(
    federation: LocalFederation, expected: dict[str, Expected]
) -> None:
    job = federation.query("SELECT cid, pre_id, post_id, synapse_count FROM synapses SCOPE federation")
    assert len(job["rows"]) == len({row[0] for row in job["rows"]}) == sum(len(e.weights) for e in expected.values())
    assert sum(row[3] for row in job["rows"]) == sum(sum(e.weights) for e in expected.values())
    assert max(node["bytes"] for node in job["provenance"]["nodes"]) > 64 * 1024


def test_an_answer_says_where_it_comes_from(federation: LocalFederation) -> None:
    provenance = federation.query(COUNTS.format("chemical"))["provenance"]
    assert {node["cluster"]: node["status"] for node in provenance["nodes"]} == dict.fromkeys(
        ("herm", "male", "dev"), "answered"
    )
    assert len(provenance["versions"]) == 10
    assert provenance["complete"] is True
    assert provenance["truncated"] is False
    again = federation.query(COUNTS.format("chemical"))["provenance"]
    assert again["plan_hash"] == provenance["plan_hash"]


def test_importing_again_changes_no_id_and_no_count(federation: LocalFederation, real_files: Path) -> None:
    text = "SELECT cid, source_id FROM synapses WHERE dataset = 'cook-2019-hermaphrodite' ORDER BY cid SCOPE federation"
    before = federation.query(text)
    federation.import_data("herm", "c-elegans-herm", real_files)
    after = federation.query(text)
    assert after["rows"] == before["rows"]
    assert after["provenance"]["versions"] == before["provenance"]["versions"]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("SELECT mesh_volum FROM neurons", "syql_unknown_name", "mesh_volume"),
        ("SELECT COUNT(* FROM neurons", "syql_syntax", ""),
        ("SELECT file('/etc/passwd') FROM neurons", "syql_", "file"),
        ("SELECT * FROM url('http://127.0.0.1/')", "syql_", "url"),
        ("SELECT * FROM remote('127.0.0.1', 'syndb.neurons')", "syql_", "remote"),
        ("SELECT sleep(3) FROM neurons", "syql_", "sleep"),
        ("SELECT 1; DROP TABLE neurons", "syql_", ""),
    ],
)
def test_a_wrong_query_is_refused_with_words(federation: LocalFederation, text: str, code: str, said: str) -> None:
    headers = {"Authorization": f"Bearer {federation.token}"}
    response = httpx.post(f"{federation.url}/v1/syql/exec", json={"query": text}, headers=headers)
    body = response.json()
    assert response.status_code == 400
    assert body["code"].startswith(code)
    assert said in body["error"] + body["hint"]
    assert "Traceback" not in response.text


def test_a_scope_that_disagrees_with_the_text_is_refused(federation: LocalFederation) -> None:
    headers = {"Authorization": f"Bearer {federation.token}"}
    body = {"query": "SELECT COUNT(*) FROM neurons SCOPE local", "scope": "federation"}
    response = httpx.post(f"{federation.url}/v1/syql/exec", json=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(("bounds", "kept"), [("", slice(None)), ("LIMIT 100 OFFSET 7000", slice(7000, 7100))])
def test_rows_of_all_nodes_come_in_one_order(
    federation: LocalFederation, expected: dict[str, Expected], bounds: str, kept: slice
) -> None:
    rows = [[name, weight] for name, found in expected.items() for weight in found.chemical]
    wanted = sorted(rows, key=lambda row: (-row[1], row[0]))
    text = "SELECT dataset, synapse_count FROM synapses WHERE synapse_type = 'chemical'"
    found = federation.query(f"{text} ORDER BY synapse_count DESC, dataset {bounds} SCOPE federation")
    assert found["rows"] == wanted[kept]


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow"])
def test_results_come_in_the_form_that_is_asked_for(federation: LocalFederation, form: str) -> None:
    job = federation.query(COUNTS.format("chemical"))
    content = federation.request("GET", f"/v1/jobs/{job['job_id']}/result", params={"format": form}).content
    if form == "csv":
        assert content.decode().splitlines()[:2] == [
            "dataset,connections,synapses",
            '"cook-2019-hermaphrodite",4879,28113',
        ]
        return
    table = (
        pa.parquet.read_table(pa.BufferReader(content)) if form == "parquet" else pa.ipc.open_file(content).read_all()
    )
    assert [list(row.values()) for row in table.to_pylist()] == job["rows"]


def test_explain_shows_the_sql_of_every_node_and_executes_nothing(federation: LocalFederation) -> None:
    found = federation.post("/v1/syql/explain", {"query": COUNTS.format("chemical")})
    assert found["node_sql"].keys() == {"herm", "male", "dev"}
    assert all('"syndb"."synapses"' in sql for sql in found["node_sql"].values())
    assert "partials" in found["hub_sql"]


def test_the_pooled_mean_equals_an_independent_fit(federation: LocalFederation, expected: dict[str, Expected]) -> None:
    body = {"table": "synapses", "metric": "synapse_count", "scope": "federation"}
    pooled = federation.post("/v1/meta-analysis/analyze", body)["groups"][0]["pooled"]
    wanted = pool([expected[name].weights for name in sorted(expected)])
    got = (pooled["estimate"], *pooled["ci"], pooled["tau2"], pooled["q"])
    right = (wanted.estimate, *wanted.ci, wanted.tau2, wanted.q)
    assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(got, right, strict=True))


def test_the_command_line_asks_and_shows(federation: LocalFederation) -> None:
    environment = {"SYNDB_SERVER_URL": federation.url, "SYNDB_TOKEN_FILE": str(federation.token_file)}
    answer: Any = json.loads(
        run(command("syndb", "syql", COUNTS.format("chemical"), "--json"), environment=environment)
    )
    assert ["cook-2019-male", 5306, 45959] in answer["rows"]
    shown = run(command("syndb", "syql", COUNTS.format("chemical")), environment=environment)
    assert "45959" in shown
    explained = run(command("syndb", "syql", COUNTS.format("chemical"), "--explain"), environment=environment)
    assert '"syndb"."synapses"' in explained
    clusters = json.loads(run(command("syndb", "federation", "clusters", "--json"), environment=environment))
    assert {cluster["name"]: cluster["health"] for cluster in clusters} == dict.fromkeys(
        ("herm", "male", "dev"), "healthy"
    )
    synced = run(command("syndb", "federation", "sync-schema", "--dry_run", "true", "--json"), environment=environment)
    assert all(result["applied"] == [] for result in json.loads(synced)["results"])


def test_a_node_operator_sees_how_the_node_stands(federation: LocalFederation) -> None:
    config = ["--config", str(federation.config("herm")), "--json"]
    status = json.loads(run(command("syndb", "federation", "status", *config)))
    assert (status["cluster"], status["state"]) == ("herm", "joined")
    tests = json.loads(run(command("syndb", "federation", "test", *config)))
    passed = {test["name"] for test in tests if test["passed"]}
    assert passed >= {"configuration", "hub", "engine", "membership"}
