"""How the hub tells nodes that are well from those that are slow, behind or gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actors.admission import Keyring
from actors.directory import Cluster, Directory, Health
from actors.health_monitor import AGAIN_SECONDS, HealthMonitor, HealthPolicy, Watch, assess
from actors.registry import Registry
from actors.registry_messages import Deactivate
from actors.runtime import ActorRef, ChildSpec, Supervisor, Tree, run_tree
from actors.schema_sync import SchemaPublisher
from syndb_common.errors import DataError, LimitExceeded, PeerUnavailable, SynDBError
from syndb_common.messages import (
    CatalogAnnouncement,
    DatasetCatalogRequest,
    HealthPing,
    HealthReport,
    SchemaReport,
    SchemaSync,
)
from syndb_common.tables import schema
from tests.actors.federation_parts import MemoryInvitations, MemoryStore, Peer, cluster, published

POLICY = HealthPolicy()
SCHEMA = schema.CURRENT
GONE = PeerUnavailable("cannot be reached")


def report(**facts: Any) -> HealthReport:
    return HealthReport(
        **{
            "schema_version": SCHEMA,
            "engine": "ok",
            "load": 0,
            "catalogue_revision": 1,
            "clock": 0.0,
            "uptime_seconds": 1.0,
            "software": "test",
            **facts,
        }
    )


FAST, SLOW, LIMIT = 0.01, POLICY.degraded_latency + 0.1, POLICY.unreachable_after


@pytest.mark.parametrize("before", Health)
@pytest.mark.parametrize(
    ("outcome", "latency", "failures", "after"),
    [
        pytest.param(report(), FAST, 0, Health.HEALTHY, id="well"),
        pytest.param(report(), POLICY.degraded_latency, 0, Health.HEALTHY, id="just fast enough"),
        pytest.param(report(), SLOW, 0, Health.DEGRADED, id="slow"),
        pytest.param(report(engine="busy"), FAST, 0, Health.DEGRADED, id="engine"),
        pytest.param(report(schema_version=SCHEMA - 1), FAST, 0, Health.DEGRADED, id="schema behind"),
        pytest.param(report(schema_version=SCHEMA + 1), FAST, 0, Health.DEGRADED, id="schema ahead"),
        pytest.param(report(), FAST, LIMIT + 5, Health.HEALTHY, id="well after failures"),
        pytest.param(GONE, 0.0, 0, None, id="first failure"),
        pytest.param(GONE, 0.0, LIMIT - 2, None, id="last but one"),
        pytest.param(GONE, 0.0, LIMIT - 1, Health.UNREACHABLE, id="last failure"),
        pytest.param(GONE, 0.0, LIMIT + 5, Health.UNREACHABLE, id="more failures"),
    ],
)
def test_the_table_of_states(
    before: Health, outcome: HealthReport | SynDBError, latency: float, failures: int, after: Health | None
) -> None:
    node = cluster(health=before, failures=failures)
    seen = assess(node, outcome, latency, policy=POLICY, schema_version=SCHEMA)
    assert seen.health is (before if after is None else after)
    failed = isinstance(outcome, SynDBError)
    assert seen.failures == (failures + 1 if failed else 0)
    assert (seen.latency_seconds is None) is failed


def test_the_cause_names_everything_that_is_wrong() -> None:
    seen = assess(cluster(), report(engine="no disk", schema_version=1), 3.0, policy=POLICY, schema_version=2)
    assert seen.cause == "engine: no disk; answers take 3.0 s; schema version 1, the hub has 2"


@dataclass
class Hub:
    """Registry, publisher and monitor over peers that answer as told, on a clock that jumps."""

    tree: Tree
    directory: Directory
    store: MemoryStore
    peers: dict[str, Peer] = field(default_factory=dict)

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
    async def start_hub(**peers: Peer) -> Hub:
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
                lambda: HealthMonitor(directory=directory, peer=peer, policy=POLICY, schema_version=SCHEMA),
            ),
        ]
        tree = await nursery.start(partial(run_tree, Supervisor("hub", children)))
        return Hub(tree, directory, store, peers)

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
    await trio.sleep(POLICY.timeout)
    raise GONE


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
    await trio.sleep(20.5 * POLICY.interval - (trio.current_time() - began))
    assert hub.peers["worm"].count(HealthPing) == 21


async def test_a_node_that_is_gone_is_unreachable_within_the_promised_time_and_comes_back(
    start: Start, autojump_clock: MockClock
) -> None:
    worm = node()
    hub = await start(worm=worm)
    await hub.until("worm", Health.HEALTHY)
    worm.answers[HealthPing] = never
    began = trio.current_time()
    await hub.until("worm", Health.UNREACHABLE)
    assert trio.current_time() - began <= POLICY.interval + LIMIT * (POLICY.timeout + POLICY.retry)
    assert hub.now("worm").failures == LIMIT
    worm.answers[HealthPing] = lambda message: report()
    await hub.until("worm", Health.HEALTHY)
    assert hub.now("worm").failures == 0
    assert hub.store.transitions == [
        ("unknown", "healthy"),
        ("healthy", "unreachable"),
        ("unreachable", "healthy"),
    ]


async def test_one_lost_ping_changes_nothing(start: Start, autojump_clock: MockClock) -> None:
    worm = node()
    hub = await start(worm=worm)
    await hub.until("worm", Health.HEALTHY)
    worm.answers[HealthPing] = fails(GONE)
    await trio.sleep(POLICY.interval + POLICY.retry / 2)
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
    await trio.sleep(1 + 2 * POLICY.interval)
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
    await trio.sleep(2 * POLICY.interval)
    assert (hub.now("worm").health, hub.now("worm").catalogue_revision) == (Health.HEALTHY, 1)


async def test_another_catalogue_is_fetched_at_once_though_the_last_one_failed(
    start: Start, autojump_clock: MockClock
) -> None:
    worm = node(catalogue=fails(LimitExceeded("too large")))
    hub = await start(worm=worm)
    await trio.sleep(POLICY.interval)
    worm.answers[HealthPing] = lambda message: report(catalogue_revision=2)
    worm.answers[DatasetCatalogRequest] = lambda message: CatalogAnnouncement(revision=2, versions=())
    await trio.sleep(2 * POLICY.interval)
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
    hub.tree.ref("health_monitor").tell(Watch(cluster("nobody").record.id))
    await hub.until("worm", Health.HEALTHY)
