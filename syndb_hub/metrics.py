"""What the hub tells Prometheus at the moment of a scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from actors.directory import Directory, Health, Standing
from syndb_common.metrics import Sample


def readings(directory: Directory, network: Mapping[str, int], jobs: Mapping[str, int]) -> Iterator[Sample]:
    """The state of nodes, network and jobs.

    Args:
        directory: the nodes.
        network: the host's counters since its start.
        jobs: jobs by state, of those that have not ended.
    """
    clusters = [cluster for cluster in directory.clusters.values() if cluster.record.is_active]
    everybody = [cluster.record.standing for cluster in directory.clusters.values()]
    yield (
        "syndb_nodes",
        "Active nodes by health.",
        ("health",),
        [((state.value,), float(sum(cluster.health is state for cluster in clusters))) for state in Health],
    )
    yield (
        "syndb_node_standings",
        "Nodes by standing.",
        ("standing",),
        [((standing.value,), float(everybody.count(standing))) for standing in Standing],
    )
    yield (
        "syndb_node_answers",
        "1 for a node that queries may go to, else 0.",
        ("cluster",),
        [((cluster.record.name,), float(cluster.health.routable)) for cluster in clusters],
    )
    yield (
        "syndb_node_latency_seconds",
        "Time of the node's last answered ping.",
        ("cluster",),
        [((c.record.name,), c.latency_seconds) for c in clusters if c.latency_seconds is not None],
    )
    yield (
        "syndb_node_clock_skew_seconds",
        "The node's clock minus the hub's.",
        ("cluster",),
        [((c.record.name,), c.clock_skew_seconds) for c in clusters if c.clock_skew_seconds is not None],
    )
    yield (
        "syndb_network_events",
        "Refused and failed streams and connections since the start.",
        ("event",),
        [((name,), float(count)) for name, count in sorted(network.items())],
    )
    yield "syndb_jobs", "Jobs that have not ended.", ("state",), [((s,), float(n)) for s, n in sorted(jobs.items())]
