"""The node's side of a membership: joining, staying joined, and saying how it is."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio
from trio.testing import MockClock

from actors import cluster
from actors.cluster import (
    CATALOGUE_SECONDS,
    ENGINE_SECONDS,
    REFUSED_SECONDS,
    RETRY_SECONDS,
    Catalogue,
    Cluster,
    Membership,
)
from actors.remote.proof import Transcript, hub_proof, node_proof, verify
from actors.runtime import ActorRef, ChildSpec, Supervisor, Tree, run_tree
from syndb_common.engine.embedded import EmbeddedEngine
from syndb_common.engine.interface import Answer
from syndb_common.errors import (
    Conflict,
    DeadlineExceeded,
    EngineUnavailable,
    JoinRefused,
    PeerUnavailable,
    TooManyRequests,
)
from syndb_common.messages import (
    DatasetCatalogRequest,
    Endpoints,
    GetFlightEndpoint,
    HealthPing,
    HealthReport,
    JoinChallenge,
    JoinRequest,
    RegisterCluster,
    Registered,
)
from syndb_common.tables import schema
from tests.actors.federation_parts import ENDPOINTS, Peer

KEY = b"k" * 32
ME = Membership(name="worm-lab", node_peer_id="12D3Worm", hub_peer_id="12D3Hub", key=KEY, institution="Worms")
SILENCE = 10.0


class SilentEngine:
    """An engine that is not there, or answers nothing for a while."""

    def __init__(self, query: Callable[[], Awaitable[Answer]]) -> None:
        self._query = query

    async def query(self, sql: str, **options: Any) -> Answer:
        return await self._query()


async def gone() -> Answer:
    raise EngineUnavailable("the engine process ended by signal SEGV; " + "x" * 5000)


class Hub(Peer):
    """A hub that knows the password; what it does wrong is for a test to say."""

    def __init__(self, *, key: bytes = KEY) -> None:
        super().__init__({JoinRequest: self._challenge, RegisterCluster: self._register}, "syndb-hub")
        self.key = key
        self.refusal: Exception | None = None
        self.joined: list[RegisterCluster] = []

    def _challenge(self, message: JoinRequest) -> JoinChallenge:
        if self.refusal is not None:
            raise self.refusal
        self.transcript = Transcript(message.node_nonce, b"h" * 32, "12D3Worm", "12D3Hub", message.cluster_name)
        return JoinChallenge(join_id=uuid4(), hub_nonce=b"h" * 32)

    def _register(self, message: RegisterCluster) -> Registered:
        if self.key == KEY:
            assert verify(message.node_proof, node_proof(KEY, self.transcript))
        self.joined.append(message)
        return Registered(cluster_id=uuid4(), hub_proof=hub_proof(self.key, self.transcript), schema_version=1)


@dataclass
class Node:
    tree: Tree
    state_file: Path
    endpoints: list[Endpoints]
    searches: list[float] = field(default_factory=list)

    async def ask(self, message: object) -> Any:
        return await self.tree.ref("cluster").ask(message, timeout=30)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.state_file.read_text())
        return found


Start = Callable[..., Awaitable[Node]]


@pytest.fixture(autouse=True)
def notes_on_the_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps does not wait for the thread that writes the note."""

    async def write_note(path: Path, content: str) -> None:
        await trio.lowlevel.checkpoint()
        cluster._replace_file(path, content)

    if "autojump_clock" in request.fixturenames:
        monkeypatch.setattr(cluster, "write_note", write_note)


@pytest.fixture
def start(nursery: trio.Nursery, tmp_path: Path) -> Start:
    """Starts a node whose engine and hub are as given."""

    async def start_node(
        hub: Callable[[], Peer], *, engine: Any = None, endpoints: Endpoints = ENDPOINTS, me: Membership = ME
    ) -> Node:
        places, searches = [endpoints], []

        async def find_hub() -> ActorRef:
            searches.append(trio.current_time())
            await trio.lowlevel.checkpoint()
            return hub()

        def make() -> Cluster:
            return Cluster(
                membership=me,
                catalogue=Catalogue(engine or SilentEngine(gone), lambda version: "rows"),  # type: ignore[arg-type]
                endpoints=lambda: places[-1],
                find_hub=find_hub,
                load=lambda: 3,
                state_file=tmp_path / "federation-state.json",
                silence_seconds=SILENCE,
            )

        tree = await nursery.start(partial(run_tree, Supervisor("node", [ChildSpec("cluster", make)])))
        return Node(tree, tmp_path / "federation-state.json", places, searches)

    return start_node


