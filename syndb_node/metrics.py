"""What a node tells Prometheus at the moment of a scrape."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from syndb_common.metrics import Sample
from syndb_common.tables.versions import PublishedVersion


def readings(
    *,
    joined: bool,
    running: int,
    engine_ok: bool,
    versions: Collection[PublishedVersion],
    network: Mapping[str, int],
) -> Iterator[Sample]:
    """How the node stands.

    Args:
        joined: whether the hub has accepted it and pings it.
        running: queries under way.
        engine_ok: whether ClickHouse answers.
        versions: what is published.
        network: the host's counters since its start.
    """
    yield "syndb_node_joined", "1 while the hub pings this node, else 0.", (), [((), float(joined))]
    yield "syndb_node_running_queries", "Queries of the federation under way.", (), [((), float(running))]
    yield "syndb_engine_ok", "1 while ClickHouse answers, else 0.", (), [((), float(engine_ok))]
    yield "syndb_published_versions", "Published versions of data sets.", (), [((), float(len(versions)))]
    rows = float(sum(sum(version.row_counts.values()) for version in versions))
    yield "syndb_published_rows", "Rows of all published versions.", (), [((), rows)]
    yield (
        "syndb_network_events",
        "Refused and failed streams and connections since the start.",
        ("event",),
        [((name,), float(count)) for name, count in sorted(network.items())],
    )
