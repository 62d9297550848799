"""Hub and node speak the version before theirs: frames recorded from it, and its models reading ours."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest
import trio
from pydantic import BaseModel

from actors import joins
from actors.addresses import Approval
from actors.admission import Keyring
from actors.directory import Directory, Standing
from actors.health import Watch
from actors.registry import Registry
from actors.remote.envelope import decode_request, decode_response, encode_reply, encode_request
from actors.remote.memory import open_network
from actors.remote.policy import Policy, Trust
from actors.remote.proof import Transcript, hub_proof
from actors.remote.rpc import PROTOCOL, UNKNOWN_MESSAGE, VERSION_REFUSED, RemoteRef, RpcClient
from actors.remote.rpc_server import RpcServer
from actors.runtime import Actor, ChildSpec, Supervisor, handle, run_tree
from syndb_common import messages
from syndb_common.errors import Forbidden, NotSupported
from syndb_common.messages import MESSAGES, PROTOCOL_VERSION, Message
from syndb_common.syql import parse, plan
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion
from syndb_common.tracing import Work
from syndb_hub.store.clusters import Clusters
from syndb_hub.store.database import Store
from syndb_hub.store.invitations import Invitations
from tests.actors.federation_parts import Inbox
from tests.actors.remote.recorded import messages_v1

RECORDED = Path(__file__).parent / "recorded"
EXCHANGES = json.loads((RECORDED / "version_1_exchanges.json").read_text())
JOINING = json.loads((RECORDED / "version_1_joining.json").read_text())
REFUSALS = json.loads((RECORDED / "version_1_refusals.json").read_text())
ALL = [*EXCHANGES, *JOINING["frames"]]


def payload(frame: str) -> bytes:
    data = bytes.fromhex(frame)
    assert struct.unpack_from(">I", data)[0] == len(data) - 4
    return data[4:]


def named(exchange: dict[str, str]) -> str:
    return f"{exchange['message']} {exchange['note']}".strip()


def test_everything_that_version_1_can_say_is_recorded():
    assert {each["message"] for each in ALL} == set(messages_v1.MESSAGES)
    replies = {message.reply_type.__name__ for message in messages_v1.MESSAGES.values()}
    assert {each["answer"] for each in ALL} == replies | {"error"}
    assert {decode_request(payload(each["request"])).version for each in ALL} == {1}
    assert PROTOCOL_VERSION == 2, "record what the version before says now"


@pytest.mark.parametrize("exchange", ALL, ids=named)
def test_a_recorded_message_is_read_as_it_was_meant(exchange):
    request = decode_request(payload(exchange["request"]))
    then, now = messages_v1.MESSAGES[request.type], MESSAGES[request.type]
    meant = then.model_validate(request.body).model_dump()
    read = now.model_validate(request.body).model_dump()
    assert without_additions(read, meant) == meant

    response = decode_response(payload(exchange["response"]))
    assert response.id == request.id
    if exchange["answer"] == "error":
        assert type(response.error) is Forbidden
        assert response.error.hint == "ask its owner"
    else:
        answered = then.reply_type.model_validate(response.body).model_dump()
        assert without_additions(now.reply_type.model_validate(response.body).model_dump(), answered) == answered


def without_additions(read: Any, meant: Any) -> Any:
    """``read`` with only those fields that version 1 knows."""
    if isinstance(read, dict) and isinstance(meant, dict):
        return {key: without_additions(value, meant[key]) for key, value in read.items() if key in meant}
    if isinstance(read, tuple | list) and isinstance(meant, tuple | list):
        return type(read)(without_additions(one, other) for one, other in zip(read, meant, strict=True))
    return read


class Answering(Actor):
    """Answers what was recorded."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    @handle
    async def answer(self, message: Message) -> BaseModel:
        return message.reply_type.model_validate(self.answers[type(message).__name__])


async def test_a_hub_of_version_1_is_answered_by_a_node_of_today(nursery):
    good = {each["message"]: each for each in reversed(EXCHANGES) if each["answer"] != "error"}
    answers = {name: decode_response(payload(each["response"])).body for name, each in good.items()}
    tree = await nursery.start(run_tree, Supervisor("node", [ChildSpec("actor", lambda: Answering(answers))]))
    async with open_network() as network:
        hub, node = network.host(), network.host()
        RpcServer(node, Policy(lambda _: Trust.HUB), dict.fromkeys(MESSAGES.values(), tree.ref("actor")))
        await hub.connect(node.peer_id, node.addresses, timeout=5)
        stream = await hub.open_stream(node.peer_id, PROTOCOL, timeout=5)
        for name, exchange in good.items():
            await stream.send(payload(exchange["request"]), timeout=5)
            response = decode_response(await stream.receive(timeout=5))
            kind = messages_v1.MESSAGES[name].reply_type
            assert kind.model_validate(response.body) == kind.model_validate(answers[name])
    nursery.cancel_scope.cancel()


