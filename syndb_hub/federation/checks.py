"""The tests of one node, each tried for real, in the order in which one needs the other.

| test | what is tried | what it needs |
|---|---|---|
| connectivity | a ping over libp2p, then a TLS handshake with the Flight server | nothing |
| schema | the version that the node says it has now, against the hub's | the ping |
| query | rows of one published data set counted through a query, against the catalogue | both others |

A cause says what failed and what to do about it.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

import trio

from actors.directory import Cluster, Directory, Standing, is_replica, owned
from actors.runtime import ActorError, ActorRef
from syndb_common.errors import ConfigError, DeadlineExceeded, PeerUnavailable, SynDBError, Unavailable
from syndb_common.messages import HealthPing, HealthReport
from syndb_common.syql import Scope
from syndb_common.tables.model import TABLES
from syndb_common.tables.versions import PublishedVersion
from syndb_hub.federation.answers import Queries
from syndb_hub.federation.fan_out import no_flight
from syndb_hub.federation.service import Check
from syndb_hub.federation.ways import greet

Test = Literal["connectivity", "schema", "query"]

PING_SECONDS = 10.0
"""Five times what a regular ping has: a test should find a slow node, not call it gone."""
FLIGHT_SECONDS = 5.0
"""For a TCP connection and a TLS handshake; three round trips."""
QUERY_SECONDS = 20.0

NOT_ACTIVE = {
    Standing.PENDING: "is pending: no node has proved this name yet; start the node, it joins by itself",
    Standing.WAITING: "waits for approval: `syndb federation clusters activate {name}`",
    Standing.INACTIVE: "was deactivated: `syndb federation clusters activate {name}` lets it take part again",
}


def why_not_asked(cluster: Cluster) -> str:
    """Why a node takes no part, and what changes that; empty for one that does."""
    standing = cluster.record.standing
    name = cluster.record.name
    if standing is Standing.WAITING and cluster.record.peer_id is None:
        return f"{name} waits for a node with another key than the one that was revoked, and then for approval"
    return "" if standing is Standing.ACTIVE else f"{name} {NOT_ACTIVE[standing].format(name=name)}"


class Checks:
    """Tests single nodes.

    Args:
        directory: says who owns which data set.
        peer: makes the reference to a node.
        queries: answers the query of the last test.
        schema_version: the hub's.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        peer: Callable[[Cluster], ActorRef],
        queries: Queries,
        schema_version: int,
    ) -> None:
        self._directory = directory
        self._peer = peer
        self._queries = queries
        self._schema_version = schema_version

    async def connectivity(self, cluster: Cluster) -> Check:
        """Whether the node answers a ping, and its Flight server a handshake; the latency is the ping's."""
        began = trio.current_time()
        try:
            await self._ping(cluster)
            latency = trio.current_time() - began
            await self._shake_hands(cluster)
        except SynDBError as error:
            return _failed("connectivity", trio.current_time() - began, error.message)
        location = cluster.dial.flight.removeprefix("grpc+tls://")
        return _passed("connectivity", latency, f"answers pings, and its Flight server at {location} handshakes")

    async def schema(self, cluster: Cluster) -> Check:
        """Whether the node's schema is the hub's, or newer."""
        began = trio.current_time()
        try:
            report = await self._ping(cluster)
        except SynDBError as error:
            return _failed("schema", trio.current_time() - began, f"connectivity failed: {error.message}")
        seconds = trio.current_time() - began
        node, hub = report.schema_version, self._schema_version
        detail = f"node {node}, hub {hub}"
        if node < hub:
            cause = (
                f"behind: schema version {node}, the hub has {hub}; run `syndb federation sync-schema`, and if that "
                "changes nothing, look at the node's log and its free disk space"
            )
            if report.engine != "ok":
                cause += f" (engine: {report.engine})"
            return _failed("schema", seconds, cause, detail)
        if node > hub:
            detail += ": ahead; queries reach it all the same, update the hub"
        return _passed("schema", seconds, detail)

    async def query(self, cluster: Cluster) -> Check:
        """Whether counting one data set's rows at the node gives the number that its catalogue says."""
        for earlier in (await self.connectivity(cluster), await self.schema(cluster)):
            if not earlier.passed:
                return _failed("query", 0.0, f"not tried, since {earlier.test} failed: {earlier.cause}")
        asked = self._something_to_count(cluster)
        if isinstance(asked, str):
            return _failed("query", 0.0, asked)
        version, table = asked
        text = f"SELECT COUNT(*) AS n FROM {table} WHERE dataset_id = '{version.dataset_id}' SCOPE remote"  # noqa: S608
        began = trio.current_time()
        try:
            answer = await self._queries.run(
                text, scope=Scope.REMOTE, cluster_ids=[cluster.record.id], seconds=QUERY_SECONDS, require="all"
            )
        except SynDBError as error:
            return _failed("query", trio.current_time() - began, f"{error.message} {error.hint}".strip(), text)
        seconds = trio.current_time() - began
        [counted] = answer.table["n"].to_pylist() or [None]
        expected = version.row_counts[table]
        name = version.metadata.dataset
        if counted != expected:
            cause = f"{name} has {counted} rows in {table}, its catalogue says {expected}: import it again"
            return _failed("query", seconds, cause, text)
        return _passed("query", seconds, f"counted {counted} rows of {name} in {table}")

    def _something_to_count(self, cluster: Cluster) -> tuple[PublishedVersion, str] | str:
        """The newest version of a data set that the node answers for, best one it shares rows of, and a table of it;
        or why there is none."""
        if not cluster.versions:
            return "nothing to ask for: the node has published no data set; import one (`syndb etl`)"
        counted = owned(self._directory.clusters.values())
        newest = {
            version.dataset_id: version
            for version in sorted(cluster.versions, key=lambda version: version.version)
            if is_replica(version, counted)
        }
        if not newest:
            return "nothing to ask for: all its data sets belong to other nodes"
        shared = [version for version in newest.values() if cluster.sharing.get(version.dataset_id) != "none"]
        if not shared:
            return "nothing to ask for: the node shares none of its data sets (policy.share = none)"
        for version in sorted(shared, key=lambda version: cluster.sharing.get(version.dataset_id) != "rows"):
            for table, rows in version.row_counts.items():
                if rows and table in TABLES:
                    return version, table
        return "nothing to ask for: its data sets have no rows in tables that this hub knows"

    async def _ping(self, cluster: Cluster) -> HealthReport:
        if cause := why_not_asked(cluster):
            raise Unavailable(cause)
        try:
            report: HealthReport = await self._peer(cluster).ask(HealthPing(clock=time.time()), timeout=PING_SECONDS)
        except DeadlineExceeded:
            raise Unavailable(
                f"no answer to a ping within {PING_SECONDS:g} s: the machine is overloaded or the line loses packets; "
                "look at its load and its log"
            ) from None
        except PeerUnavailable as error:
            raise Unavailable(no_connection(cluster, error.message)) from None
        except ActorError as error:
            raise Unavailable(f"the hub could not ask it: {error}") from error
        return report

    async def _shake_hands(self, cluster: Cluster) -> None:
        """Connect to the approved Flight location and check that the registered certificate's owner answers."""
        if not cluster.dial.flight:
            raise Unavailable(no_flight(cluster))
        try:
            with trio.fail_after(FLIGHT_SECONDS):
                await greet(cluster.dial)
        except ConfigError as error:
            raise Unavailable(error.message) from None
        except (trio.TooSlowError, OSError, trio.BrokenResourceError) as error:
            raise Unavailable(_unreachable(urlsplit(cluster.dial.flight).netloc, error)) from None


