"""Catalogues in pages: all pages of one revision, or a clear error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.catalogue_reading import ATTEMPTS, MAX_PAGES, read_catalogue
from syndb_common.errors import Conflict, DataError, LimitExceeded, PeerUnavailable, SynDBError
from syndb_common.messages import CatalogAnnouncement, DatasetCatalogRequest
from syndb_common.tables.versions import PublishedVersion
from tests.actors.federation_parts import Peer, published


def page(number: int, pages: int, *names: str, revision: int = 1) -> CatalogAnnouncement:
    versions = tuple(map(published, names))
    sharing = {version.dataset_id: "rows" for version in versions}
    return CatalogAnnouncement(revision=revision, page=number, pages=pages, versions=versions, sharing=sharing)


def answering(answer: Callable[[int], CatalogAnnouncement]) -> Peer:
    return Peer({DatasetCatalogRequest: lambda message: answer(message.page)})


async def test_a_catalogue_of_one_page_is_that_page() -> None:
    peer = answering(lambda number: page(0, 1, "a", "b"))
    assert await read_catalogue(peer) == page(0, 1, "a", "b")
    assert peer.count(DatasetCatalogRequest) == 1


async def test_pages_are_put_together_in_order() -> None:
    peer = answering(lambda number: page(number, 3, f"a{number}", f"b{number}"))
    assert await read_catalogue(peer) == page(0, 1, "a0", "b0", "a1", "b1", "a2", "b2")


async def test_a_catalogue_that_changes_on_the_way_is_read_anew() -> None:
    asked = []

    def answer(number: int) -> CatalogAnnouncement:
        asked.append(number)
        return page(number, 2, f"a{number}") if len(asked) < 2 else page(number, 3, f"b{number}", revision=2)

    assert await read_catalogue(answering(answer)) == page(0, 1, "b0", "b1", "b2", revision=2)
    assert asked == [0, 1, 0, 1, 2]


async def test_a_catalogue_that_has_become_shorter_is_read_anew() -> None:
    revision = [1]

    def answer(number: int) -> CatalogAnnouncement:
        if number == 2:
            revision[0] = 2
            raise DataError("there are 2 pages")
        return page(number, 4 - revision[0], f"a{number}", revision=revision[0])

    assert await read_catalogue(answering(answer)) == page(0, 1, "a0", "a1", revision=2)


async def test_one_that_never_stays_the_same_is_given_up_for_now() -> None:
    asked = []

    def answer(number: int) -> CatalogAnnouncement:
        asked.append(number)
        return page(number, 2, f"a{number}", revision=len(asked))

    with pytest.raises(Conflict, match="changed 3 times"):
        await read_catalogue(answering(answer))
    assert len(asked) == 2 * ATTEMPTS


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(lambda number: page(number, MAX_PAGES + 1, f"a{number}"), LimitExceeded, id="too many pages"),
        pytest.param(lambda number: page(0, 2, "a"), DataError, id="the same page again"),
        pytest.param(lambda number: page(number, 2 + number, f"a{number}"), DataError, id="another number of pages"),
        pytest.param(lambda number: page(number, 2, "a"), DataError, id="a version twice"),
    ],
)
async def test_what_does_not_fit_together_is_refused(
    answer: Callable[[int], CatalogAnnouncement], error: type[SynDBError]
) -> None:
    peer = answering(answer)
    with pytest.raises(error):
        await read_catalogue(peer)
    assert peer.count(DatasetCatalogRequest) <= 2


async def test_a_node_that_is_lost_on_the_way_is_said() -> None:
    def answer(number: int) -> CatalogAnnouncement:
        if number:
            raise PeerUnavailable("closed the stream")
        return page(0, 2, "a")

    with pytest.raises(PeerUnavailable):
        await read_catalogue(answering(answer))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=12))
def test_whatever_a_node_does_no_two_revisions_are_mixed(script: list[tuple[int, int]]) -> None:
    """Each answer is of the revision and the number of pages that the script says next."""
    steps = iter(script)

    def names(versions: tuple[PublishedVersion, ...]) -> set[str]:
        return {version.metadata.dataset.partition("-")[0] for version in versions}

    def answer(number: int) -> CatalogAnnouncement:
        revision, pages = next(steps, (9, 1))
        return page(number if number < pages else 0, pages, f"r{revision}-p{number}", revision=revision)

    async def read() -> CatalogAnnouncement | None:
        try:
            return await read_catalogue(answering(answer))
        except (Conflict, DataError):
            return None

    found = trio.run(read)
    assert found is None or names(found.versions) == {f"r{found.revision}"}
