"""The messages between hub and node: typed, bounded, and the same after the wire."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import msgpack
import pytest
from pydantic import ValidationError

from syndb_common import messages
from syndb_common.messages import (
    MESSAGES,
    AnalyticsQuery,
    CancelQuery,
    CatalogAnnouncement,
    DatasetCatalogRequest,
    Endpoints,
    GetFlightEndpoint,
    HealthPing,
    JoinRequest,
    LeaveFederation,
    Message,
    OntologySync,
    OntologyTerm,
    RegisterCluster,
    SchemaMigration,
    SchemaSync,
    to_wire,
    wire_value,
)
from syndb_common.syql import parse, plan
from tests.actors.federation_parts import ENDPOINTS, published

EXAMPLES: dict[type[Message], Message] = {
    type(message): message
    for message in (
        JoinRequest(cluster_name="worm-lab", node_nonce=b"n" * 32),
        RegisterCluster(join_id=uuid4(), node_proof=b"p" * 32, endpoints=ENDPOINTS, schema_version=1),
        HealthPing(clock=1.5),
        SchemaSync(migrations=(SchemaMigration(version=1, name="x", statements=("CREATE",)),)),
        DatasetCatalogRequest(),
        CatalogAnnouncement(revision=3, versions=(published("worm"),), sharing={published("worm").dataset_id: "rows"}),
        GetFlightEndpoint(),
        AnalyticsQuery(
            query_id=uuid4(),
            plan=plan(parse("SELECT AVG(synapse_count) FROM synapses WHERE synapse_count > 2"), [published("worm")]),
            seconds=3,
        ),
        CancelQuery(query_id=uuid4()),
        LeaveFederation(reason="maintenance"),
        OntologySync(revision=1, page=0, pages=1, terms=(OntologyTerm(id="a:1", vocabulary="sex", label="male"),)),
    )
}


def wire(message: Message) -> dict[str, Any]:
    packed = msgpack.packb(message.model_dump(), default=wire_value)
    assert packed == msgpack.packb(to_wire(message)), "both ways to the wire lead to the same bytes"
    found: dict[str, Any] = msgpack.unpackb(packed)
    return found


@pytest.mark.parametrize("kind", MESSAGES.values())
def test_a_message_comes_back_from_the_wire_as_it_was(kind: type[Message]) -> None:
    assert kind.model_validate(wire(EXAMPLES[kind])) == EXAMPLES[kind]


def test_a_plan_keeps_its_hash_over_the_wire() -> None:
    sent = EXAMPLES[AnalyticsQuery]
    received = AnalyticsQuery.model_validate(wire(sent))
    assert received.plan.hash == sent.plan.hash  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", MESSAGES.values())
def test_fields_of_a_newer_peer_are_ignored(kind: type[Message]) -> None:
    assert kind.model_validate({**wire(EXAMPLES[kind]), "invented_later": 1}) == EXAMPLES[kind]


@pytest.mark.parametrize("kind", MESSAGES.values())
def test_messages_do_not_change(kind: type[Message]) -> None:
    message = EXAMPLES[kind]
    for name in kind.model_fields:
        with pytest.raises(ValidationError):
            setattr(message, name, None)


def test_the_table_in_the_documentation_lists_every_message_with_its_reply() -> None:
    rows = [line.strip("| ").split(" | ") for line in (messages.__doc__ or "").splitlines() if " -> " in line]
    assert {row[0]: row[2] for row in rows} == {name: kind.reply_type.__name__ for name, kind in MESSAGES.items()}


def test_what_computes_or_registers_is_not_repeated_by_itself() -> None:
    assert {name for name, kind in MESSAGES.items() if not kind.idempotent} == {
        "JoinRequest",
        "RegisterCluster",
        "AnalyticsQuery",
        "HealthPing",
    }


def test_what_need_not_be_remembered_changes_nothing() -> None:
    assert {name for name, kind in MESSAGES.items() if kind.changes_nothing} == {
        "HealthPing",
        "DatasetCatalogRequest",
        "GetFlightEndpoint",
    }


@pytest.mark.parametrize("name", ["", "Worm", "worm lab", "-worm", "w" * 64, "worm/../fly", "würmer", "worm\n"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        JoinRequest(cluster_name=name, node_nonce=b"n" * 32)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_nonces_and_proofs_have_their_size(size: int) -> None:
    with pytest.raises(ValidationError):
        JoinRequest(cluster_name="worm", node_nonce=b"n" * size)
    with pytest.raises(ValidationError):
        RegisterCluster(join_id=uuid4(), node_proof=b"p" * size, endpoints=ENDPOINTS, schema_version=1)


@pytest.mark.parametrize("seconds", [0, -1, 86_401, float("nan"), float("inf")])
def test_a_question_has_a_deadline_that_is_one(seconds: float) -> None:
    sent = wire(EXAMPLES[AnalyticsQuery])
    with pytest.raises(ValidationError):
        AnalyticsQuery.model_validate({**sent, "seconds": seconds})


@pytest.mark.parametrize("flight", ["", "grpc+tls://localhost:50052", "grpc+tls://[2001:db8::1]:1"])
def test_a_flight_location_is_a_host_and_a_port_over_tls(flight: str) -> None:
    assert Endpoints(multiaddrs=(), flight=flight, flight_certificate="").flight == flight


@pytest.mark.parametrize(
    "flight",
    [
        "localhost:50052",
        "grpc+tcp://localhost:50052",
        "grpc+unix:///run/secret.sock",
        "http://localhost:80",
        "grpc+tls://localhost",
        "grpc+tls://localhost:99999",
        "grpc+tls://localhost:0",
        "grpc+tls://localhost:port",
        "grpc+tls://[localhost:1",
        "grpc+tls://:50052",
        "grpc+tls://localhost:1/path",
        "grpc+tls://user@localhost:1",
        "grpc+tls://localhost:1?a=b",
        "grpc+tls://local host:1",
    ],
)
def test_a_flight_location_that_would_lead_elsewhere_or_nowhere_is_refused(flight: str) -> None:
    with pytest.raises(ValidationError):
        Endpoints(multiaddrs=(), flight=flight, flight_certificate="")


def test_what_a_node_may_say_of_itself_is_bounded() -> None:
    with pytest.raises(ValidationError):
        Endpoints(multiaddrs=("/ip4/127.0.0.1/tcp/1",) * 17, flight="", flight_certificate="")
    with pytest.raises(ValidationError):
        Endpoints(multiaddrs=("x" * 1001,), flight="", flight_certificate="")
    with pytest.raises(ValidationError):
        Endpoints(multiaddrs=(), flight="", flight_certificate="x" * 20_001)