def no_connection(cluster: Cluster, cause: str) -> str:
    """Why a node cannot be reached over libp2p, and what to do."""
    text = f"no connection: {cause}; open UDP 4001 or TCP 4001 between node and hub, and see that the node runs"
    if cluster.refused_addresses:
        text += (
            f"; it announces addresses that the hub does not dial: {', '.join(cluster.refused_addresses)}; "
            f"`syndb federation clusters approve-hosts {cluster.record.name} HOST` approves one"
        )
    return text


def _unreachable(place: str, error: BaseException) -> str:
    leaf: BaseException | None = error
    while leaf is not None and not isinstance(leaf, ssl.SSLCertVerificationError):
        leaf = leaf.__cause__
    if leaf is not None:
        return (
            f"another server answers at {place}: its certificate is not the one that the node registered; "
            "correct flight.advertise, or restart the node so that it registers anew"
        )
    cause = f"within {FLIGHT_SECONDS:g} s" if isinstance(error, trio.TooSlowError) else str(error)
    return f"the Flight port {place} is not reachable ({cause}): forward it or set flight.advertise"


def _passed(test: Test, seconds: float, detail: str) -> Check:
    return Check(test=test, passed=True, latency_ms=round(seconds * 1000, 1), detail=detail)


def _failed(test: Test, seconds: float, cause: str, detail: str = "") -> Check:
    return Check(test=test, passed=False, latency_ms=round(seconds * 1000, 1), cause=cause, detail=detail)
