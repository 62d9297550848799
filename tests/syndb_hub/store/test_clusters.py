"""Nodes as the hub remembers them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa

from actors.cluster_store import Transition
from actors.directory import ClusterRecord, Standing
from syndb_common.errors import Conflict, DataError
from syndb_common.messages import CatalogAnnouncement, Endpoints
from syndb_hub.store.clusters import Clusters
from syndb_hub.store.schema import catalogues
from tests.actors.federation_parts import published

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def node(name: str = "worm", peer_id: str = "12D3A") -> ClusterRecord:
    endpoints = Endpoints(multiaddrs=("/ip4/127.0.0.1/tcp/1",), flight="grpc+tls://a:1", flight_certificate="pem")
    return ClusterRecord(id=uuid4(), name=name, peer_id=peer_id, endpoints=endpoints, registered_at=BEGAN)


async def test_a_record_comes_back_as_it_was_saved(store):
    record = replace(
        node(),
        institution="Institut für Würmer",
        schema_version=2,
        standing=Standing.INACTIVE,
        protocol_version=2,
        key_id="0123456789abcdef",
        observed_hosts=("192.0.2.1", "2001:db8::1"),
        approved_hosts=("192.0.2.0/24", "node.example"),
    )
    await Clusters(store).save(record)
    assert await Clusters(store).load() == [record]


async def test_saving_again_replaces_the_record(store):
    clusters, record = Clusters(store), node()
    await clusters.save(record)
    await clusters.save(replace(record, schema_version=3))
    assert [each.schema_version for each in await clusters.load()] == [3]


async def test_the_last_announcement_is_kept_and_one_that_cannot_be_read_is_left_out(store):
    clusters, worm, fly = Clusters(store), node(), node("fly", "12D3B")
    for record in (worm, fly):
        await clusters.save(record)
        for revision in (1, 2):
            announced = CatalogAnnouncement(revision=revision, versions=(published("worm", revision),))
            await clusters.save_catalogue(record.id, announced)
    damaged = sa.update(catalogues).where(catalogues.c.cluster_id == fly.id).values(announcement="{}")
    await store.write(lambda connection: connection.execute(damaged))
    assert await clusters.load_catalogues() == {worm.id: announced}


@pytest.mark.parametrize(("name", "peer_id"), [("worm", "12D3B"), ("fly", "12D3A")])
async def test_a_name_belongs_to_one_identity(store, name, peer_id):
    clusters = Clusters(store)
    await clusters.save(node())
    with pytest.raises(Conflict):
        await clusters.save(node(name, peer_id))
    assert len(await clusters.load()) == 1


async def test_names_wait_for_a_key_side_by_side(store):
    clusters = Clusters(store)
    waiting = [replace(node(name), peer_id=None, standing=Standing.PENDING) for name in ("fly", "worm")]
    for record in waiting:
        await clusters.save(record)
    assert await clusters.load() == waiting


async def test_nodes_are_listed_by_name(store):
    clusters = Clusters(store)
    for name in ("zebrafish", "fly", "worm"):
        await clusters.save(node(name, f"12D3{name}"))
    assert [record.name for record in await clusters.load()] == ["fly", "worm", "zebrafish"]


async def test_the_latest_transitions_come_first_and_no_more_than_asked(store):
    clusters, record = Clusters(store), node()
    await clusters.save(record)
    for minute, state in enumerate(("healthy", "degraded", "unreachable")):
        at = BEGAN + timedelta(minutes=minute)
        await clusters.record_transitions([Transition(record.id, at, "unknown", state, "x" * 2000)])
    found = await clusters.transitions(record.id, limit=2)
    assert [each.to_state for each in found] == ["unreachable", "degraded"]
    assert found[0].at == BEGAN + timedelta(minutes=2)
    assert len(found[0].cause) == 1000


async def test_a_node_that_flaps_for_ever_keeps_its_latest_transitions_and_other_nodes_keep_theirs(store, monkeypatch):
    monkeypatch.setattr("syndb_hub.store.clusters.MAX_TRANSITIONS", 3)
    clusters, flapping, calm = Clusters(store), node(), node("fly", "12D3B")
    for record in (flapping, calm):
        await clusters.save(record)
    await clusters.record_transitions([Transition(calm.id, BEGAN, "unknown", "healthy", "")])
    for minute in range(10):
        await clusters.record_transitions(
            [Transition(flapping.id, BEGAN + timedelta(minutes=minute), "a", f"{minute}", "")]
        )
    assert [each.to_state for each in await clusters.transitions(flapping.id)] == ["9", "8", "7"]
    assert len(await clusters.transitions(calm.id)) == 1


async def test_transitions_are_forgotten_after_400_days(store):
    clusters, record, now = Clusters(store), node(), datetime.now(UTC)
    await clusters.save(record)
    await clusters.record_transitions([Transition(record.id, now - timedelta(days=401), "a", "old", "")])
    await clusters.record_transitions([Transition(record.id, now - timedelta(days=399), "a", "new", "")])
    await clusters.load()
    assert [each.to_state for each in await clusters.transitions(record.id)] == ["new"]


async def test_a_revoked_key_stays_revoked_and_may_be_revoked_again(store):
    clusters, record = Clusters(store), node()
    await clusters.save(record)
    assert await clusters.revoked_peers() == frozenset()
    keyless = replace(record, peer_id=None)
    for peer_id, cause in (("12D3A", "stolen"), ("12D3A", "x" * 2000), ("12D3B", "lost")):
        await clusters.revoke(keyless, peer_id, cause)
    assert await clusters.revoked_peers() == {"12D3A", "12D3B"}
    assert await clusters.load() == [keyless]


async def test_revoking_that_fails_half_way_changes_nothing(store):
    clusters, record = Clusters(store), node()
    await clusters.save(record)
    with pytest.raises(DataError):
        await clusters.revoke(replace(record, peer_id=None, schema_version=2**63), "12D3A", "stolen")
    assert (await clusters.revoked_peers(), await clusters.load()) == (frozenset(), [record])
