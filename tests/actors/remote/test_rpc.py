import secrets
import struct
from functools import partial
from uuid import UUID, uuid4

import msgpack
import pytest
import trio

from actors.remote.envelope import decode_response, encode_request
from actors.remote.frames import StreamEnded
from actors.remote.host import MAX_STREAMS_PER_PEER
from actors.remote.peers import MAX_CONTROLS_PER_PEER, MAX_QUERIES_PER_PEER
from actors.remote.policy import Policy, Trust
from actors.remote.rpc import PROTOCOL, RemoteRef, RpcClient
from actors.remote.rpc_server import MAX_REFUSED_IN_A_ROW, RpcServer
from actors.runtime import Actor, ActorRef, ChildSpec, Delegated, Supervisor, handle, run_tree
from syndb_common.errors import (
    DeadlineExceeded,
    Forbidden,
    LimitExceeded,
    NotFound,
    NotSupported,
    PeerUnavailable,
    SynDBError,
    TooManyRequests,
)
from syndb_common.messages import (
    Acknowledged,
    AnalyticsQuery,
    AnalyticsResult,
    CancelQuery,
    CatalogAnnouncement,
    DatasetCatalogRequest,
    FlightEndpoint,
    GetFlightEndpoint,
    HealthPing,
    HealthReport,
    JoinRequest,
    SchemaMigration,
    SchemaSync,
)
from syndb_common.syql import parse, plan

MISSING, FOREVER, CRASH, WRONG_REPLY = (UUID(int=number) for number in range(4))


class Node(Actor):
    """Answers pings; its other answers show what can go wrong."""

    expected = (SynDBError,)
    mailbox_size = 4

    def __init__(self) -> None:
        self.cancelled = 0

    @handle
    async def ping(self, message: HealthPing) -> HealthReport:
        return HealthReport(
            schema_version=1,
            engine="ok",
            load=self.cancelled,
            catalogue_revision=0,
            clock=message.clock,
            uptime_seconds=0,
            software=str(self.context.sender),
        )

    @handle
    async def cancel(self, message: CancelQuery) -> Acknowledged | FlightEndpoint | Delegated:
        self.cancelled += 1
        if message.query_id == MISSING:
            raise NotFound("no such query", hint="it may have ended")
        if message.query_id == CRASH:
            raise RuntimeError("secret in the traceback")
        if message.query_id == FOREVER:
            return self.context.delegate(trio.sleep_forever)
        if message.query_id == WRONG_REPLY:
            return FlightEndpoint(location="", certificate="")
        await trio.sleep(0.2)
        return Acknowledged()

    @handle
    async def query(self, message: AnalyticsQuery) -> AnalyticsResult:
        return self.context.delegate(trio.sleep_forever)

    @handle
    async def endpoint(self, message: GetFlightEndpoint) -> FlightEndpoint:
        return FlightEndpoint.model_construct(location="grpc://here", certificate="x" * 2_000_000)


class Pair:
    """A server with the actor above, and a reference to it from another host."""

    def __init__(self, server, client, actor):
        self.server, self.client = server, client
        self.trust = Trust.HUB
        routes = {HealthPing: actor, CancelQuery: actor, GetFlightEndpoint: actor, CatalogAnnouncement: actor}
        routes[AnalyticsQuery] = actor
        RpcServer(server, Policy(lambda peer_id: self.trust), routes)
        self.rpc = RpcClient(client, max_queries=3, max_controls=4)
        self.ref: ActorRef = RemoteRef(self.rpc, server.peer_id, lambda: server.addresses, "node")

    async def raw(self, payload: bytes) -> bytes:
        """Send bytes as a request's frame; returns the answer's."""
        await self.client.connect(self.server.peer_id, self.server.addresses, timeout=5)
        stream = await self.client.open_stream(self.server.peer_id, PROTOCOL, timeout=5)
        try:
            await stream.send(payload, timeout=5)
            return await stream.receive(timeout=5)
        finally:
            await stream.reset()


@pytest.fixture
async def pair(hosts, transport, nursery):
    tree = await nursery.start(run_tree, Supervisor("test", [ChildSpec("node", Node)]))
    return Pair(await hosts(transport), await hosts(), tree.ref("node"))


async def test_an_actor_of_another_host_answers_as_if_it_were_here(pair):
    report = await pair.ref.ask(HealthPing(clock=4.5), timeout=5)
    assert isinstance(report, HealthReport)
    assert report.clock == 4.5
    assert report.software == pair.client.peer_id, "the sender is the PeerId the connection proved"


async def test_many_asks_share_a_few_streams(pair):
    clocks = []

    async def ask(clock):
        clocks.append((await pair.ref.ask(HealthPing(clock=clock), timeout=10)).clock)

    async with trio.open_nursery() as nursery:
        for clock in range(30):
            nursery.start_soon(ask, float(clock))
    assert sorted(clocks) == list(range(30))
    assert pair.server._load.total <= 4


