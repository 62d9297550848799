"""Both ends of schema sync."""

from __future__ import annotations

from functools import partial
from uuid import uuid4

import pytest
import trio
from trio.testing import MockClock

from actors.directory import Cluster, Directory
from actors.remote.envelope import encode_request
from actors.remote.frames import MAX_FRAME_BYTES
from actors.runtime import ActorRef, ChildSpec, Supervisor, run_tree
from actors.schema_sync import APPLY_SECONDS, SchemaKeeper, SchemaPublisher, SyncCluster
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import Conflict, DataError, NotFound
from syndb_common.messages import SchemaMigration, SchemaReport, SchemaSync
from syndb_common.tables import schema
from tests.actors.federation_parts import Peer, cluster


async def publisher(nursery: trio.Nursery, nodes: dict[str, Peer]) -> tuple[ActorRef, Directory]:
    directory = Directory()
    directory.publish(cluster(name) for name in nodes)

    def peer(node: Cluster) -> ActorRef:
        return nodes[node.record.name]

    spec = ChildSpec("publisher", lambda: SchemaPublisher(directory=directory, peer=peer))
    tree = await nursery.start(run_tree, Supervisor("hub", [spec]))
    return tree.ref("publisher"), directory


def id_of(directory: Directory, name: str) -> object:
    found = directory.by_name(name)
    assert found is not None
    return found.record.id


async def test_only_what_a_node_lacks_is_sent(nursery: trio.Nursery) -> None:
    worm = Peer({SchemaSync: lambda message: SchemaReport(schema_version=schema.CURRENT, applied=())})
    ref, directory = await publisher(nursery, {"worm": worm})
    for since in (0, schema.CURRENT):
        await ref.ask(SyncCluster(id_of(directory, "worm"), since, dry_run=True), timeout=1)  # type: ignore[arg-type]
    first, second = worm.asked
    assert [each.version for each in first.migrations] == list(range(1, schema.CURRENT + 1))
    assert second.migrations == ()
    assert first.dry_run


async def test_a_node_that_takes_long_does_not_hold_up_another(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def slowly(message: SchemaSync) -> SchemaReport:
        await trio.sleep(APPLY_SECONDS - 1)
        return SchemaReport(schema_version=1, applied=(1,))

    fast = Peer({SchemaSync: lambda message: SchemaReport(schema_version=1, applied=(1,))})
    ref, directory = await publisher(nursery, {"slow": Peer({SchemaSync: slowly}), "fast": fast})
    began = trio.current_time()
    finished: dict[str, float] = {}

    async def sync(name: str) -> None:
        await ref.ask(SyncCluster(id_of(directory, name)), timeout=APPLY_SECONDS)  # type: ignore[arg-type]
        finished[name] = trio.current_time() - began

    async with trio.open_nursery() as both:
        both.start_soon(sync, "slow")
        await trio.sleep(0.1)
        both.start_soon(sync, "fast")
    assert finished["fast"] < 1 < finished["slow"]


async def test_migrations_larger_than_a_frame_travel_in_several_messages(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tuple(SchemaMigration(version=n, name="long", statements=("x" * 90_000,)) for n in range(1, 31))
    monkeypatch.setattr(schema, "migrations", lambda since=0: many[since:])
    has = [0]

    def apply(message: SchemaSync) -> SchemaReport:
        applied = tuple(each.version for each in message.migrations)
        assert applied[0] == has[0] + 1
        has[0] = applied[-1]
        return SchemaReport(schema_version=has[0], applied=applied)

    worm = Peer({SchemaSync: apply})
    ref, directory = await publisher(nursery, {"worm": worm})
    report = await ref.ask(SyncCluster(id_of(directory, "worm")), timeout=5)  # type: ignore[arg-type]
    assert report == SchemaReport(schema_version=30, applied=tuple(range(1, 31)))
    assert len(worm.asked) > 4
    for message in worm.asked:
        assert len(encode_request(bytes(16), message, seconds=1.0)) < MAX_FRAME_BYTES


async def test_a_node_ahead_of_the_hub_says_its_own_version(keeper: ActorRef, engine: LocalEngine) -> None:
    newer = SchemaMigration(
        version=schema.CURRENT + 1,
        name="newer",
        statements=("ALTER TABLE syndb.neurons ADD COLUMN IF NOT EXISTS note String",),
    )
    await schema.apply(engine, [*schema.migrations(), newer])
    for dry_run in (True, False):
        report = await keeper.ask(SchemaSync(migrations=schema.migrations(), dry_run=dry_run), timeout=30)
        assert (report.schema_version, report.applied) == (schema.CURRENT + 1, ())


async def test_a_node_that_does_not_exist_is_said(nursery: trio.Nursery) -> None:
    ref, _ = await publisher(nursery, {})
    with pytest.raises(NotFound):
        await ref.ask(SyncCluster(uuid4()), timeout=1)


@pytest.fixture
async def keeper(nursery: trio.Nursery, engine: LocalEngine) -> ActorRef:
    spec = ChildSpec("keeper", partial(SchemaKeeper, engine=engine))
    tree = await nursery.start(run_tree, Supervisor("node", [spec]))
    return tree.ref("keeper")


async def test_a_node_applies_in_order_once_and_says_what_it_did(keeper: ActorRef) -> None:
    everything = SchemaSync(migrations=schema.migrations())
    numbers = tuple(range(1, schema.CURRENT + 1))
    dry = await keeper.ask(everything.model_copy(update={"dry_run": True}), timeout=30)
    assert (dry.schema_version, dry.applied) == (0, numbers)
    done = await keeper.ask(everything, timeout=30)
    assert (done.schema_version, done.applied) == (schema.CURRENT, numbers)
    again = await keeper.ask(everything, timeout=30)
    assert (again.schema_version, again.applied) == (schema.CURRENT, ())


async def test_a_node_applies_nothing_but_additions_whoever_asks(keeper: ActorRef, engine: LocalEngine) -> None:
    for statement in ("DROP TABLE syndb.neurons", "INSERT INTO syndb.neurons SELECT * FROM url('http://x')"):
        hostile = SchemaMigration(version=1, name="hostile", statements=(statement,))
        with pytest.raises(DataError):
            await keeper.ask(SchemaSync(migrations=(hostile,)), timeout=30)
    far = SchemaMigration(version=99, name="later", statements=schema.migrations()[0].statements)
    with pytest.raises(Conflict):
        await keeper.ask(SchemaSync(migrations=(far,)), timeout=30)
    assert await schema.schema_version(engine) == 0
