"""The work a message belongs to, carried across tasks, actors and daemons, so that logs of all places fit together.

An HTTP request, a job or a command starts some work and names it; whatever is asked because of it carries the name:
``actors.runtime`` with every message (:func:`actors.runtime.carry`), ``actors.remote`` in the request's envelope.

Spans are recorded by OpenTelemetry where its SDK is installed (``pip install 'syndb[tracing]'``) and
``OTEL_EXPORTER_OTLP_ENDPOINT`` names a collector. Without it nothing is recorded, and a trace that a client began is
passed on all the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from syndb_common.errors import ConfigError

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("syndb")
_NOTHING: AbstractContextManager[trace.Span] = nullcontext(trace.INVALID_SPAN)


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work.

    Attributes:
        request_id: names it in logs and to its user; ``X-Request-ID`` over HTTP.
        traceparent: W3C trace context of the span that is under way, or empty when nobody records traces.
    """

    request_id: str
    traceparent: str = ""


current_work: ContextVar[Work | None] = ContextVar("syndb_work", default=None)
"""The work this task does; None for what a daemon does by itself."""


@contextmanager
def doing(work: Work) -> Iterator[None]:
    """What the block does is part of ``work``."""
    token = current_work.set(work)
    try:
        yield
    finally:
        current_work.reset(token)


def traceparent(text: str) -> str:
    """A W3C ``traceparent`` as it came from outside, or nothing when it is none."""
    return text if _TRACEPARENT.fullmatch(text) else ""


def span(name: str, **attributes: str | int | float | bool) -> AbstractContextManager[trace.Span]:
    """Record a block as a span of the present work; its own asks become children of it.

    Outside of any work nothing is recorded: pings and the like would drown what people look for.
    """
    work = current_work.get()
    return _NOTHING if work is None else _recorded(work, name, attributes)


@contextmanager
def _recorded(work: Work, name: str, attributes: Mapping[str, str | int | float | bool]) -> Iterator[trace.Span]:
    parent = _propagator.extract({"traceparent": work.traceparent}) if work.traceparent else None
    with _tracer.start_as_current_span(name, context=parent, attributes=attributes) as recorded:
        headers: dict[str, str] = {}
        _propagator.inject(headers)
        with doing(Work(work.request_id, headers.get("traceparent", work.traceparent))):
            yield recorded


def export_traces(service: str) -> bool:
    """Send spans to the collector that the ``OTEL_*`` variables name; False when they name none.

    Args:
        service: the name under which they appear, unless ``OTEL_SERVICE_NAME`` says otherwise.

    Raises:
        ConfigError: a collector is named and the SDK is not installed.
    """
    if not (os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and what sends traces is not installed",
            hint="Install the extra `tracing`, or unset the variable.",
        ) from error
    named = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": named}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True
