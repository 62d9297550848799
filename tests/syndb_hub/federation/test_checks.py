"""The tests of one node: each says what is wrong and what to do, with real connections where one is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import trio
from pyarrow import flight

from actors.directory import NOWHERE, Cluster, Directory, Standing
from actors.runtime import ActorCrashedError
from syndb_common.errors import DeadlineExceeded, PeerUnavailable, PolicyRefused, SynDBError
from syndb_common.flight.tls import Certificate, ensure_certificate
from syndb_common.messages import Endpoints, HealthPing, HealthReport
from syndb_hub.federation import checks
from syndb_hub.federation.checks import Checks
from tests.actors.federation_parts import Peer, cluster, published

WORM = published("worm", synapses=10)


def report(schema_version: int = 3, engine: str = "ok") -> HealthReport:
    return HealthReport(
        schema_version=schema_version,
        engine=engine,
        load=0,
        catalogue_revision=1,
        clock=0.0,
        uptime_seconds=1.0,
        software="test",
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return ensure_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def flight_location(certificate: Certificate) -> Iterator[str]:
    """A real Flight server."""
    server = flight.FlightServerBase(
        "grpc+tls://127.0.0.1:0", tls_certificates=[(certificate.certificate, certificate.key)]
    )
    yield f"grpc+tls://127.0.0.1:{server.port}"
    server.shutdown()


class Setting:
    """One node that answers pings as told, and queries that count as told."""

    def __init__(self, location: str, certificate: str) -> None:
        self.ping: Callable[[HealthPing], Any] = lambda message: report()
        self.counted: int | SynDBError = 10
        self.asked: list[tuple[str, Any]] = []
        self.directory = Directory()
        endpoints = Endpoints(multiaddrs=(), flight=location, flight_certificate=certificate)
        self.node = cluster(
            "worm-lab",
            record_facts={"endpoints": endpoints},
            dial=endpoints,
            versions=(WORM,),
            sharing={WORM.dataset_id: "rows"},
        )
        queries: Any = self
        self.checks = Checks(
            directory=self.directory,
            peer=lambda node: Peer({HealthPing: lambda message: self.ping(message)}),
            queries=queries,
            schema_version=3,
        )

    def change(self, **facts: Any) -> Cluster:
        self.node = replace(self.node, **facts)
        self.directory.publish([self.node])
        return self.node

    async def run(self, text: str, **options: Any) -> Any:
        self.asked.append((text, options["cluster_ids"]))
        if isinstance(self.counted, SynDBError):
            raise self.counted
        return SimpleNamespace(table=pa.table({"n": [self.counted]}))


@pytest.fixture
def setting(flight_location: str, certificate: Certificate) -> Setting:
    made = Setting(flight_location, certificate.certificate)
    made.change()
    return made


def fails(error: Exception) -> Callable[[Any], Any]:
    def answer(message: Any) -> Any:
        raise error

    return answer


async def test_a_node_that_is_well_passes_every_test(setting: Setting) -> None:
    found = [await test(setting.node) for test in (setting.checks.connectivity, setting.checks.schema)]
    found.append(await setting.checks.query(setting.node))
    assert [(each.test, each.passed, each.cause) for each in found] == [
        ("connectivity", True, ""),
        ("schema", True, ""),
        ("query", True, ""),
    ]
    assert all(0 <= each.latency_ms < 20_000 for each in found)
    assert found[2].detail == "counted 10 rows of worm in synapses"
    [(text, asked)] = setting.asked
    assert str(WORM.dataset_id) in text
    assert asked == [setting.node.record.id]


async def test_without_a_connection_the_ports_to_open_are_named(setting: Setting) -> None:
    setting.ping = fails(PeerUnavailable("nobody answers"))
    found = await setting.checks.connectivity(setting.node)
    assert not found.passed
    assert found.cause.startswith("no connection: nobody answers; open UDP 4001 or TCP 4001")


async def test_addresses_nobody_approved_are_named_where_they_are_why(setting: Setting) -> None:
    setting.ping = fails(PeerUnavailable("no address to dial"))
    found = await setting.checks.connectivity(setting.change(refused_addresses=("/ip4/10.1.1.1/tcp/4001",)))
    assert "announces addresses that the hub does not dial: /ip4/10.1.1.1/tcp/4001" in found.cause
    assert "syndb federation clusters approve-hosts worm-lab" in found.cause


async def test_a_node_that_is_too_slow_is_not_called_gone(setting: Setting) -> None:
    setting.ping = fails(DeadlineExceeded("late"))
    assert (await setting.checks.connectivity(setting.node)).cause.startswith("no answer to a ping within 10 s")


async def test_a_fault_of_the_hub_is_not_blamed_on_the_node(setting: Setting) -> None:
    setting.ping = fails(ActorCrashedError("boom"))
    assert (await setting.checks.connectivity(setting.node)).cause.startswith("the hub could not ask it")


async def test_a_closed_flight_port_is_said_with_what_to_do(setting: Setting, certificate: Certificate) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    dial = Endpoints(multiaddrs=(), flight=f"grpc+tls://127.0.0.1:{port}", flight_certificate=certificate.certificate)
    found = await setting.checks.connectivity(setting.change(dial=dial))
    assert found.cause.startswith(f"the Flight port 127.0.0.1:{port} is not reachable (")
    assert found.cause.endswith("forward it or set flight.advertise")


async def test_a_flight_port_that_swallows_everything_costs_its_deadline(
    setting: Setting, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "FLIGHT_SECONDS", 0.3)
    [silent] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = silent.socket.getsockname()[1]
    dial = Endpoints(multiaddrs=(), flight=f"grpc+tls://127.0.0.1:{port}", flight_certificate=certificate.certificate)
    with trio.fail_after(10):
        found = await setting.checks.connectivity(setting.change(dial=dial))
    await silent.aclose()
    assert found.cause.startswith(f"the Flight port 127.0.0.1:{port} is not reachable (within 0.3 s)")


async def test_another_server_at_the_flight_port_is_told_from_a_closed_one(
    setting: Setting, flight_location: str, tmp_path: Path
) -> None:
    other = ensure_certificate(tmp_path).certificate
    dial = Endpoints(multiaddrs=(), flight=flight_location, flight_certificate=other)
    found = await setting.checks.connectivity(setting.change(dial=dial))
    assert found.cause.startswith(f"another server answers at {flight_location.removeprefix('grpc+tls://')}")


@pytest.mark.parametrize("pem", ["", "none at all", "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----"])
async def test_a_damaged_certificate_is_a_cause_and_no_crash(setting: Setting, flight_location: str, pem: str) -> None:
    dial = Endpoints(multiaddrs=(), flight=flight_location, flight_certificate=pem)
    assert not (await setting.checks.connectivity(setting.change(dial=dial))).passed


async def test_a_flight_address_nobody_approved_is_not_dialled(setting: Setting) -> None:
    location = setting.node.record.endpoints.flight
    found = await setting.checks.connectivity(setting.change(dial=NOWHERE))
    assert location in found.cause
    assert "nobody approved" in found.cause
    assert "flight.advertise" in found.cause


async def test_a_flight_server_whose_name_has_no_address_is_said_to_have_none(setting: Setting) -> None:
    location = setting.node.record.endpoints.flight
    refused = (f"{location}: node.example is not resolved",)
    found = await setting.checks.connectivity(setting.change(dial=NOWHERE, refused_addresses=refused))
    assert f"{location}: node.example is not resolved" in found.cause
    assert "nobody approved" not in found.cause


@pytest.mark.parametrize(
    ("version", "passed", "says"), [(3, True, "node 3, hub 3"), (4, True, "ahead"), (2, False, "sync-schema")]
)
async def test_schemas_are_compared(setting: Setting, version: int, passed: bool, says: str) -> None:
    setting.ping = lambda message: report(version)
    found = await setting.checks.schema(setting.node)
    assert found.passed is passed
    assert says in found.cause + found.detail


async def test_a_test_that_needs_another_says_which_one_failed(setting: Setting) -> None:
    setting.ping = lambda message: report(2, engine="disk full")
    behind = await setting.checks.query(setting.node)
    assert behind.cause.startswith("not tried, since schema failed: behind: schema version 2, the hub has 3")
    assert "engine: disk full" in behind.cause
    setting.ping = fails(PeerUnavailable("gone"))
    assert (await setting.checks.schema(setting.node)).cause.startswith("connectivity failed: no connection: gone")
    assert (await setting.checks.query(setting.node)).cause.startswith(
        "not tried, since connectivity failed: no connection: gone"
    )
    assert setting.asked == []


@pytest.mark.parametrize(
    ("standing", "says"),
    [(Standing.PENDING, "is pending"), (Standing.WAITING, "waits for approval"), (Standing.INACTIVE, "deactivated")],
)
async def test_a_node_that_takes_no_part_is_not_asked(setting: Setting, standing: Standing, says: str) -> None:
    setting.ping = fails(AssertionError("asked"))
    found = await setting.checks.connectivity(setting.change(record=replace(setting.node.record, standing=standing)))
    assert says in found.cause


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"versions": ()}, "has published no data set"),
        ({"sharing": {WORM.dataset_id: "none"}}, "shares none of its data sets"),
        ({"versions": (published("worm", synapses=0),)}, "have no rows"),
        ({"versions": (published("worm", a_table_of_later=3),)}, "have no rows in tables that this hub knows"),
    ],
)
async def test_a_node_that_has_nothing_to_ask_for_is_not_said_to_pass(
    setting: Setting, facts: dict[str, Any], says: str
) -> None:
    found = await setting.checks.query(setting.change(**facts))
    assert not found.passed
    assert found.cause.startswith("nothing to ask for: ")
    assert says in found.cause
    assert setting.asked == []


async def test_a_count_that_differs_from_the_catalogue_fails(setting: Setting) -> None:
    setting.counted = 9
    found = await setting.checks.query(setting.node)
    assert found.cause == "worm has 9 rows in synapses, its catalogue says 10: import it again"


async def test_what_the_node_refuses_is_the_cause(setting: Setting) -> None:
    setting.counted = PolicyRefused("counts only", hint="Ask its owner.")
    assert (await setting.checks.query(setting.node)).cause == "counts only Ask its owner."
