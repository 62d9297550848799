"""How the hub reads a node's catalogue, which comes in pages when it does not fit one frame."""

from __future__ import annotations

from actors.runtime import ActorRef
from syndb_common.errors import Conflict, DataError, InvalidRequest, LimitExceeded, NotFound
from syndb_common.messages import CatalogAnnouncement, DatasetCatalogRequest

PAGE_SECONDS = 10.0
"""A page fits one frame of the RPC; ten seconds suffice on the slowest line."""
MAX_PAGES = 64
"""Of a frame each, as many bytes in MiB: a hundred thousand versions described at length."""
MAX_VERSIONS = 100_000
"""What an announcement holds at most."""
ATTEMPTS = 3
"""A catalogue that changes while it is read is read again so often."""


async def read_catalogue(peer: ActorRef) -> CatalogAnnouncement:
    """All pages of one revision as one announcement.

    Raises:
        Conflict: it changed each time it was read.
        LimitExceeded: it has more pages or versions than a hub takes.
        DataError: the pages do not fit together.
        SynDBError: the node could not be asked, or what it answered.
    """
    for _ in range(ATTEMPTS):
        whole = await _read_once(peer)
        if whole is not None:
            return whole
    raise Conflict(
        f"the catalogue changed {ATTEMPTS} times while it was read",
        hint="It is read again soon; publish many data sets in one go rather than one by one.",
    )


async def _read_once(peer: ActorRef) -> CatalogAnnouncement | None:
    """One pass over the pages; None when the revision changed on the way."""
    first: CatalogAnnouncement = await peer.ask(DatasetCatalogRequest(), timeout=PAGE_SECONDS)
    if first.pages > MAX_PAGES:
        raise LimitExceeded(
            f"the catalogue has {first.pages} pages, at most {MAX_PAGES} are read",
            hint="Delete versions that nobody uses, or divide the data sets among several nodes.",
        )
    if first.pages == 1:
        return first
    versions, sharing = list(first.versions), dict(first.sharing)
    for number in range(1, first.pages):
        try:
            page: CatalogAnnouncement = await peer.ask(DatasetCatalogRequest(page=number), timeout=PAGE_SECONDS)
        except (NotFound, InvalidRequest, Conflict):
            return None  # there is no such page any more
        if page.revision != first.revision:
            return None
        if (page.page, page.pages) != (number, first.pages):
            raise DataError(f"page {number} of {first.pages} was asked for, page {page.page} of {page.pages} came")
        versions += page.versions
        sharing |= page.sharing
    if len({(version.dataset_id, version.version) for version in versions}) != len(versions):
        raise DataError("a version stands twice in the catalogue")
    if len(versions) > MAX_VERSIONS:
        raise LimitExceeded(f"the catalogue has {len(versions)} versions, at most {MAX_VERSIONS} are read")
    return CatalogAnnouncement(revision=first.revision, versions=tuple(versions), sharing=sharing)
