"""Who has been told the hub's next key."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import trio

from actors.directory import NOWHERE, Cluster, ClusterRecord, Directory, Standing
from actors.remote.identity import made_up_peer_id
from syndb_common.errors import DataError, Unavailable
from syndb_hub.keys import Announcement, Announcer
from syndb_hub.store.clusters import Clusters

NEXT = made_up_peer_id(0)


def node(number: int, **changes: object) -> Cluster:
    record = ClusterRecord(
        id=UUID(int=number),
        name=f"lab-{number}",
        peer_id=made_up_peer_id(number),
        endpoints=NOWHERE,
        registered_at=datetime(2026, 1, 1, tzinfo=UTC),
        protocol_version=2,
    )
    return Cluster(replace(record, **changes))


async def test_a_node_is_told_when_it_answered_a_ping_that_carried_the_key(store, nursery, monkeypatch):
    monkeypatch.setattr("syndb_hub.keys.NOTE_SECONDS", 0.02)
    directory, announcement = Directory(), Announcement(store)
    nodes = [node(1), node(2), node(3, protocol_version=1), node(4, standing=Standing.INACTIVE), node(5)]
    for each in nodes:
        await Clusters(store).save(each.record)
    coming = ""
    await nursery.start(Announcer(directory, announcement, lambda: coming, ping_seconds=0.2).run)

    def seen(at: datetime) -> None:
        directory.publish([replace(each, last_seen=at) for each in nodes[:4]])

    seen(datetime.now(UTC) + timedelta(seconds=30))
    await trio.sleep(0.2)
    assert await announcement.told(NEXT) == frozenset()  # nothing is announced yet
    seen(datetime.now(UTC))
    coming = NEXT
    await trio.sleep(0.2)
    assert await announcement.told(NEXT) == frozenset()  # seen before, or by a ping that was under way
    seen(datetime.now(UTC) + timedelta(seconds=30))
    with trio.fail_after(20):
        while not (told := await announcement.told(NEXT)):  # noqa: ASYNC110 - another task writes the store
            await trio.sleep(0.02)
    assert told == {UUID(int=1), UUID(int=2)}
    assert await announcement.missing(NEXT) == ["lab-3", "lab-5"]
    assert await announcement.told(made_up_peer_id(9)) == frozenset()


@pytest.mark.parametrize("error", [Unavailable("locked"), DataError("odd")])
async def test_a_store_that_fails_ends_nothing_and_nobody_counts_as_told_too_early(store, nursery, monkeypatch, error):
    monkeypatch.setattr("syndb_hub.keys.NOTE_SECONDS", 0.02)
    directory, announcement = Directory(), Announcement(store)
    await Clusters(store).save(node(1).record)
    directory.publish([replace(node(1), last_seen=datetime.now(UTC) + timedelta(seconds=60))])
    read, asked = store.read, []

    async def fails(work):
        asked.append(work)
        raise error

    store.read = fails
    await nursery.start(Announcer(directory, announcement, lambda: NEXT, ping_seconds=0.2).run)
    with trio.fail_after(20):
        while len(asked) < 3:  # noqa: ASYNC110 - another task reads the store
            await trio.sleep(0.02)
        store.read = read
        while not (told := await announcement.told(NEXT)):  # noqa: ASYNC110 - another task writes the store
            await trio.sleep(0.02)
    assert told == {UUID(int=1)}


async def test_a_restart_forgets_nobody_who_was_told(store):
    for number in (1, 2):
        await Clusters(store).save(node(number).record)
    await Announcement(store).note([UUID(int=1)], NEXT)
    await Announcement(store).note([UUID(int=1), UUID(int=2)], NEXT)
    assert await Announcement(store).told(NEXT) == {UUID(int=1), UUID(int=2)}
    assert await Announcement(store).missing(NEXT) == []