@pytest.fixture
async def hub(nursery, tmp_path, monkeypatch):
    """Today's registry, drawing what the hub of the recording drew, and a host that speaks as the recorded node."""
    drawn = UUID(JOINING["join_id"])
    monkeypatch.setattr(joins, "uuid4", lambda: drawn)
    monkeypatch.setattr(joins, "generate_nonce", lambda: bytes.fromhex(JOINING["hub_nonce"]))
    store = await Store.open(tmp_path / "hub.sqlite")
    directory, watched = Directory(), []
    registry = partial(
        Registry,
        directory=directory,
        store=Clusters(store),
        invitations=Invitations(store),
        hub_peer_id=JOINING["hub"],
        keys=lambda: Keyring(bytes.fromhex(JOINING["key"])),
        schema_version=1,
        approval=Approval(),
    )
    children = [ChildSpec("registry", registry), ChildSpec("health_monitor", lambda: Inbox(watched))]
    tree = await nursery.start(run_tree, Supervisor("hub", children))

    def trust(peer_id: str) -> Trust:
        cluster = directory.by_peer(peer_id)
        active = cluster is not None and cluster.record.standing is Standing.ACTIVE
        return Trust.MEMBER if active else Trust.ANYONE

    async with open_network() as network:
        server, node = network.host(JOINING["hub"]), network.host(JOINING["node"])
        RpcServer(server, Policy(trust), dict.fromkeys(MESSAGES.values(), tree.ref("registry")))
        await node.connect(server.peer_id, server.addresses, timeout=5)
        yield directory, watched, await node.open_stream(server.peer_id, PROTOCOL, timeout=5)
    nursery.cancel_scope.cancel()
    await tree.stopped.wait()
    await store.close()


async def test_a_node_of_version_1_joins_a_hub_of_today(hub):
    directory, watched, stream = hub
    answers = {}
    for exchange in JOINING["frames"]:
        await stream.send(payload(exchange["request"]), timeout=5)
        response = decode_response(await stream.receive(timeout=5))
        assert response.error is None, response.error
        kind = messages_v1.MESSAGES[exchange["message"]].reply_type
        answers[exchange["answer"]] = kind.model_validate(response.body)

    challenged = decode_response(payload(JOINING["frames"][0]["response"])).body
    assert answers["JoinChallenge"] == messages_v1.JoinChallenge.model_validate(challenged)
    request = messages_v1.JoinRequest.model_validate(decode_request(payload(JOINING["frames"][0]["request"])).body)
    transcript = Transcript(
        node_nonce=request.node_nonce,
        hub_nonce=bytes.fromhex(JOINING["hub_nonce"]),
        node_peer_id=JOINING["node"],
        hub_peer_id=JOINING["hub"],
        cluster_name=JOINING["cluster_name"],
    )
    registered = answers["Registered"]
    assert registered.hub_proof == hub_proof(bytes.fromhex(JOINING["key"]), transcript)
    known = directory.by_name(JOINING["cluster_name"])
    assert (known.record.id, known.record.peer_id) == (registered.cluster_id, JOINING["node"])
    assert known.record.standing is Standing.ACTIVE
    assert [version.metadata.dataset for version in known.versions] == ["worm-a"]
    assert Watch(registered.cluster_id) in watched


@pytest.mark.parametrize("version", [0, 3, -1])
async def test_versions_further_away_get_a_typed_refusal(hub, version):
    *_, stream = hub
    request = msgpack.unpackb(payload(JOINING["frames"][0]["request"]))
    await stream.send(msgpack.packb(request | {"v": version}), timeout=5)
    response = decode_response(await stream.receive(timeout=5))
    assert response.error.code == "invalid_request"
    assert f"version {version} is not spoken" in response.error.message
    assert "upgrade" in response.error.hint


