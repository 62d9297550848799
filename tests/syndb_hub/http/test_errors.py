"""Whatever goes wrong, wherever: one shape, a stable code, a hint, the request's id and no traceback."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest
import trio

from syndb_hub.auth import Right
from syndb_hub.settings import HttpSettings, JobSettings

QUERY = {"query": "SELECT dataset FROM synapses"}


def options(**settings):
    return SimpleNamespace(http=HttpSettings(**settings), jobs=JobSettings(), serve={})


def shape(answer: httpx.Response, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error", "code", "hint", "details", "request_id"}
    assert body["code"] == code
    assert body["error"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/federation/status"),
        ("GET", "/v1/federation/clusters"),
        ("GET", "/v1/federation/schema"),
        ("POST", "/v1/syql/plan"),
        ("POST", "/v1/syql/explain"),
        ("POST", "/v1/syql/exec"),
        ("POST", "/v1/syql/cancel"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobs/00000000-0000-0000-0000-000000000000"),
        ("DELETE", "/v1/jobs/00000000-0000-0000-0000-000000000000"),
        ("GET", "/v1/jobs/00000000-0000-0000-0000-000000000000/result"),
        ("POST", "/v1/meta-analysis/analyze"),
        ("POST", "/v1/meta-analysis/effects"),
    ],
)
async def test_without_a_token_there_is_nothing_but_401(hub, method, path):
    async with hub.client("") as client:
        answer = await client.request(method, path)
    shape(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("value", ["Bearer", "Bearer nonsense", "Basic dTpw", "Bearer syndb_0_0", "Bearer \xff"])
async def test_a_credential_that_is_none_is_401(hub, value):
    async with hub.client("") as client:
        shape(await client.get("/v1/jobs", headers={"authorization": value.encode("latin-1")}), 401, "unauthenticated")


async def test_a_revoked_token_is_refused_from_the_next_request_on(hub):
    async with hub.client() as client:
        assert (await client.get("/v1/jobs")).status_code == 200
        await hub.tokens.revoke("everything")
        body = shape(await client.get("/v1/jobs"), 401, "unauthenticated")
    assert "revoked" in body["error"]


async def test_a_token_without_the_right_is_403_and_says_which(hub):
    token = (await hub.tokens.create("reader", [Right.QUERY])).text
    async with hub.client(token) as client:
        assert (await client.get("/v1/jobs")).status_code == 200
        body = shape(await client.get("/v1/federation/clusters"), 403, "forbidden")
    assert "--scope federation" in body["hint"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"not json", "body"),
        (b"[]", "body"),
        (b"{}", "body.query"),
        (b'{"query": ""}', "body.query"),
        (b'{"query": 5}', "body.query"),
        (b'{"query": "SELECT 1", "scope": "galaxy"}', "body.scope"),
        (b'{"query": "SELECT 1", "wait": -1}', "body.wait"),
        (b'{"query": "SELECT 1", "wiat": 1}', "body.wiat"),
        (b'{"query": "SELECT 1", "cluster_ids": ["x"]}', "body.cluster_ids.0"),
        (b"[" * 100_000, "body"),
    ],
)
async def test_a_wrong_body_is_400_and_names_the_field(hub, body, field):
    async with hub.client() as client:
        answer = await client.post("/v1/syql/exec", content=body)
    assert shape(answer, 400, "invalid_request")["details"]["fields"][0]["field"] == field


async def test_what_was_sent_is_not_repeated_in_the_error(hub):
    async with hub.client() as client:
        answer = await client.post("/v1/syql/exec", json={"query": "SELECT 1", "scope": "hunter2"})
    assert "hunter2" not in answer.text


async def test_a_wrong_parameter_is_400_and_names_it(hub):
    async with hub.client() as client:
        for path, field in (
            ("/v1/jobs/17", "path.job_id"),
            ("/v1/jobs?limit=0", "query.limit"),
            ("/v1/jobs?limti=1", "query.limti"),
            ("/v1/federation/schema?since_version=x", "query.since_version"),
        ):
            body = shape(await client.get(path), 400, "invalid_request")
            assert body["details"]["fields"][0]["field"] == field


async def test_a_query_that_cannot_be_answered_is_refused_at_once(hub):
    async with hub.client() as client:
        for query, code in (
            ("SELECT nothing FROM synapses", "syql_unknown_name"),
            ("SELECT FROM WHERE", "syql_syntax"),
            ("SELECT sleep(3) FROM synapses", "syql_not_supported"),
        ):
            for path in ("plan", "explain", "exec"):
                shape(await client.post(f"/v1/syql/{path}", json={"query": query}), 400, code)
        assert (await client.get("/v1/jobs")).json() == []


async def test_a_scope_that_disagrees_with_the_text_is_400(hub):
    body = {"query": "SELECT dataset FROM synapses SCOPE federation", "scope": "local"}
    async with hub.client() as client:
        shape(await client.post("/v1/syql/exec", json=body), 400, "invalid_request")


async def test_what_does_not_exist_is_404_and_a_wrong_method_405(hub):
    async with hub.client() as client:
        shape(await client.get("/v2/everything"), 404, "not_found")
        shape(await client.get("/static/nothing.js"), 404, "not_found")
        shape(await client.get("/static/%2e%2e/__init__.py"), 404, "not_found")
        answer = await client.put("/v1/syql/exec")
        shape(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


async def test_an_unforeseen_error_is_500_without_its_details(hub, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(type(hub.queries), "explain", broken)
    async with hub.client() as client:
        answer = await client.post("/v1/syql/plan", json=QUERY)
        shape(answer, 500, "internal_error")
        assert "hunter2" not in answer.text
        assert (await client.get("/v1/jobs")).status_code == 200


@pytest.mark.parametrize("hub_options", [options(request_timeout_seconds=0.2)])
async def test_a_request_that_takes_too_long_is_408_and_its_query_is_cancelled(hub):
    hub.queries.hold = trio.Event()
    async with hub.client() as client:
        body = {"table": "synapses", "metric": "synapse_count"}
        shape(await client.post("/v1/meta-analysis/analyze", json=body), 408, "request_timeout")
    assert hub.queries.running == 0


@pytest.mark.parametrize("hub_options", [options(max_body_bytes=2000)])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_beyond_the_limit_is_413_declared_or_not(hub, declared):
    async def chunks():
        for _ in range(100):
            yield b" " * 100

    async with hub.client() as client:
        content = b" " * 10_000 if declared else chunks()
        shape(await client.post("/v1/syql/exec", content=content), 413, "limit_exceeded")
        assert (await client.get("/health")).status_code == 200


async def test_json_beyond_a_megabyte_is_413(hub):
    async with hub.client() as client:
        answer = await client.post("/v1/syql/exec", json={"query": "x" * 2_000_000})
    shape(answer, 413, "limit_exceeded")


async def test_a_refused_upload_of_any_size_learns_why(hub):
    async with hub.client("") as client:
        for size in (1, 100_000, 30_000_000):
            shape(await client.post("/v1/syql/exec", content=b" " * size), 401, "unauthenticated")


@pytest.mark.parametrize("hub_options", [options(rate_limit_burst=3, rate_limit_per_second=0.01)])
async def test_too_many_requests_are_429_and_say_when_to_return(hub):
    async with hub.client() as client:
        answers = [await client.get("/v1/federation/ping") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    shape(answers[3], 429, "too_many_requests")
    assert 1 <= int(answers[3].headers["retry-after"]) <= 100


async def test_every_answer_carries_the_fixed_headers(hub):
    async with hub.client("") as client:
        for path in ("/", "/health", "/nothing", "/static/page.js", "/v1/jobs"):
            headers = (await client.get(path)).headers
            assert headers["api-version"] == "v1"
            assert "script-src 'self'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "server" not in headers


@pytest.mark.parametrize(("given", "kept"), [("abc-123_X.9", True), ("x" * 65, False), ("a b", False), ("a{b", False)])
async def test_the_clients_request_id_is_kept_when_it_is_harmless(hub, given, kept):
    async with hub.client("") as client:
        returned = (await client.get("/health", headers={"x-request-id": given})).headers["x-request-id"]
    assert (returned == given) is kept
    assert kept or len(returned) == 36


async def test_a_hub_that_gets_garbage_stays_up(hub):
    address = hub.url.removeprefix("http://").split(":")
    for garbage in (
        b"\x00\xff" * 50_000,
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
    ):
        stream = await trio.open_tcp_stream(address[0], int(address[1]))
        try:
            await stream.send_all(garbage)
            with trio.move_on_after(1):
                await stream.receive_some()
        except trio.BrokenResourceError:
            pass
        await stream.aclose()
    async with hub.client("") as client:
        assert (await client.get("/health")).status_code == 200
