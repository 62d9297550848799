"""What daemons count and time, in the form Prometheus reads.

Counters of the whole process live here, beside their names and units, so that every part can use them and the docs
can list them. What a daemon knows at the moment of being asked, such as the health of its nodes, it tells through
:class:`Reading`. Labels have few values: never ids, names of people, or texts of queries.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from syndb_common.errors import ConfigError, SynDBError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

HTTP_SECONDS = Histogram(
    "syndb_http_request_seconds",
    "Requests of the REST API and the pages, by operation and status.",
    ["operation", "status"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
RPC_SENT = Histogram(
    "syndb_rpc_ask_seconds",
    "Messages sent to other daemons, until their answer; outcome is ok or the error's code.",
    ["message", "outcome"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
RPC_ANSWERED = Histogram(
    "syndb_rpc_answer_seconds",
    "Messages of other daemons, until answered; outcome is ok or the error's code.",
    ["message", "outcome"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
QUERY_SECONDS = Histogram(
    "syndb_query_seconds",
    "Questions answered by the hub, or parts computed by a node; outcome is ok or the error's code.",
    ["scope", "outcome"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
SCANNED_ROWS = Counter("syndb_query_scanned_rows", "Rows that queries read.", registry=REGISTRY)
SCANNED_BYTES = Counter("syndb_query_scanned_bytes", "Bytes that queries read.", registry=REGISTRY)
HEALTH_CHANGES = Counter("syndb_health_changes", "Changes of a node's health.", ["to"], registry=REGISTRY)
ACTOR_EVENTS = Counter(
    "syndb_actor_events",
    "Starts, crashes and restarts of the daemon's own parts.",
    ["actor", "event"],
    registry=REGISTRY,
)
LOOP_LAG = Gauge(
    "syndb_event_loop_lag_seconds", "How late the daemon's loop woke up when it was last looked at.", registry=REGISTRY
)
TASKS = Gauge("syndb_tasks", "Tasks in the daemon's loop when it was last looked at.", registry=REGISTRY)

LAG_SECONDS = 5.0
"""How often the lag of the loop is measured, and its tasks are counted."""


class timed:  # noqa: N801 - reads as what a block is
    """Observe how long a block takes, under ``first`` and its outcome: ``ok``, an error's code, or ``cancelled``."""

    __slots__ = ("_began", "_first", "_histogram")

    def __init__(self, histogram: Histogram, first: str) -> None:
        self._histogram = histogram
        self._first = first

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            outcome = "ok"
        elif isinstance(error, SynDBError):
            outcome = error.code
        else:
            outcome = SynDBError.code if isinstance(error, Exception) else "cancelled"
        _series(self._histogram, self._first, outcome).observe(time.perf_counter() - self._began)


@lru_cache(maxsize=1024)
def _series(histogram: Histogram, *labels: str) -> Histogram:
    """One series of a histogram, which takes its library longer to find than to write to."""
    return histogram.labels(*labels)


Sample = tuple[str, str, tuple[str, ...], list[tuple[tuple[str, ...], float]]]
"""Name, description, names of the labels, and the value for each combination of labels."""


class Reading(Collector):
    """Values read at the moment of a scrape, which happens in the daemon's loop."""

    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The values."""
        for name, description, labels, values in self._read():
            family = GaugeMetricFamily(name, description, labels=labels)
            for combination, value in values:
                family.add_metric(combination, value)
            yield family


async def serve_metrics(
    listen: str,
    read: Callable[[], Iterable[Sample]],
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``/metrics`` until cancelled; returns at once for an empty ``listen``.

    ``task_status`` receives the URL, with the port that was chosen when it was 0.

    Args:
        listen: ``host:port``.
        read: this daemon's own values.

    Raises:
        ConfigError: the address is none, or cannot be listened on.
    """
    if not listen:
        task_status.started("")
        return
    from syndb_common import http_server

    listener = _listen(listen)
    reading = Reading(read)
    REGISTRY.register(reading)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_measure_lag)
            task_status.started(f"{http_server.url_of(listener)}/metrics")
            await http_server.serve(_pages(), listener, "syndb.metrics")
    finally:
        REGISTRY.unregister(reading)


def _pages() -> ASGIApp:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics)])


async def _measure_lag() -> None:
    while True:
        expected = trio.current_time() + LAG_SECONDS
        await trio.sleep_until(expected)
        LOOP_LAG.set(trio.current_time() - expected)
        TASKS.set(trio.lowlevel.current_statistics().tasks_living)


def _listen(listen: str) -> socket.socket:
    from syndb_common import http_server

    try:
        parts = urlsplit(f"//{listen}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None:
        raise ConfigError(f"metrics.listen is {listen!r:.100}", hint="Write host:port, for instance 127.0.0.1:9464.")
    try:
        return http_server.listen(host, port)
    except OSError as error:
        raise ConfigError(
            f"cannot serve metrics at {listen}: {error.strerror}", hint="Choose another metrics.listen."
        ) from error
