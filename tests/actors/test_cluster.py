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
from pydantic import SecretStr
from trio.testing import MockClock

from actors import node_state
from actors.catalogue import BUSY_SECONDS, LOOK_SECONDS, READ_SECONDS, Catalogue
from actors.cluster import (
    ALONE_SECONDS,
    ANNOUNCEMENTS,
    APPROVAL_SECONDS,
    REFUSED_SECONDS,
    RETRY_SECONDS,
    Cluster,
    Leave,
    Rejoin,
)
from actors.hub_link import FoundHub, HubLink
from actors.hub_pins import HubPins
from actors.joining import FederationSecret, Membership
from actors.key_rotation import NodeKeys
from actors.node_state import NodeState
from actors.remote.identity import Identity
from actors.remote.proof import Transcript, generate_secret, hub_proof, key_id, node_proof, verify
from actors.runtime import ChildSpec, Supervisor, Tree, run_tree
from syndb_common.engine.interface import Answer
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import (
    ConfigError,
    Conflict,
    EngineUnavailable,
    JoinRefused,
    PeerUnavailable,
    TooManyRequests,
)
from syndb_common.messages import (
    PROTOCOL_VERSION,
    Acknowledged,
    CatalogAnnouncement,
    DatasetCatalogRequest,
    Endpoints,
    GetFlightEndpoint,
    HealthPing,
    HealthReport,
    JoinChallenge,
    JoinRequest,
    LeaveFederation,
    RegisterCluster,
    Registered,
)
from syndb_common.settings import write_private
from syndb_common.tables import schema
from tests.actors.federation_parts import ENDPOINTS, Peer
from tests.actors.node_parts import Commits, derived

SECRET = generate_secret()
KEY = derived(SECRET)
NODE, HUB, NEXT_HUB = (Identity.generate() for _ in range(3))
SILENCE = 10.0


class SilentEngine:
    """An engine that is not there, or answers nothing for a while."""

    publications = 0
    ready = True

    def __init__(self, query: Callable[[], Awaitable[Answer]]) -> None:
        self._query = query

    async def query(self, sql: str, **options: Any) -> Answer:
        return await self._query()

    async def wait_published(self, seen: int) -> int:
        await trio.sleep_forever()
        raise AssertionError


async def gone() -> Answer:
    raise EngineUnavailable("the engine process ended by signal SEGV; " + "x" * 5000)


class Hub(Peer):
    """A hub that knows the password; what it does wrong is for a test to say."""

    def __init__(self, *, secret: str = SECRET, identity: Identity = HUB, **registered: Any) -> None:
        super().__init__(
            {
                JoinRequest: self._challenge,
                RegisterCluster: self._register,
                CatalogAnnouncement: self._announced,
                LeaveFederation: lambda message: Acknowledged(),
            },
            "syndb-hub",
        )
        self.key = derived(secret)
        self.peer_id = identity.peer_id
        self.refusal: Exception | None = None
        self.registered = registered
        self.joined: list[RegisterCluster] = []
        self.announced: list[CatalogAnnouncement] = []
        self.deaf = 0
        self.parted = trio.Event()

    def _challenge(self, message: JoinRequest) -> JoinChallenge:
        if self.refusal is not None:
            raise self.refusal
        assert message.protocol_version == PROTOCOL_VERSION
        if self.key == KEY:
            assert message.key_id == key_id(KEY)
        self.transcript = Transcript(message.node_nonce, b"h" * 32, NODE.peer_id, self.peer_id, message.cluster_name)
        return JoinChallenge(join_id=uuid4(), hub_nonce=b"h" * 32)

    def _register(self, message: RegisterCluster) -> Registered:
        if self.key == KEY:
            assert verify(message.node_proof, node_proof(KEY, self.transcript))
        self.joined.append(message)
        proof = hub_proof(self.key, self.transcript)
        return Registered(**{"cluster_id": uuid4(), "hub_proof": proof, "schema_version": 1} | self.registered)

    def _announced(self, message: CatalogAnnouncement) -> Acknowledged:
        if self.deaf:
            self.deaf -= 1
            raise PeerUnavailable("busy")
        self.announced.append(message)
        return Acknowledged()

    async def lost(self) -> None:
        """The connection ends."""
        self.parted.set()
        self.parted = trio.Event()