async def test_a_node_joins_with_what_it_is_and_leaves_a_note_for_its_operator(
    start: Start, autojump_clock: MockClock
) -> None:
    hub = Hub()
    node = await start(lambda: hub)
    await trio.sleep(1)
    [registration] = hub.joined
    assert (registration.endpoints, registration.institution) == (ENDPOINTS, "Worms")
    state = node.state()
    assert (state["state"], state["cluster"], state["hub_peer_id"]) == ("joined", "worm-lab", "12D3Hub")
    assert (state["cause"], state["hint"]) == ("", "")


async def test_the_note_holds_no_secret(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub()
    node = await start(lambda: hub)
    await trio.sleep(1)
    assert "kkkk" not in node.state_file.read_text()
    assert KEY.hex() not in node.state_file.read_text()


async def test_a_hub_that_cannot_prove_the_password_is_not_joined(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub(key=b"x" * 32)
    node = await start(lambda: hub)
    await trio.sleep(REFUSED_SECONDS / 2)
    assert len(hub.joined) == 1
    state = node.state()
    assert (state["state"], "did not prove" in state["cause"]) == ("refused", True)
    assert "hub_peer_id" in state["hint"]


@pytest.mark.parametrize(
    ("error", "state", "attempts"),
    [
        (JoinRefused("invalid federation password"), "refused", 2),
        (Conflict("the name belongs to another node"), "refused", 2),
        (PeerUnavailable("nobody there"), "looking for the hub", 7),
        (TooManyRequests("wait"), "looking for the hub", 7),
    ],
)
async def test_what_only_a_person_can_change_is_tried_rarely_and_the_rest_often(
    start: Start, autojump_clock: MockClock, error: Exception, state: str, attempts: int
) -> None:
    hub = Hub()
    hub.refusal = error
    node = await start(lambda: hub)
    await trio.sleep(REFUSED_SECONDS + 1)
    assert len(hub.asked) == attempts
    assert (node.state()["state"], node.state()["cause"]) == (state, str(error))
    hub.refusal = None
    await trio.sleep(REFUSED_SECONDS)
    assert node.state()["state"] == "joined"


async def test_a_hub_that_comes_back_after_long_is_joined_within_seconds(
    start: Start, autojump_clock: MockClock
) -> None:
    hub = Hub()
    hub.refusal = PeerUnavailable("nobody there")
    await start(lambda: hub)
    await trio.sleep(3600)
    hub.refusal = None
    await trio.sleep(max(RETRY_SECONDS) + 0.1)
    assert len(hub.joined) == 1


async def test_a_node_that_is_pinged_stays_and_one_that_hears_nothing_joins_again(
    start: Start, autojump_clock: MockClock
) -> None:
    hub = Hub()
    node = await start(lambda: hub)
    for _ in range(10):
        await trio.sleep(SILENCE / 2)
        await node.ask(HealthPing(clock=0.0))
    assert len(hub.joined) == 1
    await trio.sleep(SILENCE + 0.1)
    assert len(hub.joined) == 2


async def test_addresses_are_looked_up_anew_at_every_attempt(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub()
    node = await start(lambda: hub)
    await trio.sleep(1)
    node.endpoints.append(ENDPOINTS.model_copy(update={"flight": "grpc+tls://127.0.0.1:9"}))
    await trio.sleep(SILENCE)
    assert [each.endpoints.flight for each in hub.joined] == ["grpc+tls://127.0.0.1:50052", "grpc+tls://127.0.0.1:9"]


async def test_addresses_that_exist_only_once_the_hub_is_found_are_told_to_it(
    start: Start, autojump_clock: MockClock
) -> None:
    hub = Hub()
    nodes: list[Node] = []

    def found() -> Hub:
        nodes[0].endpoints.append(ENDPOINTS)
        return hub

    nodes.append(await start(found, endpoints=ENDPOINTS.model_copy(update={"multiaddrs": ()})))
    await trio.sleep(1)
    assert [each.endpoints.multiaddrs for each in hub.joined] == [ENDPOINTS.multiaddrs]


async def test_a_node_joins_once_although_a_hub_that_remembers_it_pings_already(
    start: Start, autojump_clock: MockClock
) -> None:
    hub = Hub()
    hub.refusal = PeerUnavailable("not yet")
    node = await start(lambda: hub)
    await node.ask(HealthPing(clock=0.0))
    await trio.sleep(0.1)
    hub.refusal = None
    for _ in range(5):
        await node.ask(HealthPing(clock=0.0))
        await trio.sleep(1)
    assert len(hub.joined) == 1
    assert node.state()["state"] == "joined"


async def test_a_node_without_a_flight_server_does_not_tell_the_hub_of_one(
    start: Start, autojump_clock: MockClock
) -> None:
    hub = Hub()
    node = await start(lambda: hub, endpoints=ENDPOINTS.model_copy(update={"flight": ""}))
    await trio.sleep(1)
    assert hub.joined == []
    assert "engine" in node.state()["cause"]
    node.endpoints.append(ENDPOINTS)
    await trio.sleep(max(RETRY_SECONDS))
    assert len(hub.joined) == 1


async def test_a_disk_that_is_full_costs_the_note_and_not_the_node(
    start: Start, autojump_clock: MockClock, tmp_path: Path
) -> None:
    (tmp_path / "federation-state.tmp").mkdir()  # writing the note fails
    hub = Hub()
    await start(lambda: hub)
    await trio.sleep(1)
    assert len(hub.joined) == 1


async def test_a_ping_says_that_the_engine_is_gone(start: Start, autojump_clock: MockClock) -> None:
    node = await start(Hub)
    report: HealthReport = await node.ask(HealthPing(clock=0.0))
    assert report.engine.startswith("the engine process ended")
    assert report.load == 3


async def test_a_ping_waits_for_a_busy_engine_a_moment_only(start: Start, autojump_clock: MockClock) -> None:
    node = await start(Hub, engine=SilentEngine(trio.sleep_forever))
    began = trio.current_time()
    report: HealthReport = await node.ask(HealthPing(clock=0.0))
    assert report.engine == "busy"
    assert trio.current_time() - began == pytest.approx(ENGINE_SECONDS, abs=0.01)


async def test_a_catalogue_that_the_engine_holds_back_holds_up_no_ping_and_ends_in_time(
    start: Start, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    node = await start(Hub, engine=SilentEngine(trio.sleep_forever))
    began, outcomes = trio.current_time(), []

    async def ask() -> None:
        with pytest.raises(DeadlineExceeded, match="published"):
            await node.ask(DatasetCatalogRequest())
        outcomes.append(trio.current_time() - began)

    nursery.start_soon(ask)
    await trio.sleep(0.1)
    await node.ask(HealthPing(clock=0.0))
    assert trio.current_time() - began < 0.2 + ENGINE_SECONDS
    await trio.sleep(CATALOGUE_SECONDS)
    assert outcomes == [pytest.approx(CATALOGUE_SECONDS, abs=0.1)]


async def test_a_catalogue_that_a_ping_has_just_read_is_not_read_again(engine: EmbeddedEngine, start: Start) -> None:
    await schema.apply(engine, schema.migrations())
    asked = []

    class Counting:
        async def query(self, sql: str, **options: Any) -> Answer:
            asked.append(sql)
            return await engine.query(sql, **options)

    node = await start(Hub, engine=Counting())
    await node.ask(HealthPing(clock=0.0))
    before = len(asked)
    await node.ask(DatasetCatalogRequest())
    assert len(asked) == before > 0


async def test_the_note_is_written_beside_the_loop(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    replace_file = cluster._replace_file

    def write(path: Path, content: str) -> None:
        threads.append(threading.current_thread())
        replace_file(path, content)

    monkeypatch.setattr(cluster, "_replace_file", write)
    node = await start(Hub)
    with trio.fail_after(5):
        while node.state()["state"] != "joined":  # noqa: ASYNC110 - a file has no event
            await trio.sleep(0.01)
    assert threads
    assert threading.current_thread() not in threads


async def test_a_ping_that_fails_does_not_lose_the_catalogue_known_before(
    start: Start, autojump_clock: MockClock
) -> None:
    node = await start(Hub)
    first: HealthReport = await node.ask(HealthPing(clock=0.0))
    second: HealthReport = await node.ask(HealthPing(clock=0.0))
    assert first.catalogue_revision == second.catalogue_revision


async def test_the_hub_is_told_where_flight_is(start: Start, autojump_clock: MockClock) -> None:
    node = await start(Hub)
    endpoint = await node.ask(GetFlightEndpoint())
    assert (endpoint.location, endpoint.certificate, endpoint.ticket) == (ENDPOINTS.flight, "pem", None)


async def test_a_catalogue_is_read_from_the_engine_and_its_revision_follows_the_owners_sharing(
    engine: EmbeddedEngine, start: Start
) -> None:
    await schema.apply(engine, schema.migrations())
    node = await start(Hub, engine=engine)
    report: HealthReport = await node.ask(HealthPing(clock=0.0))
    announced = await node.ask(DatasetCatalogRequest())
    assert (report.engine, report.schema_version) == ("ok", schema.CURRENT)
    assert (announced.revision, announced.versions) == (report.catalogue_revision, ())


def test_a_membership_can_be_shown_without_its_key() -> None:
    assert "kkkk" not in repr(ME)