class Version1:
    """A daemon that speaks version 1 only: it answers and refuses with what was recorded of one.

    Attributes:
        got: version and message of each request, as read by the models of version 1.
        upgraded: whether it speaks version 2 as well by now.
    """

    def __init__(self) -> None:
        self.got: list[tuple[int, Message]] = []
        self.refused = 0
        self.upgraded = False
        good = [each for each in ALL if each["answer"] != "error"]
        self.answers = {each["message"]: decode_response(payload(each["response"])).body for each in reversed(good)}

    async def serve(self, stream: Any) -> None:
        while True:
            request = msgpack.unpackb(await stream.receive(timeout=60))
            kind = messages_v1.MESSAGES.get(request["type"])
            if kind is None or request["v"] != 1 + self.upgraded:
                refusal = msgpack.unpackb(payload(REFUSALS["message" if kind is None else "version"]["response"]))
                self.refused += 1
                answer = refusal | {"id": request["id"]}
            else:
                self.got.append((request["v"], kind.model_validate(request["body"])))
                answer = {"id": request["id"], "ok": self.answers[request["type"]]}
            await stream.send(msgpack.packb(answer), timeout=5)


@pytest.fixture
async def older():
    """A peer of version 1, and a way to ask it as daemons of today ask."""
    async with open_network() as network:
        here, there = network.host(), network.host()
        peer = Version1()
        there.set_handler(PROTOCOL, peer.serve)
        yield peer, RemoteRef(RpcClient(here), there.peer_id, lambda: there.addresses, "older"), here


async def test_every_message_that_version_1_knows_reaches_it_once(older):
    peer, ref, _ = older
    for message in OURS:
        reply = await ref.ask(message, timeout=5)
        assert isinstance(reply, message.reply_type)
    assert [(version, type(message).__name__) for version, message in peer.got] == [
        (1, type(message).__name__) for message in OURS
    ]
    assert peer.refused == 1, "its version is known after the first refusal"


@pytest.mark.parametrize("asked_before", [True, False])
async def test_what_came_with_version_2_is_not_supported_by_version_1(older, asked_before):
    peer, ref, _ = older
    if asked_before:
        await ref.ask(messages.HealthPing(clock=1.0), timeout=5)
    for message in (messages.OntologySync(revision=1, page=0, pages=1, terms=()), messages.LeaveFederation()):
        with pytest.raises(NotSupported, match=f"does not know {type(message).__name__}") as refused:
            await ref.ask(message, timeout=5)
        assert "upgrade" in refused.value.hint
    assert peer.refused == 1, "only who is not known to speak version 1 is asked in version 2"
    assert isinstance(await ref.ask(messages.HealthPing(clock=2.0), timeout=5), messages.HealthReport)


async def test_a_peer_that_came_back_upgraded_is_spoken_to_in_version_2(older):
    peer, ref, here = older
    await ref.ask(messages.HealthPing(clock=1.0), timeout=5)
    await here.disconnect(ref.peer_id)
    peer.upgraded = True
    await ref.ask(messages.HealthPing(clock=2.0), timeout=5)
    assert [version for version, _ in peer.got] == [1, 2]


async def test_messages_at_the_same_time_to_a_peer_of_version_1_all_arrive_once(older, nursery):
    peer, ref, _ = older
    asked = [messages.CancelQuery(query_id=UUID(int=number)) for number in range(12)]
    async with trio.open_nursery() as asking:
        for message in asked:
            asking.start_soon(partial(ref.ask, message, timeout=5))
    assert sorted(message.query_id for _, message in peer.got) == [message.query_id for message in asked]


async def test_the_version_is_learnt_over_real_connections_too(hosts, transport):
    client, server = await hosts(), await hosts(transport)
    peer = Version1()
    server.set_handler(PROTOCOL, peer.serve)
    ref = RemoteRef(RpcClient(client), server.peer_id, lambda: server.addresses, "older")
    for clock in (1.0, 2.0):
        await ref.ask(messages.HealthPing(clock=clock), timeout=10)
    assert (len(peer.got), peer.refused) == (2, 1)
    await client.disconnect(server.peer_id)
    peer.upgraded = True
    await ref.ask(messages.HealthPing(clock=3.0), timeout=10)
    assert [version for version, _ in peer.got] == [1, 1, 2]


