"""The OpenAPI document: whole, consistent, and true of the routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from syndb_hub.http.openapi import document
from syndb_hub.http.routes import OPERATIONS

ROUTES = {
    ("get", "/health"),
    ("get", "/v1/schema"),
    ("get", "/v1/federation/ping"),
    ("get", "/v1/federation/status"),
    ("get", "/v1/federation/clusters"),
    ("get", "/v1/federation/schema"),
    ("post", "/v1/federation/schema/sync"),
    ("post", "/v1/federation/clusters"),
    ("get", "/v1/federation/clusters/{cluster_id}"),
    ("delete", "/v1/federation/clusters/{cluster_id}"),
    ("post", "/v1/federation/clusters/{cluster_id}/activate"),
    ("post", "/v1/federation/clusters/{cluster_id}/forget"),
    ("post", "/v1/federation/clusters/{cluster_id}/revoke-key"),
    ("put", "/v1/federation/clusters/{cluster_id}/approved-hosts"),
    ("get", "/v1/federation/clusters/{cluster_id}/health"),
    ("post", "/v1/federation/clusters/{cluster_id}/verify"),
    ("post", "/v1/federation/clusters/{cluster_id}/test/connectivity"),
    ("post", "/v1/federation/clusters/{cluster_id}/test/schema"),
    ("post", "/v1/federation/clusters/{cluster_id}/test/query"),
    ("post", "/v1/federation/register"),
    ("post", "/v1/federation/benchmarks"),
    ("get", "/v1/federation/benchmarks"),
    ("get", "/v1/federation/benchmarks/aggregate"),
    ("post", "/v1/syql/plan"),
    ("post", "/v1/syql/explain"),
    ("post", "/v1/syql/exec"),
    ("post", "/v1/syql/cancel"),
    ("get", "/v1/jobs"),
    ("get", "/v1/jobs/{job_id}"),
    ("delete", "/v1/jobs/{job_id}"),
    ("get", "/v1/jobs/{job_id}/result"),
    ("get", "/v1/flight"),
    ("post", "/v1/neurodata/downloads"),
    ("get", "/v1/neurodata/downloads/{download_id}"),
    ("delete", "/v1/neurodata/downloads/{download_id}"),
    ("get", "/v1/neurodata/downloads/{download_id}/files/{name}"),
    ("post", "/v1/meta-analysis/analyze"),
    ("post", "/v1/meta-analysis/effects"),
}
PUBLIC = {"/v1/flight", "/health", "/v1/schema", "/v1/federation/ping", "/v1/federation/register"}


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    return document(OPERATIONS, version="1.2.3")


def each(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from each(value)
    elif isinstance(node, list):
        for value in node:
            yield from each(value)


def operations(openapi: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_every_route_is_described(openapi):
    assert {(method, path) for method, path, _ in operations(openapi)} == ROUTES


def test_every_reference_resolves(openapi):
    references = [node["$ref"] for node in each(openapi) if "$ref" in node]
    assert references
    for reference in references:
        target: Any = openapi
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        assert target


def test_no_schema_is_left_over(openapi):
    used = {node["$ref"].rpartition("/")[2] for node in each(openapi) if "$ref" in node}
    assert set(openapi["components"]["schemas"]) == used


def test_every_operation_has_an_id_a_summary_and_the_error_shape(openapi):
    ids = [operation["operationId"] for _, _, operation in operations(openapi)]
    assert len(set(ids)) == len(ids)
    for _, path, operation in operations(openapi):
        assert operation["summary"], path
        problem = operation["responses"]["default"]["content"]["application/json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/Problem"}
        assert "422" not in operation["responses"]


def test_what_is_open_to_everybody_is_a_short_list(openapi):
    assert {path for _, path, operation in operations(openapi) if "security" not in operation} == PUBLIC


def test_path_parameters_are_those_of_the_path(openapi):
    for _, path, operation in operations(openapi):
        named = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_the_formats_of_a_result_are_all_named(openapi):
    result = openapi["paths"]["/v1/jobs/{job_id}/result"]["get"]
    assert set(result["responses"]["200"]["content"]) == {
        "application/vnd.apache.arrow.file",
        "application/vnd.apache.parquet",
        "text/csv; charset=utf-8",
        "application/x-xz",
        "application/json",
    }
    assert "ask again" in result["responses"]["202"]["description"]


async def test_the_document_is_served(hub, openapi):
    async with hub.client("") as client:
        assert (await client.get("/openapi.json")).json() == openapi
