"""How long a part that streams is waited for: for its first rows, and then as long as rows of the answer come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio
from pyarrow import flight

from actors.directory import Cluster, Directory, Endpoints, Health
from syndb_common.flight.tls import Certificate, ensure_certificate
from syndb_common.flight.wire import end_record
from syndb_common.messages import Acknowledged, AnalyticsQuery, AnalyticsResult, CancelQuery, FlightEndpoint
from syndb_common.syql import Scope, partial_schema
from syndb_hub.federation.fan_out import FanOut
from syndb_hub.federation.queries import FederatedQueries
from syndb_hub.jobs.writing import ResultWriter
from tests.actors.federation_parts import Peer, cluster, published

ROWS = "SELECT synapse_count FROM synapses"
PATIENCE = 2.0
"""Seconds for first rows, and for pauses."""

pytestmark = pytest.mark.slow


class SlowFlight(flight.FlightServerBase):
    """Sends one row at a time, after the pauses that the ticket lists."""

    schema: pa.Schema

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.FlightDataStream:
        pauses = [float(each) for each in ticket.ticket.decode().split()]

        def batches() -> Iterator[Any]:
            for number, pause in enumerate(pauses):
                time.sleep(pause)
                yield pa.RecordBatch.from_pylist([dict.fromkeys(self.schema.names, number)], self.schema)
            yield pa.RecordBatch.from_pylist([], schema=self.schema), end_record(len(pauses))

        return flight.GeneratorStream(self.schema, batches())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return ensure_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(certificate: Certificate) -> Iterator[SlowFlight]:
    server = SlowFlight("grpc+tls://127.0.0.1:0", tls_certificates=[(certificate.certificate, certificate.key)])
    yield server
    server.shutdown()


@pytest.fixture
def writer(tmp_path: Path) -> ResultWriter:
    return ResultWriter(tmp_path / "result.part", max_bytes=10**8, limiter=trio.CapacityLimiter(2))


def queries(server: SlowFlight, certificate: Certificate, pauses: dict[str, list[float]]) -> FederatedQueries:
    """A federation whose nodes answer with rows that wait at ``server``."""
    directory = Directory()
    at = Endpoints(
        multiaddrs=(), flight=f"grpc+tls://127.0.0.1:{server.port}", flight_certificate=certificate.certificate
    )
    for name in pauses:
        node = cluster(
            name,
            record_facts={"endpoints": at},
            dial=at,
            health=Health.HEALTHY,
            cause="",
            versions=(published(name, synapses=10),),
        )
        directory.publish([node])

    def peer(node: Cluster) -> Peer:
        def compute(message: AnalyticsQuery) -> AnalyticsResult:
            server.schema = partial_schema(message.plan)
            ticket = " ".join(map(str, pauses[node.record.name])).encode()
            return AnalyticsResult(
                endpoint=FlightEndpoint(location=at.flight, certificate=at.flight_certificate, ticket=ticket)
            )

        return Peer({AnalyticsQuery: compute, CancelQuery: lambda message: Acknowledged()})

    async def own() -> tuple[()]:
        await trio.lowlevel.checkpoint()
        return ()

    engine: Any = None
    return FederatedQueries(
        directory=directory,
        own=own,
        fan_out=FanOut(directory, engine, peer, 10**8),
        merger=engine,
        delegation_seconds=PATIENCE,
    )


async def test_a_part_that_keeps_coming_may_take_longer_than_its_first_rows_may(
    server: SlowFlight, certificate: Certificate, writer: ResultWriter
) -> None:
    asked = queries(server, certificate, {"worm": [0.5] * 10})
    provenance = await asked.run_into(ROWS, writer, scope=Scope.REMOTE, seconds=60)
    assert (provenance.rows, provenance.complete) == (10, True)
    assert provenance.seconds > 2 * PATIENCE


@pytest.mark.parametrize(
    ("pauses", "cause"),
    [([5], f"no answer within {PATIENCE:g} s"), ([0, 0, 5], f"no more rows within {PATIENCE:g} s")],
    ids=["before its first rows", "between rows"],
)
async def test_a_part_that_stands_still_is_given_up_and_the_others_answer(
    server: SlowFlight, certificate: Certificate, writer: ResultWriter, pauses: list[float], cause: str
) -> None:
    asked = queries(server, certificate, {"worm": [0.0, 0.0], "fly": pauses})
    provenance = await asked.run_into(ROWS, writer, scope=Scope.REMOTE, seconds=60)
    assert provenance.rows == 2
    assert {node.cluster: node.cause for node in provenance.nodes}["fly"] == cause


async def test_all_rows_together_have_the_time_of_the_query(
    server: SlowFlight, certificate: Certificate, writer: ResultWriter
) -> None:
    asked = queries(server, certificate, {"worm": [0.0, 0.0], "fly": [0.5] * 100})
    provenance = await asked.run_into(ROWS, writer, scope=Scope.REMOTE, seconds=3 * PATIENCE)
    assert {node.cluster: node.status for node in provenance.nodes} == {"worm": "answered", "fly": "failed"}