@pytest.mark.parametrize("what", ["version", "message"])
def test_a_daemon_of_today_refuses_in_the_words_that_version_1_used(what):
    request = msgpack.unpackb(payload(REFUSALS[what]["request"]))
    said = decode_response(payload(REFUSALS[what]["response"])).error.message
    assert said == (VERSION_REFUSED.format(2) if what == "version" else f"{UNKNOWN_MESSAGE} {request['type']!r}")


async def test_a_message_of_today_is_refused_by_name_where_it_is_not_known(hub):
    *_, stream = hub
    request = msgpack.unpackb(payload(JOINING["frames"][0]["request"]))
    await stream.send(msgpack.packb(request | {"type": "FromTheFuture"}), timeout=5)
    response = decode_response(await stream.receive(timeout=5))
    assert response.error.code == "invalid_request"
    assert "FromTheFuture" in response.error.message


PEER_ID = JOINING["node"]
VERSION = PublishedVersion(
    dataset_id=UUID(int=1),
    version=1,
    metadata=DatasetMetadata(dataset="worm-a"),
    row_counts={"synapses": 1},
    content_hash="ab" * 32,
    schema_version=1,
    published_at=datetime(2026, 1, 1, tzinfo=UTC),
)
OURS: list[Message] = [
    messages.JoinRequest(cluster_name="a", node_nonce=bytes(32), key_id="0" * 16, protocol_version=2),
    messages.RegisterCluster(
        join_id=UUID(int=1),
        node_proof=bytes(32),
        endpoints=messages.Endpoints(multiaddrs=("/ip4/192.0.2.1/tcp/1",), flight="", flight_certificate=""),
        succession=messages.Succession(previous_peer_id=PEER_ID, signature=bytes(64)),
        schema_version=1,
    ),
    messages.HealthPing(clock=1.0, next_hub_peer_id=PEER_ID),
    messages.SchemaSync(migrations=(messages.SchemaMigration(version=1, name="a", statements=("x",)),)),
    messages.DatasetCatalogRequest(page=3),
    messages.CatalogAnnouncement(revision=1, page=0, pages=2, versions=(VERSION,), sharing={UUID(int=1): "rows"}),
    messages.GetFlightEndpoint(),
    messages.AnalyticsQuery(
        query_id=UUID(int=1), plan=plan(parse("SELECT COUNT(*) AS n FROM synapses"), []), seconds=1
    ),
    messages.CancelQuery(query_id=UUID(int=1)),
]
REPLIES: list[BaseModel] = [
    messages.Acknowledged(),
    messages.JoinChallenge(join_id=UUID(int=1), hub_nonce=bytes(32)),
    messages.Registered(
        cluster_id=UUID(int=1),
        hub_proof=bytes(32),
        schema_version=1,
        standing="waiting",
        ping_seconds=2.0,
        next_hub_peer_id=PEER_ID,
    ),
    messages.HealthReport(
        schema_version=1,
        engine="ok",
        load=1,
        catalogue_revision=1,
        clock=1.0,
        uptime_seconds=1.0,
        software="",
        ontology_revision=4,
    ),
    messages.SchemaReport(schema_version=1, applied=(1,)),
    messages.CatalogAnnouncement(revision=1, page=1, pages=2, versions=(VERSION,)),
    messages.FlightEndpoint(location="grpc+tls://a:1", certificate=""),
    messages.AnalyticsResult(inline=b"arrow", rows=1),
]


@pytest.mark.parametrize("message", OURS, ids=lambda message: type(message).__name__)
def test_a_daemon_of_version_1_reads_our_messages_and_ignores_what_is_new(message):
    work = Work("job", f"00-{'a' * 32}-{'b' * 16}-01")
    request = decode_request(encode_request(bytes(16), message, seconds=1, work=work))
    read = messages_v1.MESSAGES[request.type].model_validate(request.body).model_dump()
    assert without_additions(message.model_dump(), read) == read


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_a_daemon_of_version_1_reads_our_replies_and_ignores_what_is_new(reply):
    body = decode_response(encode_reply(bytes(16), reply)).body
    read = getattr(messages_v1, type(reply).__name__).model_validate(body).model_dump()
    assert without_additions(reply.model_dump(), read) == read


def test_nothing_that_version_1_reads_was_left_out():
    assert {type(message).__name__ for message in OURS} == set(messages_v1.MESSAGES)
    replies = {message.reply_type.__name__ for message in messages_v1.MESSAGES.values()}
    assert {type(reply).__name__ for reply in REPLIES} == replies
