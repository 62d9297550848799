"""What a node knows of its own catalogue: cheap to keep, in pages that fit a frame."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.catalogue import Catalogue
from actors.remote.frames import MAX_FRAME_BYTES
from syndb_common.messages import CatalogAnnouncement, to_wire
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion
from tests.actors.federation_parts import published
from tests.actors.node_parts import Commits


def described(number: int, length: int) -> PublishedVersion:
    return PublishedVersion(
        dataset_id=uuid4(),
        version=1,
        metadata=DatasetMetadata(
            dataset=f"d{number}", title="ü" * 150, description="é" * length, species="Danio rerio"
        ),
        row_counts={"synapses": 10**9, "neurons": 10**6},
        content_hash="a" * 64,
        schema_version=1,
        published_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def pages(catalogue: Catalogue) -> list[CatalogAnnouncement]:
    first = catalogue.page(0)
    return [catalogue.page(number) for number in range(first.pages)]


@pytest.mark.slow
async def test_twenty_thousand_versions_travel_in_pages_that_each_fit_a_frame() -> None:
    versions = [described(number, number % 200) for number in range(20_000)]
    versions[7] = described(7, 4000)
    catalogue = Catalogue(Commits(*versions), lambda version: "rows" if version is not versions[0] else "none")
    await catalogue.refresh()
    found = pages(catalogue)
    assert len(found) > 1
    assert max(len(msgpack.packb(to_wire(page))) for page in found) < 0.7 * MAX_FRAME_BYTES
    assert [(page.page, page.pages, page.revision) for page in found] == [
        (number, len(found), catalogue.revision) for number in range(len(found))
    ]
    assert [version for page in found for version in page.versions] == versions == list(catalogue.versions)
    assert all(set(page.sharing) == {version.dataset_id for version in page.versions} for page in found)


async def test_an_empty_catalogue_is_one_empty_page() -> None:
    catalogue = Catalogue(Commits(), lambda version: "rows")
    assert catalogue.page(0).pages == 1
    await catalogue.refresh()
    assert [page.versions for page in pages(catalogue)] == [()]


async def test_a_catalogue_that_did_not_change_is_not_worked_through_again() -> None:
    engine = Commits(published("worm"))
    asked = []
    catalogue = Catalogue(engine, lambda version: asked.append(version) or "rows")
    await catalogue.refresh()
    before = catalogue.page(0)
    await catalogue.refresh()
    assert (len(asked), engine.reads) == (1, 2)
    assert catalogue.page(0) is before


async def test_every_change_gives_another_revision_and_the_owners_sharing_is_part_of_it() -> None:
    revisions = []
    for versions, level in [
        ((), "rows"),
        ((published("worm"),), "rows"),
        ((published("worm"),), "none"),
        ((published("worm", content="b"),), "rows"),
        ((published("worm"), published("worm", 2)), "rows"),
    ]:
        catalogue = Catalogue(Commits(*versions), lambda version, level=level: level)
        await catalogue.refresh()
        revisions.append(catalogue.revision)
    assert len(set(revisions)) == len(revisions)


@given(st.lists(st.integers(0, 4000), max_size=30))
async def test_pages_hold_every_version_once_and_in_order(lengths: list[int]) -> None:
    versions = [described(number, length) for number, length in enumerate(lengths)]
    catalogue = Catalogue(Commits(*versions), lambda version: "rows")
    await catalogue.refresh()
    assert [version for page in pages(catalogue) for version in page.versions] == versions


async def test_an_engine_that_is_being_restarted_is_not_ok() -> None:
    engine = Commits()
    catalogue = Catalogue(engine, lambda version: "rows")
    assert catalogue.engine == "starting"
    await catalogue._look()
    assert catalogue.engine == "ok"
    engine.ready = False
    assert "restarted" in catalogue.engine
