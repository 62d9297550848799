"""One question, seen by whoever runs the federation: in the logs, the metrics and the traces of hub and node."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from demo.local import LocalFederation
from demo.processes import free_ports
from tests.federation.processes import eventually

Start = Callable[..., LocalFederation]
REQUEST = "a-request-of-mine"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector:
    """Receives spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        """Service and span."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                outer.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            named = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans.extend((named["service.name"], span) for span in scope.spans)


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def log_lines(federation: LocalFederation, daemon: str) -> list[dict[str, Any]]:
    lines = (federation.folder / f"{daemon}.log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_a_question_can_be_followed_through_logs_metrics_and_traces(
    start_federation: Start, real_files: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server.server_port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    hub_port, node_port = free_ports(2)
    federation = start_federation(
        "a",
        hub={"metrics": {"listen": f"127.0.0.1:{hub_port}"}},
        node={"metrics": {"listen": f"127.0.0.1:{node_port}"}},
    )
    federation.import_data("a", "c-elegans-herm", real_files)
    federation.wait_datasets({"a": 1})
    answer = httpx.post(
        f"{federation.url}/v1/syql/exec",
        json={"query": "SELECT COUNT(*) AS n FROM neurons SCOPE federation", "wait": 50},
        headers={
            "Authorization": f"Bearer {federation.token}",
            "X-Request-ID": REQUEST,
            "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
        },
        timeout=60,
    )
    assert answer.json()["status"] == "completed"

    def traces(daemon: str, event: str) -> list[str]:
        lines = [line for line in log_lines(federation, daemon) if line["event"] == event]
        return [line["trace_id"] for line in lines if line.get("request_id") == REQUEST]

    for daemon, event in (("hub", "job accepted"), ("a", "part computed")):
        assert traces(daemon, event) == [TRACE], (daemon, event)
    # A request is logged when its last byte has left, which its client may notice earlier.
    assert eventually(lambda: traces("hub", "request") == [TRACE], seconds=10)

    hub = httpx.get(f"http://127.0.0.1:{hub_port}/metrics").text
    assert 'syndb_nodes{health="healthy"} 1.0' in hub
    assert 'syndb_query_seconds_count{outcome="ok",scope="federation"} 1.0' in hub
    assert 'syndb_rpc_ask_seconds_count{message="AnalyticsQuery",outcome="ok"} 1.0' in hub
    assert 'syndb_http_request_seconds_count{operation="execute_query",status="200"}' in hub
    node = httpx.get(f"http://127.0.0.1:{node_port}/metrics").text
    assert "syndb_node_joined 1.0" in node
    assert "syndb_published_versions 1.0" in node
    assert 'syndb_query_seconds_count{outcome="ok",scope="part"} 1.0' in node

    def ours() -> dict[str, tuple[str, Any]]:
        spans = [(service, span) for service, span in collector.spans if span.trace_id.hex() == TRACE]
        return {span.name: (service, span) for service, span in spans}

    wanted = {"POST /v1/syql/exec", "job", "query", "ask AnalyticsQuery", "AnalyticsQuery", "part"}
    assert eventually(lambda: wanted <= ours().keys(), seconds=20), ours().keys()
    found = ours()
    assert (found["query"][0], found["part"][0]) == ("syndb-hub", "syndb-node")
    assert found["AnalyticsQuery"][1].parent_span_id == found["ask AnalyticsQuery"][1].span_id
