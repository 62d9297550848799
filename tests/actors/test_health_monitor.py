"""How the hub tells nodes that are well from those that are slow, behind or gone."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import trio
from trio.testing import MockClock

from actors.admission import Keyring
from actors.catch_up import AGAIN_SECONDS
from actors.directory import Cluster, Directory, Health
from actors.health import HealthObserved, HealthPolicy, Verify, Watch
from actors.health_monitor import PLACES, HealthMonitor
from actors.ontology_sync import SyncTerms
from actors.registry import Registry
from actors.registry_messages import Deactivate
from actors.runtime import ActorRef, ChildSpec, Supervisor, Tree, run_tree
from actors.schema_sync import SchemaPublisher
from syndb_common.errors import Conflict, DataError, LimitExceeded, NotFound, PeerUnavailable
from syndb_common.messages import (
    CatalogAnnouncement,
    DatasetCatalogRequest,
    HealthPing,
    HealthReport,
    SchemaReport,
    SchemaSync,
)
from syndb_common.tables import schema
from tests.actors.federation_parts import Inbox, MemoryInvitations, MemoryStore, Peer, cluster, published

POLICY = HealthPolicy()
SCHEMA = schema.CURRENT
LIMIT = POLICY.unreachable_after
GONE = PeerUnavailable("cannot be reached")
NEXT_HUB = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"


def report(**facts: Any) -> HealthReport:
    return HealthReport(
        **{
            "schema_version": SCHEMA,
            "engine": "ok",
            "load": 0,
            "catalogue_revision": 1,
            "clock": time.time(),
            "uptime_seconds": 86_400.0,
            "software": "test",
            **facts,
        }
    )


@dataclass
class Hub:
    """Registry, publisher and monitor over peers that answer as told, on a clock that jumps."""

    tree: Tree
    directory: Directory
    store: MemoryStore
    peers: dict[str, Peer] = field(default_factory=dict)
    terms_sent: list[SyncTerms] = field(default_factory=list)

    def now(self, name: str) -> Cluster:
        found = self.directory.by_name(name)
        assert found is not None
        return found

    async def until(self, name: str, health: Health) -> None:
        with trio.fail_after(600):
            while self.now(name).health is not health:  # noqa: ASYNC110 - the directory tells of lost nodes only
                await trio.sleep(0.01)


Start = Callable[..., Awaitable[Hub]]


@pytest.fixture
def start(nursery: trio.Nursery) -> Start:
    async def start_hub(*, ontology_revision: int = 0, **peers: Peer) -> Hub:
        terms_sent: list[Any] = []
        store = MemoryStore(*(cluster(name).record for name in peers))
        directory = Directory()

        def peer(node: Cluster) -> ActorRef:
            return peers[node.record.name]

        children = [
            ChildSpec(
                "registry",
                lambda: Registry(
                    directory=directory,
                    store=store,
                    invitations=MemoryInvitations(),
                    hub_peer_id="h",
                    keys=lambda: Keyring(b""),
                    schema_version=SCHEMA,
                ),
            ),
            ChildSpec("schema_publisher", lambda: SchemaPublisher(directory=directory, peer=peer)),
            ChildSpec(
                "health_monitor",
                lambda: HealthMonitor(
                    directory=directory,
                    peer=peer,
                    policy=POLICY,
                    schema_version=SCHEMA,
                    ontology_revision=lambda: ontology_revision,
                    next_hub_peer_id=lambda: NEXT_HUB,
                ),
            ),
            ChildSpec("ontology_publisher", lambda: Inbox(terms_sent)),
        ]
        tree = await nursery.start(partial(run_tree, Supervisor("hub", children)))
        return Hub(tree, directory, store, peers, terms_sent)

    return start_hub


def node(**answers: Any) -> Peer:
    """A node that is well; ``ping``, ``catalogue`` and ``sync`` replace what it answers."""
    return Peer(
        {
            HealthPing: answers.get("ping", lambda message: report()),
            DatasetCatalogRequest: answers.get(
                "catalogue", lambda message: CatalogAnnouncement(revision=1, versions=(published("worm"),))
            ),
            SchemaSync: answers.get("sync", lambda message: SchemaReport(schema_version=SCHEMA, applied=())),
        }
    )


def fails(error: Exception) -> Callable[[object], Any]:
    def answer(message: object) -> Any:
        raise error

    return answer


async def never(message: object) -> Any:
    await trio.sleep_forever()


async def test_a_node_known_from_before_becomes_healthy_with_its_catalogue(
    start: Start, autojump_clock: MockClock
) -> None:
    hub = await start(worm=node())
    await hub.until("worm", Health.HEALTHY)
    assert [each.metadata.dataset for each in hub.now("worm").versions] == ["worm"]
    assert hub.now("worm").cause == ""


async def test_a_slow_node_does_not_delay_the_others(start: Start, autojump_clock: MockClock) -> None:
    hub = await start(slow=node(ping=never), worm=node(), fly=node())
    began = trio.current_time()
    await hub.until("worm", Health.HEALTHY)
    await hub.until("fly", Health.HEALTHY)
    assert trio.current_time() - began < POLICY.timeout
    await trio.sleep(20 * POLICY.interval)
    assert 20 <= hub.peers["worm"].count(HealthPing) <= 26


async def test_a_node_that_is_gone_is_unreachable_within_the_promised_time_and_comes_back(
    start: Start, autojump_clock: MockClock
) -> None:
    worm = node()
    hub = await start(worm=worm)
    await hub.until("worm", Health.HEALTHY)
    worm.answers[HealthPing] = never
    began = trio.current_time()
    await hub.until("worm", Health.UNREACHABLE)
    assert trio.current_time() - began <= 2 * POLICY.cycle
    assert (hub.now("worm").failures, hub.now("worm").flaps) == (LIMIT, 1)
    await trio.sleep(60)
    worm.answers[HealthPing] = lambda message: report()
    began = trio.current_time()
    await hub.until("worm", Health.HEALTHY)
    assert trio.current_time() - began <= POLICY.timeout + POLICY.longest_pause + POLICY.retry
    assert hub.now("worm").failures == 0
    assert hub.store.transitions == [
        ("unknown", "healthy"),
        ("healthy", "unreachable"),
        ("unreachable", "degraded"),
        ("degraded", "healthy"),
    ]


async def test_a_node_that_is_back_and_joins_is_healthy_within_a_second(
    start: Start, autojump_clock: MockClock
) -> None:
    worm = node(ping=fails(GONE))
    hub = await start(worm=worm)
    await trio.sleep(60)
    assert hub.now("worm").health is Health.UNREACHABLE
    worm.answers[HealthPing] = lambda message: report()
    hub.tree.ref("health_monitor").tell(Watch(hub.now("worm").record.id))
    await trio.sleep(1)
    assert hub.now("worm").health is Health.HEALTHY


async def test_an_unreachable_node_is_asked_less_and_less(start: Start, autojump_clock: MockClock) -> None:
    worm = node(ping=fails(GONE))
    await start(worm=worm)
    await trio.sleep(100)
    assert 100 / POLICY.longest_pause < worm.count(HealthPing) < 10 + 2 * 100 / POLICY.longest_pause


async def test_one_lost_ping_changes_nothing(start: Start, autojump_clock: MockClock) -> None:
    worm = node()
    hub = await start(worm=worm)
    await hub.until("worm", Health.HEALTHY)
    worm.answers[HealthPing] = fails(GONE)
    await trio.sleep(POLICY.interval + 0.01)
    worm.answers[HealthPing] = lambda message: report()
    await trio.sleep(POLICY.interval)
    assert hub.store.transitions == [("unknown", "healthy")]


async def test_a_node_behind_in_its_schema_is_sent_what_it_lacks_and_is_healthy_then(
    start: Start, autojump_clock: MockClock
) -> None:
    has = [0]

    def apply(message: SchemaSync) -> SchemaReport:
        applied = tuple(migration.version for migration in message.migrations)
        has[0] = applied[-1]
        return SchemaReport(schema_version=has[0], applied=applied)

    hub = await start(worm=node(ping=lambda message: report(schema_version=has[0]), sync=apply))
    await hub.until("worm", Health.HEALTHY)
    await trio.sleep(5 * POLICY.interval)
    [sent] = [each for each in hub.peers["worm"].asked if isinstance(each, SchemaSync)]
    assert [each.version for each in sent.migrations] == list(range(1, SCHEMA + 1))
    assert hub.now("worm").record.schema_version == SCHEMA


async def test_a_node_that_answers_and_cannot_migrate_is_degraded_and_not_gone(
    start: Start, autojump_clock: MockClock
) -> None:
    refuses = node(ping=lambda message: report(schema_version=0), sync=fails(DataError("no")))
    hub = await start(worm=refuses)
    await hub.until("worm", Health.DEGRADED)
    await trio.sleep(10 * POLICY.interval)
    assert hub.now("worm").health is Health.DEGRADED
    assert hub.store.transitions == [("unknown", "degraded")]
    assert "schema version 0" in hub.now("worm").cause


async def test_a_node_without_its_engine_is_not_sent_migrations(start: Start, autojump_clock: MockClock) -> None:
    hub = await start(worm=node(ping=lambda message: report(schema_version=0, engine="is being restarted")))
    await hub.until("worm", Health.DEGRADED)
    await trio.sleep(5 * POLICY.interval)
    assert hub.peers["worm"].count(SchemaSync) == 0


@pytest.mark.parametrize("engine", ["busy", "is being restarted"])
async def test_a_node_whose_engine_does_not_answer_keeps_the_schema_version_that_is_known(
    start: Start, autojump_clock: MockClock, engine: str
) -> None:
    worm = node()
    hub = await start(worm=worm)
    await hub.until("worm", Health.HEALTHY)
    worm.answers[HealthPing] = lambda message: report(schema_version=0, engine=engine)
    await hub.until("worm", Health.DEGRADED)
    await trio.sleep(5 * POLICY.interval)
    assert hub.now("worm").record.schema_version == SCHEMA
    assert hub.now("worm").cause == f"engine: {engine}"


@pytest.mark.parametrize("message", [SchemaSync, DatasetCatalogRequest])
@pytest.mark.parametrize(
    ("first", "second"),
    [({"boot_id": "first"}, {"boot_id": "second"}), ({"uptime_seconds": 60.0}, {"uptime_seconds": 0.1})],
    ids=["boot ids", "uptimes"],
)
async def test_help_that_a_former_run_of_the_node_does_not_answer_ends_when_the_next_run_does(
    start: Start,
    autojump_clock: MockClock,
    message: type[Any],
    first: dict[str, Any],
    second: dict[str, Any],
) -> None:
    run, version = [first], [0]

    def sync(message: object) -> SchemaReport:
        version[0] = SCHEMA
        return SchemaReport(schema_version=SCHEMA, applied=())

    worm = node(
        ping=lambda message: report(schema_version=version[0], **run[0]),
        sync=sync,
    )
    answer, worm.answers[message] = worm.answers[message], never
    hub = await start(worm=worm)
    await trio.sleep(2.5 * POLICY.interval)
    assert worm.count(message) == 1
    worm.answers[message] = answer
    run[0] = second
    await trio.sleep(POLICY.cycle)
    assert worm.count(message) == 2
    assert (hub.now("worm").record.schema_version, hub.now("worm").catalogue_revision) == (SCHEMA, 1)


async def test_a_catalogue_is_fetched_once_per_change(start: Start, autojump_clock: MockClock) -> None:
    revision = [1]
    worm = node(
        ping=lambda message: report(catalogue_revision=revision[0]),
        catalogue=lambda message: CatalogAnnouncement(revision=revision[0], versions=(published("worm", revision[0]),)),
    )
    hub = await start(worm=worm)
    await trio.sleep(10 * POLICY.interval)
    assert worm.count(DatasetCatalogRequest) == 1
    revision[0] = 2
    await trio.sleep(10 * POLICY.interval)
    assert worm.count(DatasetCatalogRequest) == 2
    assert [each.version for each in hub.now("worm").versions] == [2]


async def test_a_catalogue_that_does_not_come_is_asked_for_again_after_a_while_and_said(
    start: Start, autojump_clock: MockClock
) -> None:
    worm = node(catalogue=fails(LimitExceeded("the answer has 1200000 bytes")))
    hub = await start(worm=worm)
    await trio.sleep(AGAIN_SECONDS - 1)
    assert worm.count(DatasetCatalogRequest) == 1
    assert (hub.now("worm").health, hub.now("worm").cause) == (
        Health.DEGRADED,
        "catalogue: the answer has 1200000 bytes",
    )
    assert hub.now("worm").catalogue_revision is None
    worm.answers[DatasetCatalogRequest] = lambda message: CatalogAnnouncement(revision=1, versions=())
    await trio.sleep(1 + 3 * POLICY.interval)
    assert (hub.now("worm").health, hub.now("worm").catalogue_revision) == (Health.HEALTHY, 1)
    assert worm.count(DatasetCatalogRequest) == 2


async def test_a_node_without_its_engine_is_asked_for_its_catalogue_once_that_is_back(
    start: Start, autojump_clock: MockClock
) -> None:
    worm = node(ping=lambda message: report(engine="is being restarted"))
    hub = await start(worm=worm)
    await hub.until("worm", Health.DEGRADED)
    assert worm.count(DatasetCatalogRequest) == 0
    worm.answers[HealthPing] = lambda message: report()
    await trio.sleep(3 * POLICY.interval)
    assert (hub.now("worm").health, hub.now("worm").catalogue_revision) == (Health.HEALTHY, 1)


async def test_another_catalogue_is_fetched_at_once_though_the_last_one_failed(
    start: Start, autojump_clock: MockClock
) -> None:
    worm = node(catalogue=fails(LimitExceeded("too large")))
    hub = await start(worm=worm)
    await trio.sleep(POLICY.interval)
    worm.answers[HealthPing] = lambda message: report(catalogue_revision=2)
    worm.answers[DatasetCatalogRequest] = lambda message: CatalogAnnouncement(revision=2, versions=())
    await trio.sleep(3 * POLICY.interval)
    assert (hub.now("worm").health, hub.now("worm").catalogue_revision) == (Health.HEALTHY, 2)


async def test_a_catalogue_lost_on_the_way_is_fetched_with_the_next_ping(
    start: Start, autojump_clock: MockClock
) -> None:
    worm = node(catalogue=fails(GONE))
    hub = await start(worm=worm)
    await trio.sleep(POLICY.interval / 2)
    worm.answers[DatasetCatalogRequest] = lambda message: CatalogAnnouncement(revision=1, versions=())
    await trio.sleep(POLICY.interval)
    assert hub.now("worm").catalogue_revision == 1


async def test_a_schema_sync_that_fails_is_tried_again_after_a_while(start: Start, autojump_clock: MockClock) -> None:
    worm = node(ping=lambda message: report(schema_version=0), sync=fails(DataError("no")))
    await start(worm=worm)
    await trio.sleep(AGAIN_SECONDS - 1)
    assert worm.count(SchemaSync) == 1
    await trio.sleep(1 + POLICY.interval)
    assert worm.count(SchemaSync) == 2


async def test_a_node_that_joins_again_is_pinged_at_once(start: Start, autojump_clock: MockClock) -> None:
    hub = await start(worm=node())
    await hub.until("worm", Health.HEALTHY)
    before = hub.peers["worm"].count(HealthPing)
    hub.tree.ref("health_monitor").tell(Watch(hub.now("worm").record.id))
    await trio.sleep(POLICY.interval / 10)
    assert hub.peers["worm"].count(HealthPing) == before + 1


async def test_a_deactivated_node_is_pinged_no_more(start: Start, autojump_clock: MockClock) -> None:
    hub = await start(worm=node())
    await hub.until("worm", Health.HEALTHY)
    await hub.tree.ref("registry").ask(Deactivate(hub.now("worm").record.id), timeout=1)
    before = hub.peers["worm"].count(HealthPing)
    await trio.sleep(10 * POLICY.interval)
    assert hub.peers["worm"].count(HealthPing) <= before + 1
    assert hub.now("worm").health is Health.UNKNOWN


async def test_watching_what_does_not_exist_does_nothing(start: Start, autojump_clock: MockClock) -> None:
    hub = await start(worm=node())
    with hub.tree.events.subscribe() as events:
        hub.tree.ref("health_monitor").tell(Watch(cluster("nobody").record.id))
        await hub.until("worm", Health.HEALTHY)
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()
    assert [each.record.name for each in hub.directory.clusters.values()] == ["worm"]


async def test_verifying_pings_now_and_the_directory_knows_the_outcome_then(
    start: Start, autojump_clock: MockClock
) -> None:
    worm = node()
    hub = await start(worm=worm)
    await hub.until("worm", Health.HEALTHY)
    worm.answers[HealthPing] = lambda message: report(engine="no disk")
    before, began = worm.count(HealthPing), trio.current_time()
    seen = await hub.tree.ref("health_monitor").ask(Verify(hub.now("worm").record.id), timeout=10)
    assert isinstance(seen, HealthObserved)
    assert (seen.health, seen.cause) == (Health.DEGRADED, "engine: no disk")
    assert (hub.now("worm").health, hub.now("worm").cause) == (Health.DEGRADED, "engine: no disk")
    assert worm.count(HealthPing) == before + 1
    assert trio.current_time() - began < 0.1


async def test_verifying_a_node_that_is_gone_says_so_after_one_ping(start: Start, autojump_clock: MockClock) -> None:
    hub = await start(worm=node(ping=never))
    await trio.sleep(60)
    seen = await hub.tree.ref("health_monitor").ask(Verify(hub.now("worm").record.id), timeout=10)
    assert seen.health is Health.UNREACHABLE
    assert seen.latency_seconds is None
    assert "did not answer in time" in seen.cause


async def test_many_may_verify_one_node_at_once(start: Start, autojump_clock: MockClock) -> None:
    async def soon(message: HealthPing) -> HealthReport:
        await trio.sleep(0.1)
        return report()

    worm = node(ping=soon)
    hub = await start(worm=worm)
    await hub.until("worm", Health.HEALTHY)
    before, answers = worm.count(HealthPing), []

    async def verify() -> None:
        answers.append(await hub.tree.ref("health_monitor").ask(Verify(hub.now("worm").record.id), timeout=10))

    async with trio.open_nursery() as askers:
        for _ in range(20):
            askers.start_soon(verify)
    assert len(answers) == 20
    assert worm.count(HealthPing) <= before + 2


async def test_only_a_node_that_takes_part_can_be_verified(start: Start, autojump_clock: MockClock) -> None:
    hub = await start(worm=node())
    cluster_id = hub.now("worm").record.id
    await hub.tree.ref("registry").ask(Deactivate(cluster_id), timeout=1)
    with pytest.raises(Conflict, match="does not take part"):
        await hub.tree.ref("health_monitor").ask(Verify(cluster_id), timeout=1)
    with pytest.raises(NotFound):
        await hub.tree.ref("health_monitor").ask(Verify(uuid4()), timeout=1)


async def test_a_clock_that_is_wrong_is_measured_and_said(start: Start, autojump_clock: MockClock) -> None:
    hub = await start(worm=node(ping=lambda message: report(clock=time.time() + 90)))
    await hub.until("worm", Health.DEGRADED)
    worm = hub.now("worm")
    assert worm.clock_skew_seconds == pytest.approx(90, abs=5)
    assert "ahead of the hub's" in worm.cause
    assert "time synchronisation" in worm.cause


@pytest.mark.parametrize("clock", [float("nan"), float("inf"), -1e300])
async def test_a_clock_that_is_none_is_wrong_too(start: Start, autojump_clock: MockClock, clock: float) -> None:
    hub = await start(worm=node(ping=lambda message: report(clock=clock)))
    await hub.until("worm", Health.DEGRADED)
    assert abs(hub.now("worm").clock_skew_seconds or 0) == 1e9


async def test_a_node_ahead_of_the_hub_is_said_and_sent_nothing(start: Start, autojump_clock: MockClock) -> None:
    hub = await start(worm=node(ping=lambda message: report(schema_version=SCHEMA + 1)))
    await hub.until("worm", Health.DEGRADED)
    await trio.sleep(5 * POLICY.interval)
    assert hub.now("worm").cause.startswith(f"ahead: schema version {SCHEMA + 1}")
    assert hub.now("worm").record.schema_version == SCHEMA + 1
    assert hub.peers["worm"].count(SchemaSync) == 0


async def test_pings_go_on_while_a_node_migrates(start: Start, autojump_clock: MockClock) -> None:
    async def slowly(message: SchemaSync) -> SchemaReport:
        await trio.sleep(20)
        return SchemaReport(schema_version=SCHEMA, applied=())

    worm = node(ping=lambda message: report(schema_version=0), sync=slowly)
    hub = await start(worm=worm)
    await trio.sleep(19)
    assert worm.count(HealthPing) >= 7
    assert worm.count(SchemaSync) == 1
    assert hub.now("worm").health is Health.DEGRADED
    worm.answers[HealthPing] = lambda message: report()
    await trio.sleep(1 + POLICY.interval)
    assert hub.now("worm").health is Health.HEALTHY


async def test_terms_are_sent_to_a_node_that_has_others(start: Start, autojump_clock: MockClock) -> None:
    has = [3]
    hub = await start(ontology_revision=7, worm=node(ping=lambda message: report(ontology_revision=has[0])))
    record = hub.now("worm").record
    hub.directory.publish([replace(hub.now("worm"), record=replace(record, protocol_version=2))])
    await trio.sleep(3 * POLICY.interval)
    assert set(hub.terms_sent) == {SyncTerms(record.id)}
    has[0] = 7
    await trio.sleep(3 * POLICY.interval)
    hub.terms_sent.clear()
    await trio.sleep(10 * POLICY.interval)
    assert hub.terms_sent == []
    assert (hub.now("worm").health, hub.now("worm").ontology_revision) == (Health.HEALTHY, 7)


async def test_a_node_of_protocol_1_is_sent_no_terms(start: Start, autojump_clock: MockClock) -> None:
    hub = await start(ontology_revision=7, worm=node())
    assert hub.now("worm").record.protocol_version == 1
    await trio.sleep(5 * POLICY.interval)
    assert hub.terms_sent == []


async def test_every_ping_tells_which_key_the_hub_changes_to(start: Start, autojump_clock: MockClock) -> None:
    hub = await start(worm=node())
    await hub.until("worm", Health.HEALTHY)
    assert hub.peers["worm"].asked[0].next_hub_peer_id == NEXT_HUB


async def test_many_nodes_are_not_pinged_in_step_and_never_too_many_at_once(
    start: Start, autojump_clock: MockClock
) -> None:
    under_way, most, moments = [0], [0], set[float]()

    async def dawdle(message: HealthPing) -> HealthReport:
        moments.add(trio.current_time())
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        await trio.sleep(0.5)
        under_way[0] -= 1
        return report()

    await start(**{f"n{number}": node(ping=dawdle) for number in range(2 * PLACES)})
    await trio.sleep(10 * POLICY.interval)
    assert most[0] <= PLACES
    assert len(moments) > 8 * PLACES


async def test_the_dead_do_not_delay_the_living(start: Start, autojump_clock: MockClock) -> None:
    dead = {f"dead{number}": node(ping=never) for number in range(2 * PLACES)}
    hub = await start(**dead, worm=node())
    await trio.sleep(30)
    before = hub.peers["worm"].count(HealthPing)
    await trio.sleep(10 * POLICY.interval)
    assert hub.peers["worm"].count(HealthPing) >= before + 10
