"""Work keeps its name wherever it goes, and traces begun by a client are passed on or recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from syndb_common import tracing
from syndb_common.tracing import Work, current_work, doing, span, traceparent

CLIENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def test_work_is_named_inside_the_block_only() -> None:
    with doing(Work("a")):
        assert current_work.get() == Work("a")
    assert current_work.get() is None


def test_without_a_recorder_a_clients_trace_is_passed_on_unchanged() -> None:
    with doing(Work("a", CLIENT)), span("query"):
        assert current_work.get() == Work("a", CLIENT)


def test_with_a_recorder_what_is_asked_becomes_a_child_of_the_span(spans: InMemorySpanExporter) -> None:
    with doing(Work("a", CLIENT)), span("query", nodes=3):
        inside = current_work.get()
        with span("part"):
            pass
    part, query = spans.get_finished_spans()
    assert (query.name, dict(query.attributes or {})) == ("query", {"nodes": 3})
    assert format(query.context.trace_id, "032x") == CLIENT.split("-")[1]
    assert query.parent is not None
    assert format(query.parent.span_id, "016x") == CLIENT.split("-")[2]
    assert inside is not None
    assert inside.request_id == "a"
    assert inside.traceparent.split("-")[2] == format(query.context.span_id, "016x")
    assert part.parent is not None
    assert part.parent.span_id == query.context.span_id


def test_what_a_daemon_does_by_itself_is_not_recorded(spans: InMemorySpanExporter) -> None:
    with span("ping") as recorded:
        assert recorded is trace.INVALID_SPAN
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize("text", ["", "x", CLIENT[:-1], CLIENT.upper(), CLIENT + "\n", "00-" + "z" * 32 + CLIENT[35:]])
def test_what_is_no_trace_context_counts_as_none(text: str) -> None:
    assert traceparent(text) == ""


def test_a_trace_context_is_taken_as_it_is() -> None:
    assert traceparent(CLIENT) == CLIENT


def test_every_log_line_names_the_request_and_the_trace() -> None:
    script = (
        "import structlog; from syndb_common import daemon, tracing; daemon.configure_logging();"
        "log = structlog.get_logger(); log.info('outside')\n"
        f"with tracing.doing(tracing.Work('r-1', '{CLIENT}')): log.info('inside')"
    )
    lines = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr
    outside, inside = (json.loads(line) for line in lines.splitlines())
    assert "request_id" not in outside
    assert (inside["request_id"], inside["trace_id"]) == ("r-1", CLIENT.split("-")[1])


def test_spans_are_sent_only_where_a_collector_is_named() -> None:
    script = "from syndb_common.tracing import export_traces; print(export_traces('syndb-hub'))"
    plain = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=plain)
    assert done.stdout == "False\n"