@dataclass
class Node:
    tree: Tree
    state_file: Path
    endpoints: list[Endpoints]
    pins: HubPins
    secret: FederationSecret
    searches: list[float] = field(default_factory=list)

    async def ask(self, message: object, sender: str | None = None) -> Any:
        return await self.tree.ref("cluster").ask(message, timeout=30, sender=sender)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.state_file.read_text())
        return found


Start = Callable[..., Awaitable[Node]]


@pytest.fixture(autouse=True)
def files_on_the_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps does not wait for the threads that write and read small files."""

    async def run_sync(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*args)

    if "autojump_clock" in request.fixturenames:
        monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


@pytest.fixture
def start(nursery: trio.Nursery, tmp_path: Path) -> Start:
    """Starts a node whose engine and hub are as given."""

    async def start_node(
        hub: Callable[[], Hub],
        *,
        engine: Any = None,
        endpoints: Endpoints = ENDPOINTS,
        secret: str = SECRET,
        hub_url: str = "",
    ) -> Node:
        places, searches, found = [endpoints], [], []
        pins = HubPins(tmp_path, HUB.peer_id)
        proved = FederationSecret(SecretStr(secret))

        async def find_hub() -> FoundHub:
            searches.append(trio.current_time())
            await trio.lowlevel.checkpoint()
            found.append(hub())
            return FoundHub(found[-1].peer_id, found[-1])

        async def lost(peer_id: str) -> None:
            await found[-1].parted.wait()

        catalogue = Catalogue(engine or SilentEngine(gone), lambda version: "rows")
        link = HubLink(
            folder=tmp_path,
            membership=Membership(name="worm-lab", institution="Worms", software="a node"),
            keys=NodeKeys(NODE),
            pins=pins,
            secret=proved,
            find_hub=find_hub,
            hub_url=lambda: hub_url,
            endpoints=lambda: places[-1],
        )

        def make() -> Cluster:
            return Cluster(
                link=link,
                catalogue=catalogue,
                state=NodeState(tmp_path, "worm-lab", NODE.peer_id),
                load=lambda: 3,
                silence_seconds=lambda: SILENCE,
                lost=lost,
                ontology_revision=lambda: 7,
            )

        tree = await nursery.start(partial(run_tree, Supervisor("node", [ChildSpec("cluster", make)])))
        return Node(tree, tmp_path / node_state.FILE, places, pins, proved, searches)

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
    assert (state["state"], state["cluster"], state["hub_peer_id"]) == ("joined", "worm-lab", HUB.peer_id)
    assert (state["cause"], state["hint"]) == ("", "")


async def test_the_note_says_which_schema_the_node_has_and_which_the_hub(
    start: Start, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.catalogue.schema.schema_version", lambda engine: present())
    monkeypatch.setattr("actors.catalogue.published.rows", lambda engine: nothing())
    versions = [2]

    async def present() -> int:
        return versions[-1]

    async def nothing() -> None:
        return None

    def noted() -> tuple[int, int, str]:
        state = node.state()
        return state["schema_version"], state["hub_schema_version"], state["state"]

    hub = Hub(schema_version=5)
    node = await start(lambda: hub)
    await trio.sleep(5)
    assert noted() == (2, 5, "joined")
    versions.append(5)  # the hub has sent migrations
    await trio.sleep(SILENCE / 2)
    assert noted() == (5, 5, "joined")


async def test_the_note_holds_no_secret(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub()
    node = await start(lambda: hub)
    await trio.sleep(1)
    assert SECRET[7:] not in node.state_file.read_text()
    assert KEY.hex() not in node.state_file.read_text()


async def test_a_hub_that_cannot_prove_the_password_is_not_joined(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub(secret=generate_secret())
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
    await trio.sleep(600)
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
    (tmp_path / node_state.FILE).mkdir()  # writing the note fails
    hub = Hub()
    await start(lambda: hub)
    await trio.sleep(1)
    assert len(hub.joined) == 1


async def test_a_ping_says_that_the_engine_is_gone(start: Start, autojump_clock: MockClock) -> None:
    node = await start(Hub)
    report: HealthReport = await node.ask(HealthPing(clock=0.0))
    assert report.engine.startswith("the engine process ended")
    assert report.load == 3


async def test_a_ping_is_answered_at_once_whatever_the_engine_does(start: Start, autojump_clock: MockClock) -> None:
    node = await start(Hub, engine=SilentEngine(trio.sleep_forever))
    began = trio.current_time()
    first: HealthReport = await node.ask(HealthPing(clock=0.0))
    assert (first.engine, trio.current_time() - began) == ("starting", 0)
    await trio.sleep(BUSY_SECONDS + 0.1)
    began = trio.current_time()
    second: HealthReport = await node.ask(HealthPing(clock=0.0))
    await node.ask(DatasetCatalogRequest())
    assert (second.engine, trio.current_time() - began) == ("busy", 0)


async def test_an_engine_that_hung_is_ok_again_when_it_answers(start: Start, autojump_clock: MockClock) -> None:
    patience = [trio.sleep_forever]
    commits = Commits()

    class Hanging(Commits):
        async def query(self, sql: str, **options: Any) -> Answer:
            if patience:
                await patience[0]()
            return await commits.query(sql, **options)

    node = await start(Hub, engine=Hanging())
    await trio.sleep(READ_SECONDS + 1)
    assert (await node.ask(HealthPing(clock=0.0))).engine == "busy"
    patience.clear()
    await trio.sleep(READ_SECONDS + LOOK_SECONDS)
    assert (await node.ask(HealthPing(clock=0.0))).engine == "ok"


async def test_the_note_is_written_beside_the_loop(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def write(path: Path, content: str) -> None:
        threads.append(threading.current_thread())
        write_private(path, content)

    monkeypatch.setattr(node_state, "write_private", write)
    node = await start(Hub)
    with trio.fail_after(5):
        while not node.state_file.exists() or node.state()["state"] != "joined":  # noqa: ASYNC110 - a file has no event
            await trio.sleep(0.01)
    assert threads
    assert threading.current_thread() not in threads


async def test_the_hub_is_told_where_flight_is(start: Start, autojump_clock: MockClock) -> None:
    node = await start(Hub)
    endpoint = await node.ask(GetFlightEndpoint())
    assert (endpoint.location, endpoint.certificate, endpoint.ticket) == (ENDPOINTS.flight, "pem", None)


async def test_a_change_of_the_catalogue_is_known_and_announced_without_being_asked_for(
    start: Start, autojump_clock: MockClock
) -> None:
    hub, engine = Hub(), Commits()
    node = await start(lambda: hub, engine=engine)
    await trio.sleep(1)
    engine.publish("worm")
    await trio.sleep(0.1)
    report: HealthReport = await node.ask(HealthPing(clock=0.0))
    [page] = [page for page in hub.announced if page.versions]
    assert [version.metadata.dataset for version in page.versions] == ["worm"]
    assert (report.engine, report.catalogue_revision) == ("ok", page.revision)
    assert await node.ask(DatasetCatalogRequest()) == page


async def test_what_changed_unheard_is_announced_within_the_time_between_two_looks(
    start: Start, autojump_clock: MockClock
) -> None:
    hub, engine = Hub(), Commits()
    await start(lambda: hub, engine=engine)
    await trio.sleep(1)
    engine.publish("worm", heard=False)
    await trio.sleep(LOOK_SECONDS + 0.1)
    assert hub.announced[-1].versions


async def test_an_announcement_that_fails_is_repeated_and_not_without_end(
    start: Start, autojump_clock: MockClock
) -> None:
    hub, engine = Hub(), Commits()
    hub.deaf = 2
    node = await start(lambda: hub, engine=engine)
    for _ in range(6):
        await node.ask(HealthPing(clock=0.0))
        await trio.sleep(LOOK_SECONDS)
    assert len(hub.announced) == 1
    hub.deaf = 1000
    engine.publish("worm")
    for _ in range(2 * ANNOUNCEMENTS):
        await node.ask(HealthPing(clock=0.0))
        await trio.sleep(LOOK_SECONDS)
    assert 1000 - hub.deaf == ANNOUNCEMENTS


async def test_a_page_that_there_is_not_is_answered_with_the_present_revision(
    start: Start, autojump_clock: MockClock
) -> None:
    node = await start(Hub, engine=Commits())
    await trio.sleep(1)
    first = await node.ask(DatasetCatalogRequest())
    assert await node.ask(DatasetCatalogRequest(page=9)) == first


async def test_a_catalogue_is_read_from_the_engine(engine: LocalEngine, start: Start) -> None:
    await schema.apply(engine, schema.migrations())
    node = await start(Hub, engine=engine)
    with trio.fail_after(10):
        while (report := await node.ask(HealthPing(clock=0.0))).engine != "ok":  # noqa: ASYNC110 - it is asked
            await trio.sleep(0.05)
    announced = await node.ask(DatasetCatalogRequest())
    assert (report.schema_version, report.ontology_revision) == (schema.CURRENT, 7)
    assert (announced.revision, announced.versions) == (report.catalogue_revision, ())


async def test_a_lost_connection_is_noticed_long_before_the_silence(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub()
    await start(lambda: hub)
    await trio.sleep(1)
    await hub.lost()
    await trio.sleep(RETRY_SECONDS[0] + 0.1)
    assert len(hub.joined) == 2


async def test_a_hub_that_pings_rarely_is_given_five_of_its_intervals(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub(ping_seconds=60.0)
    await start(lambda: hub)
    await trio.sleep(299)
    assert len(hub.joined) == 1
    await trio.sleep(5)
    assert len(hub.joined) == 2


async def test_a_node_that_waits_for_approval_says_so_and_asks_calmly(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub(standing="waiting")
    node = await start(lambda: hub)
    await trio.sleep(APPROVAL_SECONDS * 3 - 1)
    assert len(hub.joined) == 3
    assert node.state()["state"] == "waiting for the operator's approval"
    assert hub.announced == []


async def test_the_first_ping_after_approval_ends_the_waiting(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub(standing="waiting")
    node = await start(lambda: hub)
    await trio.sleep(5)
    hub.registered["standing"] = "active"
    await node.ask(HealthPing(clock=0.0), HUB.peer_id)
    await trio.sleep(1)
    assert node.state()["state"] == "joined"


async def test_another_password_is_proved_as_soon_as_it_is_configured(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub(secret=SECRET)
    node = await start(lambda: hub, secret=generate_secret())
    hub.refusal = JoinRefused("invalid federation password")
    await trio.sleep(1)
    assert node.state()["state"] == "refused"
    hub.refusal = None
    node.secret.replace(SecretStr(SECRET))
    await node.ask(Rejoin())
    await trio.sleep(0.1)
    assert node.state()["state"] == "joined"
    assert len(hub.joined) == 1


async def test_a_node_that_is_joined_joins_anew_when_told_to(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub()
    node = await start(lambda: hub)
    await trio.sleep(1)
    await node.ask(Rejoin())
    await trio.sleep(0.1)
    assert len(hub.joined) == 2


async def test_a_node_that_stops_says_so_to_its_hub_if_it_has_one(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub()
    hub.refusal = PeerUnavailable("nobody there")
    node = await start(lambda: hub)
    await node.ask(Leave())
    assert hub.count(LeaveFederation) == 0
    hub.refusal = None
    await trio.sleep(RETRY_SECONDS[0] + 1)
    await node.ask(Leave())
    assert hub.count(LeaveFederation) == 1
    assert node.state()["state"] == "left"


async def test_the_hubs_next_key_is_pinned_and_followed_and_the_former_refused(
    start: Start, autojump_clock: MockClock
) -> None:
    hubs = [Hub(next_hub_peer_id=NEXT_HUB.peer_id)]
    node = await start(lambda: hubs[-1])
    await trio.sleep(1)
    assert (node.pins.current, node.pins.successor) == (HUB.peer_id, NEXT_HUB.peer_id)
    hubs.append(Hub(identity=NEXT_HUB))
    await hubs[0].lost()
    await trio.sleep(2)
    assert len(hubs[1].joined) == 1
    assert (node.pins.current, node.pins.successor) == (NEXT_HUB.peer_id, "")
    assert not node.pins.trusts(HUB.peer_id)


async def test_whoever_has_the_next_key_and_not_the_password_is_not_followed(
    start: Start, autojump_clock: MockClock
) -> None:
    hubs = [Hub(next_hub_peer_id=NEXT_HUB.peer_id)]
    node = await start(lambda: hubs[-1])
    await trio.sleep(1)
    hubs.append(Hub(identity=NEXT_HUB, secret=generate_secret()))
    await hubs[0].lost()
    await trio.sleep(2)
    assert (node.pins.current, node.pins.successor) == (HUB.peer_id, NEXT_HUB.peer_id)
    assert node.state()["state"] == "refused"


async def test_a_ping_announces_the_next_key_too_and_only_the_hubs(start: Start, autojump_clock: MockClock) -> None:
    hub = Hub()
    node = await start(lambda: hub)
    await trio.sleep(1)
    await node.ask(HealthPing(clock=0.0, next_hub_peer_id=NEXT_HUB.peer_id), NEXT_HUB.peer_id)
    await trio.sleep(0.1)
    assert node.pins.successor == ""
    await node.ask(HealthPing(clock=0.0, next_hub_peer_id=NEXT_HUB.peer_id), HUB.peer_id)
    await trio.sleep(0.1)
    assert node.pins.successor == NEXT_HUB.peer_id


async def test_a_hub_that_libp2p_does_not_reach_is_joined_over_http_until_it_does(
    start: Start, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, posted = Hub(), []
    hub.refusal = PeerUnavailable("nobody there")

    async def join_over_http(url: str, hub_peer_id: str, key: bytes, application: Any) -> Registered:
        posted.append((url, hub_peer_id, key))
        return Registered(cluster_id=uuid4(), hub_proof=b"p" * 32, schema_version=1, next_hub_peer_id=NEXT_HUB.peer_id)

    monkeypatch.setattr("actors.hub_link.join_over_http", join_over_http)
    reachable = False

    def found() -> Hub:
        if not reachable:
            raise PeerUnavailable("nobody there")
        return hub

    node = await start(found, hub_url="https://hub.example")
    await trio.sleep(1)
    assert posted == [("https://hub.example", HUB.peer_id, KEY)]
    assert (node.state()["state"], node.state()["over"]) == ("joined", "HTTP")
    assert node.pins.successor == NEXT_HUB.peer_id
    searched = len(node.searches)
    await trio.sleep(ALONE_SECONDS / 2)
    assert len(node.searches) > searched
    assert len(posted) == 1
    hub.refusal, reachable = None, True
    await trio.sleep(RETRY_SECONDS[-1] + 0.1)
    assert (len(hub.joined), node.state()["over"]) == (1, "libp2p")


async def test_a_secret_that_cannot_be_used_is_said_and_the_node_lives(start: Start, autojump_clock: MockClock) -> None:
    node = await start(Hub, secret="x" * 2000)
    await trio.sleep(5)
    assert "federation password" in node.state()["cause"]
    with pytest.raises(ConfigError):
        await node.secret.key(HUB.peer_id)
