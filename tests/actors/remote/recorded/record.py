"""Records what daemons of protocol version 1 say to each other. It runs in a checkout of that version; see README.md.

Every byte is written by that version's own client and server: requests by its ``RpcClient``, answers by its
``RpcServer`` in front of an actor that answers as told below, or of its registry.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import msgpack
import trio

from actors.directory import Directory
from actors.registry import Registry
from actors.remote.envelope import encode_request
from actors.remote.frames import FrameStream
from actors.remote.policy import Policy, Trust
from actors.remote.proof import Transcript, node_proof
from actors.remote.rpc import RpcClient
from actors.remote.rpc_server import RpcServer
from actors.runtime import Actor, ChildSpec, Supervisor, handle, run_tree
from syndb_common.errors import Forbidden, SynDBError
from syndb_common.messages import (
    MESSAGES,
    PROTOCOL_VERSION,
    Acknowledged,
    AnalyticsQuery,
    AnalyticsResult,
    CancelQuery,
    CatalogAnnouncement,
    DatasetCatalogRequest,
    Endpoints,
    FlightEndpoint,
    GetFlightEndpoint,
    HealthPing,
    HealthReport,
    JoinRequest,
    RegisterCluster,
    SchemaMigration,
    SchemaReport,
    SchemaSync,
)
from syndb_common.syql import parse, plan
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion

HUB = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"
NODE = "12D3KooWRBy97UB99e3J6hiPesre1MZeuNQvfan4gBziswrRJsNK"
KEY = bytes(range(32))
NODE_NONCE = bytes(range(32, 64))
TIME = 1_760_000_000.25
MOMENT = datetime(2025, 10, 9, 8, 53, 20, 250_000, tzinfo=UTC)
ENDPOINTS = Endpoints(
    multiaddrs=(f"/ip4/192.0.2.7/udp/4001/quic-v1/p2p/{NODE}", f"/ip4/192.0.2.7/tcp/4001/p2p/{NODE}"),
    flight="grpc+tls://192.0.2.7:50052",
    flight_certificate="-----BEGIN CERTIFICATE-----\nrecorded\n-----END CERTIFICATE-----\n",
)
VERSION = PublishedVersion(
    dataset_id=UUID(int=1),
    version=2,
    metadata=DatasetMetadata(dataset="worm-a", title="A worm", species="Caenorhabditis elegans", sex="hermaphrodite"),
    row_counts={"neurons": 302, "synapses": 7000},
    content_hash="ab" * 32,
    schema_version=1,
    published_at=MOMENT,
)
CATALOGUE = CatalogAnnouncement(revision=12345678901234, versions=(VERSION,), sharing={UUID(int=1): "aggregate"})
MIGRATION = SchemaMigration(
    version=1, name="first", statements=("CREATE TABLE IF NOT EXISTS syndb.t (a UInt8) ENGINE = MergeTree ORDER BY a",)
)
QUESTION = plan(parse("SELECT COUNT(*) AS n FROM synapses LIMIT 5"), [])
FLIGHT = FlightEndpoint(location=ENDPOINTS.flight, certificate=ENDPOINTS.flight_certificate)
REPORT = HealthReport(
    schema_version=1,
    engine="ok",
    load=3,
    catalogue_revision=12345678901234,
    clock=TIME,
    uptime_seconds=12.5,
    software="syndb 0.1.0",
)

# note, message, answer; joining is a conversation of its own
EXCHANGES = [
    ("", HealthPing(clock=TIME), REPORT),
    ("the engine fails", HealthPing(clock=TIME), REPORT.model_copy(update={"engine": "no space", "registered": False})),
    ("", SchemaSync(migrations=(MIGRATION,)), SchemaReport(schema_version=1, applied=(1,))),
    ("dry run", SchemaSync(migrations=(MIGRATION,), dry_run=True), SchemaReport(schema_version=0, applied=(1,))),
    ("", DatasetCatalogRequest(), CATALOGUE),
    ("nothing published", DatasetCatalogRequest(), CatalogAnnouncement(revision=0, versions=())),
    ("", GetFlightEndpoint(), FLIGHT),
    (
        "inline",
        AnalyticsQuery(query_id=UUID(int=7), plan=QUESTION, seconds=30.0),
        AnalyticsResult(inline=b"\xff\xff\xff\xff arrow", rows=1, scanned_rows=7000, scanned_bytes=14000, seconds=0.25),
    ),
    (
        "by ticket",
        AnalyticsQuery(query_id=UUID(int=8), plan=QUESTION, seconds=30.0),
        AnalyticsResult(endpoint=FLIGHT.model_copy(update={"ticket": bytes(32)})),
    ),
    ("", CancelQuery(query_id=UUID(int=7)), Acknowledged()),
    ("refused", CancelQuery(query_id=UUID(int=9)), Forbidden("not yours", hint="ask its owner")),
]


class Pipe:
    """One end of a byte stream within this process; keeps what was written to it."""

    def __init__(self):
        self.arrives, self.incoming = trio.open_memory_channel(100)
        self.other = self
        self.written = b""

    async def read(self, n=None):
        return await self.incoming.receive()

    async def write(self, data):
        self.written += data
        await self.other.arrives.send(data)

    async def close(self):
        pass

    reset = close


class Wire:
    """As much of a host as RPC needs: the server's handler, and streams to it that are recorded."""

    def __init__(self, nursery, client_peer, server_peer):
        self.nursery, self.client_peer, self.server_peer = nursery, client_peer, server_peer

    def set_handler(self, protocol, handler):
        self.handler = handler

    def is_connected(self, peer_id):
        return True

    def reset_soon(self, stream):
        pass

    async def open_stream(self, peer_id, protocol, *, timeout):  # noqa: ASYNC109
        self.here, self.there = Pipe(), Pipe()
        self.here.other, self.there.other = self.there, self.here
        self.nursery.start_soon(self.handler, FrameStream(self.there, self.client_peer))
        return FrameStream(self.here, self.server_peer)

    def take(self):
        """The frames of the exchange that was just made."""
        frames = {"request": self.here.written.hex(), "response": self.there.written.hex()}
        self.here.written = self.there.written = b""
        return frames


