"""What a node has published and how its engine is, known from memory whenever the hub asks.

The engine is looked at every few seconds, and at once when something was published or the engine has restarted. So no
ping waits for ClickHouse, and a change is announced within a moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import pyarrow as pa
import trio

from actors.paging import in_pages
from syndb_common.engine import published
from syndb_common.engine.interface import Engine
from syndb_common.errors import SynDBError
from syndb_common.messages import CatalogAnnouncement
from syndb_common.tables import schema
from syndb_common.tables.versions import PublishedVersion

MANY_VERSIONS = 500
"""So many are worked through beside the loop; fewer take some ten milliseconds."""
LOOK_SECONDS = 5.0
"""Between two looks at an engine that says nothing by itself: half of the age the hub's picture may have."""
READ_SECONDS = 8.0
"""One look takes no longer; then the engine counts as busy."""
BUSY_SECONDS = 1.0
"""A look that takes longer than this shows in the state of the engine while it lasts."""
CAUSE_CHARACTERS = 1000
"""What a report may say about the engine; ClickHouse can be wordier."""

_reading = trio.CapacityLimiter(1)


class WatchedEngine(Engine, Protocol):
    """An engine that says when to look again; :class:`syndb_common.engine.local.LocalEngine` is one."""

    publications: int

    @property
    def ready(self) -> bool:
        """Whether it can be asked now."""
        ...

    async def wait_published(self, seen: int) -> int:
        """Return ``publications`` as soon as it is not ``seen``."""
        ...


@dataclass(frozen=True, slots=True)
class _Contents:
    """One reading."""

    versions: tuple[PublishedVersion, ...] = ()
    sharing: Mapping[UUID, str] = field(default_factory=dict)
    revision: int = 0
    pages: tuple[CatalogAnnouncement, ...] = (CatalogAnnouncement(revision=0, versions=()),)


class Catalogue:
    """The versions this node has published, read from its engine's commit rows, and the engine's state.

    Args:
        engine: where they are.
        sharing: the owner's sharing level of a version's data set.
    """

    def __init__(self, engine: WatchedEngine, sharing: Callable[[PublishedVersion], str]) -> None:
        self._engine = engine
        self._sharing = sharing
        self._rows: pa.Table | None = None
        self._contents = _Contents()
        self._schema_version = 0
        self._turn = trio.Lock()
        self._state = "starting"
        self._looking_since = float("inf")
        self._stale = trio.Event()
        self._known = trio.Event()
        self._looked = trio.Event()

    @property
    def versions(self) -> tuple[PublishedVersion, ...]:
        """All published versions as of the last :meth:`refresh`."""
        return self._contents.versions

    @property
    def schema_version(self) -> int:
        """The engine's schema version as of the last :meth:`refresh`."""
        return self._schema_version

    @property
    def sharing(self) -> Mapping[UUID, str]:
        """The owner's sharing level of every data set."""
        return self._contents.sharing

    @property
    def revision(self) -> int:
        """A number that differs whenever the catalogue differs."""
        return self._contents.revision

    @property
    def engine(self) -> str:
        """``ok``, or what is wrong with the engine."""
        if trio.current_time() - self._looking_since > BUSY_SECONDS:
            return "busy"
        if self._state == "ok" and not self._engine.ready:
            return "the engine process is not running; it is being restarted"
        return self._state

    async def follow(self) -> None:
        """Keep what is known up to date, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_publications)
            while True:
                self._stale = trio.Event()
                await self._look()
                self._known.set()
                self._looked.set()
                self._looked = trio.Event()
                with trio.move_on_after(LOOK_SECONDS):
                    await self._stale.wait()

    def look_again(self) -> None:
        """Have :meth:`follow` look at once: something has changed."""
        self._stale.set()

    async def known(self) -> None:
        """Return once there has been a look, whatever it found."""
        await self._known.wait()

    async def looked(self) -> None:
        """Return after the next look, whatever it found."""
        await self._looked.wait()

    async def _hear_publications(self) -> None:
        seen = self._engine.publications
        while True:
            seen = await self._engine.wait_published(seen)
            self.look_again()

    async def _look(self) -> None:
        self._looking_since = trio.current_time()
        try:
            with trio.move_on_after(READ_SECONDS) as scope:
                await self.refresh()
            self._state = "busy" if scope.cancelled_caught else "ok"
        except SynDBError as error:
            self._state = error.message[:CAUSE_CHARACTERS]
        finally:
            self._looking_since = float("inf")

    def page(self, number: int) -> CatalogAnnouncement:
        """A page of the present revision, each small enough for a frame.

        Who asks for a page that there is not has seen another revision; the first page of this one tells so.
        """
        pages = self._contents.pages
        return pages[number] if number < len(pages) else pages[0]

    async def refresh(self) -> None:
        """Read the commit rows again. One reading at a time; costs little when nothing was published.

        Raises:
            SynDBError: the engine cannot be read; what was known stays.
        """
        async with self._turn:
            self._schema_version = await schema.schema_version(self._engine)
            rows = await published.rows(self._engine) if self._schema_version else None
            if rows is None:
                self._rows, self._contents = None, _Contents()
            elif self._rows is None or not rows.equals(self._rows):
                if rows.num_rows < MANY_VERSIONS:
                    self._contents = _read(rows, self._sharing)
                else:
                    self._contents = await trio.to_thread.run_sync(_read, rows, self._sharing, limiter=_reading)
                self._rows = rows


def _read(rows: pa.Table, sharing_of: Callable[[PublishedVersion], str]) -> _Contents:
    versions = tuple(published.parse(rows))
    sharing = {version.dataset_id: sharing_of(version) for version in versions}
    content = repr(sorted((str(v.dataset_id), v.version, v.content_hash) for v in versions))
    content += repr(sorted((str(key), level) for key, level in sharing.items()))
    revision = int.from_bytes(hashlib.sha256(content.encode()).digest()[:6], "big")
    parts = in_pages(versions)
    pages = tuple(
        CatalogAnnouncement(
            revision=revision,
            page=number,
            pages=len(parts),
            versions=part,
            sharing={version.dataset_id: sharing[version.dataset_id] for version in part},
        )
        for number, part in enumerate(parts)
    )
    return _Contents(versions, sharing, revision, pages)