async def test_what_the_actor_raises_on_purpose_arrives_as_it_was(pair):
    with pytest.raises(NotFound, match="no such query") as refused:
        await pair.ref.ask(CancelQuery(query_id=MISSING), timeout=5)
    assert refused.value.hint == "it may have ended"


@pytest.mark.parametrize("query_id", [CRASH, WRONG_REPLY])
async def test_a_fault_of_the_other_side_arrives_without_details(pair, query_id):
    with pytest.raises(SynDBError, match="internal error") as failed:
        await pair.ref.ask(CancelQuery(query_id=query_id), timeout=5)
    assert type(failed.value) is SynDBError
    assert "secret" not in repr(failed.value.to_body())
    assert await pair.ref.ask(HealthPing(clock=0), timeout=5)


async def test_a_missed_deadline_says_so_and_the_next_ask_works(pair):
    with pytest.raises(DeadlineExceeded):
        await pair.ref.ask(CancelQuery(query_id=FOREVER), timeout=0.3)
    assert await pair.ref.ask(HealthPing(clock=0), timeout=5)


async def test_a_cancelled_ask_leaves_nothing_behind(pair):
    with trio.move_on_after(0.3):
        await pair.ref.ask(CancelQuery(query_id=FOREVER), timeout=2)
    assert await pair.ref.ask(HealthPing(clock=0), timeout=5)
    with trio.fail_after(5):
        while pair.server._load.total > 1:  # noqa: ASYNC110 - the server's side of the stream has no event
            await trio.sleep(0.05)


async def test_more_asks_than_the_actor_can_take_end_at_their_deadlines(pair):
    outcomes = []

    async def ask():
        try:
            outcomes.append(await pair.ref.ask(CancelQuery(query_id=uuid4()), timeout=1))
        except DeadlineExceeded as error:
            outcomes.append(error)

    assert await pair.ref.ask(HealthPing(clock=0), timeout=5)  # so that the second is not spent on connecting
    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(ask)
    assert any(isinstance(outcome, Acknowledged) for outcome in outcomes)
    assert any(isinstance(outcome, DeadlineExceeded) for outcome in outcomes)
    assert await pair.ref.ask(HealthPing(clock=0), timeout=5)


async def test_an_answer_that_does_not_fit_is_an_error(pair):
    with pytest.raises(LimitExceeded, match="answer"):
        await pair.ref.ask(GetFlightEndpoint(), timeout=5)
    assert await pair.ref.ask(HealthPing(clock=0), timeout=5)


async def test_a_message_that_does_not_fit_is_not_sent(pair):
    migration = SchemaMigration(version=1, name="large", statements=("x" * 100_000,) * 11)
    with pytest.raises(LimitExceeded, match="SchemaSync"):
        await pair.ref.ask(SchemaSync(migrations=(migration,)), timeout=5)
    assert await pair.ref.ask(HealthPing(clock=0), timeout=5)


async def test_a_message_without_actor_is_refused(pair):
    with pytest.raises(NotSupported, match="not answered here"):
        await pair.ref.ask(DatasetCatalogRequest(), timeout=5)


async def test_trust_is_asked_for_every_message(pair):
    assert await pair.ref.ask(HealthPing(clock=0), timeout=5)
    pair.trust = Trust.MEMBER
    with pytest.raises(Forbidden, match="HealthPing"):
        await pair.ref.ask(HealthPing(clock=0), timeout=5)
    pair.trust = Trust.HUB
    with pytest.raises(Forbidden, match="CatalogAnnouncement"):
        await pair.ref.ask(CatalogAnnouncement(revision=1, versions=()), timeout=5)


async def test_joining_is_open_to_anyone_and_rate_limited(pair):
    pair.trust = Trust.ANYONE
    refusals = []
    for _ in range(15):
        with pytest.raises(SynDBError) as refused:
            await pair.ref.ask(JoinRequest(cluster_name="cook", node_nonce=bytes(32)), timeout=5)
        refusals.append(type(refused.value))
    assert refusals[0] is NotSupported, "it passed the policy; this server has no actor for it"
    assert refusals[-1] is TooManyRequests


async def test_queries_leave_places_for_pings_and_cancellations(pair, nursery):
    waiting = plan(parse("SELECT COUNT(*) AS n FROM synapses"), [])
    for _ in range(5):
        question = AnalyticsQuery(query_id=uuid4(), plan=waiting, seconds=30)
        nursery.start_soon(partial(pair.ref.ask, question, timeout=30))
    await trio.sleep(0.3)
    assert await pair.ref.ask(HealthPing(clock=0), timeout=5)
    assert isinstance(await pair.ref.ask(CancelQuery(query_id=uuid4()), timeout=5), Acknowledged)
    nursery.cancel_scope.cancel()


def test_all_places_for_one_peer_fit_into_what_its_host_allows():
    assert MAX_QUERIES_PER_PEER + MAX_CONTROLS_PER_PEER < MAX_STREAMS_PER_PEER