class Answering(Actor):
    """Answers with what the exchange says."""

    expected = (SynDBError,)
    answer = None

    @handle
    async def give(self, message: object) -> object:
        if isinstance(Answering.answer, SynDBError):
            raise Answering.answer
        return Answering.answer


class Store:
    """A registry's store that keeps nothing."""

    async def load(self):
        return []

    async def load_catalogues(self):
        return {}

    async def save(self, record):
        pass

    async def save_catalogue(self, cluster_id, announcement):
        pass


async def record_exchanges(nursery):
    """Every message from hub to node with its answer, and one that is refused."""
    tree = await nursery.start(run_tree, Supervisor("peer", [ChildSpec("node", Answering)]))
    wire = Wire(nursery, HUB, NODE)
    RpcServer(wire, Policy(lambda _: Trust.HUB), dict.fromkeys(MESSAGES.values(), tree.ref("node")))
    client = RpcClient(wire)
    recorded = []
    for note, message, Answering.answer in EXCHANGES:
        try:
            await client.ask(NODE, [], message, timeout=5, trace="job 7" if note else "")
        except SynDBError:
            assert isinstance(Answering.answer, SynDBError)
        answered = "error" if isinstance(Answering.answer, SynDBError) else type(Answering.answer).__name__
        recorded.append({"message": type(message).__name__, "answer": answered, "note": note, **wire.take()})
    return recorded


async def record_refusals(nursery):
    """How it refuses the version after its own, and a message it does not know."""
    wire = Wire(nursery, HUB, NODE)
    RpcServer(wire, Policy(lambda _: Trust.HUB), {})
    recorded = {}
    for note, changes in (("version", {"v": 2}), ("message", {"v": 2, "type": "OntologySync"})):
        fields = msgpack.unpackb(encode_request(bytes(16), HealthPing(clock=TIME), seconds=5)) | changes
        stream = await wire.open_stream(NODE, "", timeout=5)
        await stream.send(msgpack.packb(fields), timeout=5)
        await stream.receive(timeout=5)
        recorded[note] = wire.take()
    return recorded


async def record_joining(nursery):
    """A node joins, announces its catalogue, and comes back; the registry is the real one."""
    Answering.answer = Acknowledged()
    registry = Registry(directory=Directory(), store=Store(), hub_peer_id=HUB, key=KEY, schema_version=1)
    children = [ChildSpec("registry", lambda: registry), ChildSpec("health_monitor", Answering)]
    tree = await nursery.start(run_tree, Supervisor("hub", children))
    wire = Wire(nursery, NODE, HUB)
    routes = dict.fromkeys((JoinRequest, RegisterCluster), tree.ref("registry"))
    RpcServer(wire, Policy(lambda _: Trust.ANYONE), routes)
    client, recorded = RpcClient(wire), []
    request = JoinRequest(cluster_name="worm-lab", node_nonce=NODE_NONCE)
    challenge = await client.ask(HUB, [], request, timeout=5)
    recorded.append({"message": "JoinRequest", "answer": "JoinChallenge", "note": "", **wire.take()})
    transcript = Transcript(NODE_NONCE, challenge.hub_nonce, NODE, HUB, "worm-lab")
    registration = RegisterCluster(
        join_id=challenge.join_id,
        node_proof=node_proof(KEY, transcript),
        endpoints=ENDPOINTS,
        schema_version=1,
        institution="Worm Laboratory",
        description="Recorded",
        contact_email="worm@example.org",
        software="syndb 0.1.0",
    )
    await client.ask(HUB, [], registration, timeout=5)
    recorded.append({"message": "RegisterCluster", "answer": "Registered", "note": "", **wire.take()})

    member = Wire(nursery, NODE, HUB)
    RpcServer(member, Policy(lambda _: Trust.MEMBER), {CatalogAnnouncement: tree.ref("registry")})
    await RpcClient(member).ask(HUB, [], CATALOGUE, timeout=5)
    recorded.append({"message": "CatalogAnnouncement", "answer": "Acknowledged", "note": "", **member.take()})
    facts = {"hub_nonce": challenge.hub_nonce.hex(), "join_id": str(challenge.join_id)}
    return {"hub": HUB, "node": NODE, "key": KEY.hex(), "cluster_name": "worm-lab", **facts, "frames": recorded}


async def main():
    assert PROTOCOL_VERSION == 1
    folder = Path(sys.argv[1])
    async with trio.open_nursery() as nursery:
        recorders = {"exchanges": record_exchanges, "joining": record_joining, "refusals": record_refusals}
        for name, record in recorders.items():
            content = json.dumps(await record(nursery), indent=2) + "\n"
            (folder / f"version_1_{name}.json").write_text(content, encoding="utf-8")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
