"""How the registry's knowledge reaches the store: what must not be lost at once, the rest without holding it up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from uuid import UUID

import structlog
import trio

from actors.cluster_store import ClusterStore, Transition
from actors.directory import ClusterRecord
from syndb_common.errors import SynDBError, Unavailable
from syndb_common.messages import CatalogAnnouncement

log = structlog.get_logger(__name__)

CATALOGUE_SECONDS = 5.0
"""Between two writes of catalogues: a node that announces one after the other costs one write in this time. A catalogue
that is lost in between is read again, since its revision is not the node's."""


class Keeper:
    """Writes down what is seen and announced; what cannot be written costs nothing else.

    Args:
        store: where it is kept.
    """

    def __init__(self, store: ClusterStore) -> None:
        self._store = store
        self._catalogues: dict[UUID, CatalogAnnouncement] = {}
        self._something = trio.Event()

    async def changes(self, records: Iterable[ClusterRecord], transitions: Sequence[Transition]) -> None:
        """Keep records that changed, and changes of health."""
        try:
            for record in records:
                await _tried(record.id, partial(self._store.save, record))
            await self._transitions(transitions)
        except Unavailable as error:
            log.warning("changes of nodes not kept", cause=error.message)

    def catalogue(self, cluster_id: UUID, announcement: CatalogAnnouncement) -> None:
        """Keep this soon, in place of what the node announced before."""
        self._catalogues[cluster_id] = announcement
        self._something.set()

    def forget(self, cluster_id: UUID) -> None:
        """Keep nothing more of this node."""
        self._catalogues.pop(cluster_id, None)

    async def run(self) -> None:
        """Write catalogues as they come, now and then."""
        while True:
            await self._something.wait()
            self._something = trio.Event()
            await self.flush()
            await trio.sleep(CATALOGUE_SECONDS)

    async def flush(self) -> None:
        """Write the catalogues that wait."""
        try:
            for cluster_id in tuple(self._catalogues):  # one that is announced meanwhile waits for the next time
                if (announcement := self._catalogues.pop(cluster_id, None)) is not None:
                    await _tried(cluster_id, partial(self._store.save_catalogue, cluster_id, announcement))
        except Unavailable as error:
            log.warning("catalogues not kept", cause=error.message)

    async def _transitions(self, transitions: Sequence[Transition]) -> None:
        """Keep them in one write; if that fails, each alone, so that one that is refused costs no other."""
        if not transitions:
            return
        try:
            await self._store.record_transitions(transitions)
        except Unavailable:
            raise
        except SynDBError:
            for each in transitions:
                await _tried(each.cluster_id, partial(self._store.record_transitions, [each]))


async def _tried(cluster_id: UUID, write: Callable[[], Awaitable[None]]) -> None:
    try:
        await write()
    except Unavailable:
        raise
    except SynDBError as error:
        log.warning("change of a node not kept", cluster_id=str(cluster_id), cause=error.message)