@pytest.mark.parametrize("what", ["unreadable", "unknown", "forbidden"])
async def test_a_stream_that_carries_nothing_but_refusals_is_reset(pair, what):
    pair.trust = Trust.MEMBER
    bad = {"unreadable": lambda: b"", "unknown": lambda: request(type="X"), "forbidden": request}[what]
    await pair.client.connect(pair.server.peer_id, pair.server.addresses, timeout=5)
    stream = await pair.client.open_stream(pair.server.peer_id, PROTOCOL, timeout=5)
    for _ in range(MAX_REFUSED_IN_A_ROW):
        await stream.send(bad(), timeout=5)
        assert "error" in msgpack.unpackb(await stream.receive(timeout=5))
    with pytest.raises(StreamEnded):
        await stream.receive(timeout=5)
    assert not pair.server.counters["handler_failures"]


async def test_what_is_refused_is_rate_limited(pair):
    pair.trust = Trust.MEMBER
    codes = [msgpack.unpackb(await pair.raw(request(type="X")))["error"]["code"] for _ in range(15)]
    assert (codes[0], codes[-1]) == ("invalid_request", "too_many_requests")


def request(**changes):
    fields = {"id": secrets.token_bytes(16), "type": "HealthPing", "v": 1, "seconds": 5.0, "body": {"clock": 1.0}}
    return msgpack.packb(fields | changes)


async def test_wrong_requests_get_typed_refusals(pair):
    for payload, says in [
        (b"", "not a request"),
        (secrets.token_bytes(100), "not a request"),
        (request(seconds=-1), "not a request"),
        (request(type="DropAllTables"), "unknown message"),
        (request(v=99), "version 99"),
        (request(body={}), "clock: Field required"),
        (request(body=[1, 2]), "HealthPing is not valid"),
        (request(body={"clock": "x" * 1000}), "clock: "),
    ]:
        response = msgpack.unpackb(await pair.raw(payload))
        assert response["error"]["code"] == "invalid_request", payload
        assert says in response["error"]["error"]
        assert "x" * 100 not in str(response), "values from outside are not sent back"


async def test_a_repeated_request_is_executed_once_and_answered_alike(pair):
    payload = encode_request(bytes(range(16)), CancelQuery(query_id=uuid4()), seconds=5)
    answers = []

    async def send():
        answers.append(await pair.raw(payload))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(send)
    await send()
    assert (decode_response(answers[0]).id, decode_response(answers[0]).body) == (bytes(range(16)), {})
    assert len(set(answers)) == 1
    assert (await pair.ref.ask(HealthPing(clock=0), timeout=5)).load == 1


async def test_the_id_of_another_peers_request_replays_nothing(pair, hosts):
    payload = encode_request(bytes(16), HealthPing(clock=1), seconds=5)
    first = msgpack.unpackb(await pair.raw(payload))
    pair.client = await hosts()
    second = msgpack.unpackb(await pair.raw(payload))
    assert first["ok"]["software"] != second["ok"]["software"]


async def test_truncated_and_oversize_frames_leave_the_server_answering(pair):
    await pair.ref.ask(HealthPing(clock=0), timeout=5)
    for data in (b"\x00", b"\x00\x00\x01\x00abc", struct.pack(">I", 2**32 - 1) + b"x" * 1000):
        stream = await pair.client.open_stream(pair.server.peer_id, PROTOCOL, timeout=5)
        await stream._stream.write(data)
        await stream._stream.close()
        await stream.reset()
    stream = await pair.client.open_stream(pair.server.peer_id, PROTOCOL, timeout=5)
    await stream._stream.write(b"\x00\x00\x01\x00abc")
    await stream.reset()
    assert await pair.ref.ask(HealthPing(clock=0), timeout=5)
    assert not pair.server.counters["handler_failures"]


async def test_a_kept_stream_that_died_is_replaced_for_what_may_be_repeated(pair):
    await pair.ref.ask(HealthPing(clock=0), timeout=5)
    await pair.server.disconnect(pair.client.peer_id)
    assert isinstance(await pair.ref.ask(CancelQuery(query_id=uuid4()), timeout=15), Acknowledged)


async def test_nobody_at_the_address_is_peer_unavailable(hosts, free_port, transport):
    client, nobody = await hosts(), (await hosts()).peer_id
    place = f"/ip4/127.0.0.1/udp/{free_port}/quic-v1" if transport == "quic" else f"/ip4/127.0.0.1/tcp/{free_port}"
    ref = RemoteRef(RpcClient(client), nobody, lambda: [place], "nobody")
    with pytest.raises((PeerUnavailable, DeadlineExceeded)):
        await ref.ask(HealthPing(clock=0), timeout=1)


async def test_telling_over_a_network_is_not_offered(pair):
    with pytest.raises(NotSupported):
        pair.ref.tell(HealthPing(clock=0))


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
async def test_an_ask_needs_a_deadline(hosts, timeout):  # noqa: ASYNC109
    with pytest.raises(ValueError, match="finite timeout"):
        await RpcClient(await hosts()).ask("peer", [], HealthPing(clock=0), timeout=timeout)
