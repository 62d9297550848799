"""The messages between hub and node: typed, bounded, and the same after the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import msgpack
import pytest
from pydantic import BaseModel, ValidationError

from syndb_common import messages
from syndb_common.messages import (
    MESSAGES,
    AnalyticsQuery,
    CancelQuery,
    CatalogAnnouncement,
    DatasetCatalogRequest,
    Endpoints,
    FlightEndpoint,
    GetFlightEndpoint,
    HealthPing,
    HealthReport,
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
from syndb_common.tables import versions
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
@pytest.mark.parametrize("field", ["seconds", "delivery_seconds"])
def test_a_question_has_deadlines_that_are_some(field: str, seconds: float) -> None:
    sent = wire(EXAMPLES[AnalyticsQuery])
    with pytest.raises(ValidationError):
        AnalyticsQuery.model_validate({**sent, field: seconds})


def test_a_hub_that_does_not_say_how_long_it_waits_for_a_delivery_gives_an_hour() -> None:
    sent = {key: value for key, value in wire(EXAMPLES[AnalyticsQuery]).items() if key != "delivery_seconds"}
    assert AnalyticsQuery.model_validate(sent).delivery_seconds == 3600


@pytest.mark.parametrize("flight", ["", "grpc+tls://localhost:50052", "grpc+tls://[2001:db8::1]:1"])
def test_a_flight_location_is_a_host_and_a_port_over_tls(flight: str) -> None:
    assert Endpoints(multiaddrs=(), flight=flight, flight_certificate="").flight == flight
    assert FlightEndpoint(location=flight, certificate="").location == flight


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
    with pytest.raises(ValidationError):
        FlightEndpoint(location=flight, certificate="")


def test_what_a_node_may_say_of_itself_is_bounded() -> None:
    with pytest.raises(ValidationError):
        Endpoints(multiaddrs=("/ip4/127.0.0.1/tcp/1",) * 17, flight="", flight_certificate="")
    with pytest.raises(ValidationError):
        Endpoints(multiaddrs=("x" * 1001,), flight="", flight_certificate="")
    with pytest.raises(ValidationError):
        Endpoints(multiaddrs=(), flight="", flight_certificate="x" * 20_001)


def models() -> list[type[BaseModel]]:
    """All that messages are made of, besides plans."""
    found = {**vars(messages), **vars(versions)}.values()
    ours = {messages.__name__, versions.__name__}
    return [
        each for each in found if isinstance(each, type) and each.__module__ in ours and issubclass(each, BaseModel)
    ]


def leaves(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The numbers and texts of one field, also within lists, maps and alternatives."""
    if schema.get("type") in ("integer", "number", "string"):
        yield schema
    within = [schema.get("items"), schema.get("additionalProperties"), schema.get("propertyNames")]
    for each in [*within, *schema.get("anyOf", ()), *schema.get("prefixItems", ())]:
        if isinstance(each, dict):
            yield from leaves(each)


def bounded(leaf: dict[str, Any]) -> bool:
    if leaf["type"] == "string":
        return any(key in leaf for key in ("maxLength", "pattern", "enum", "const")) or leaf.get("format") in (
            "uuid",
            "date-time",
        )
    most, least = (leaf.get(key, leaf.get(f"exclusive{key.title()}")) for key in ("maximum", "minimum"))
    return most is not None and least is not None and (leaf["type"] == "number" or most <= 2**53)


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_number_and_text_is_bounded(model: type[BaseModel]) -> None:
    fields = model.model_json_schema()["properties"] if model.model_fields else {}
    if model is HealthReport:
        del fields["clock"]  # the monitor says of any clock that is none that it is wrong
    loose = [name for name, field in fields.items() if not all(bounded(leaf) for leaf in leaves(field))]
    assert loose == []


@pytest.mark.parametrize("number", [-1, 2**31, 2**63, 2**64 - 1])
@pytest.mark.parametrize("field", ["schema_version", "load", "catalogue_revision", "ontology_revision"])
def test_a_report_with_a_number_that_no_table_holds_is_none(field: str, number: int) -> None:
    report = {
        "schema_version": 1,
        "engine": "ok",
        "load": 0,
        "catalogue_revision": 1,
        "clock": 1.0,
        "uptime_seconds": 1.0,
        "software": "test",
        field: number,
    }
    if field != "schema_version" and number == 2**31:
        assert HealthReport.model_validate(report)
    else:
        with pytest.raises(ValidationError):
            HealthReport.model_validate(report)
