"""What the registry writes down, and how seldom."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from actors.registry_store import CATALOGUE_SECONDS, Keeper
from syndb_common.errors import DataError
from syndb_common.messages import CatalogAnnouncement
from tests.actors.federation_parts import MemoryStore, published, record


class Slow(MemoryStore):
    """A store that counts what it is given, and refuses one revision."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[int] = []

    async def save_catalogue(self, cluster_id, announcement):
        await trio.sleep(1)
        if announcement.revision == 13:
            raise DataError("unlucky")
        self.written.append(announcement.revision)
        await super().save_catalogue(cluster_id, announcement)


def announced(revision: int) -> CatalogAnnouncement:
    return CatalogAnnouncement(revision=revision, versions=(published("worm"),))


@pytest.fixture
def store() -> Slow:
    return Slow()


@pytest.fixture
async def keeper(store: Slow, nursery: trio.Nursery, autojump_clock: MockClock):
    found = Keeper(store)
    nursery.start_soon(found.run)
    yield found
    nursery.cancel_scope.cancel()


async def test_a_node_that_announces_without_end_costs_one_write_now_and_then(
    autojump_clock: MockClock, keeper: Keeper, store: Slow
) -> None:
    worm = record()
    for revision in range(1, 601):
        keeper.catalogue(worm.id, announced(revision))
        await trio.sleep(0.1)
    await trio.sleep(2 * CATALOGUE_SECONDS)
    assert store.written[-1] == 600
    assert len(store.written) <= 60 / CATALOGUE_SECONDS + 2


async def test_the_first_catalogue_is_written_at_once(autojump_clock: MockClock, keeper: Keeper, store: Slow) -> None:
    keeper.catalogue(record().id, announced(1))
    await trio.sleep(1.1)
    assert store.written == [1]


async def test_a_catalogue_that_is_refused_costs_no_other(
    autojump_clock: MockClock, keeper: Keeper, store: Slow
) -> None:
    for revision in (13, 14):
        keeper.catalogue(record().id, announced(revision))
    await trio.sleep(3)
    assert store.written == [14]


async def test_what_waits_is_written_at_the_end_and_of_a_forgotten_node_nothing(
    store: Slow, autojump_clock: MockClock
) -> None:
    keeper, worm, fly = Keeper(store), record(), record("fly-lab")
    keeper.catalogue(worm.id, announced(1))
    keeper.catalogue(fly.id, announced(2))
    keeper.forget(fly.id)
    await keeper.flush()
    assert store.written == [1]
