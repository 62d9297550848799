"""Both ends of ontology sync: the hub sends the federation's terms, each node keeps a copy in a file.

The terms of one revision travel in pages, in order; together they replace what the node had. A node whose health
report names another revision than the hub's is sent all of them anew, so that a page that is lost, doubled or late
costs a repetition and no consistency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID

import structlog
import trio
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.directory import Cluster, Directory
from actors.paging import in_pages
from actors.runtime import Actor, ActorRef, handle
from syndb_common.errors import Conflict, DataError, LimitExceeded, NotFound, SynDBError
from syndb_common.messages import OntologyReport, OntologySync, OntologyTerm
from syndb_common.settings import write_private

log = structlog.get_logger(__name__)
_files = trio.CapacityLimiter(1)

PAGE_SECONDS = 10.0
"""A node writes the terms to its disk when the last page came; all others it only keeps."""
SEND_SECONDS = 120.0
"""For all pages of one revision to one node."""
MAX_TERMS = 100_000
"""Of one revision: ten times the largest anatomy ontology in use for insects."""
MAX_BYTES = 64 * 1024 * 1024
"""Of one revision, as JSON; what a node keeps in memory while pages arrive."""


class Terms(Protocol):
    """The hub's vocabulary; the hub's metadata store implements it."""

    @property
    def revision(self) -> int:
        """Of the present terms, from memory; another number for other terms, 0 while there are none."""
        ...

    async def read(self) -> tuple[int, Sequence[OntologyTerm]]:
        """The present revision and all its terms.

        Raises:
            SynDBError: they cannot be read now.
        """
        ...


@dataclass(frozen=True, slots=True)
class SyncTerms:
    """Bring this node to the hub's terms; answered with the node's :class:`OntologyReport`."""

    cluster_id: UUID


class OntologyPublisher(Actor):
    """The hub's end: sends a node all terms of the present revision."""

    expected = (SynDBError,)

    def __init__(self, *, terms: Terms, directory: Directory, peer: Callable[[Cluster], ActorRef]) -> None:
        self._terms = terms
        self._directory = directory
        self._peer = peer
        self._revision = 0
        self._pages: list[tuple[OntologyTerm, ...]] = []
        self._reading = trio.Lock()

    @handle
    async def sync(self, message: SyncTerms) -> OntologyReport:
        """Send one node the terms. Nodes are served side by side."""
        cluster = self._directory.get(message.cluster_id)
        if cluster is None:
            raise NotFound("no such node")
        return self.context.delegate(self._send, cluster)

    async def _send(self, cluster: Cluster) -> OntologyReport:
        revision, pages = await self._present()
        peer = self._peer(cluster)
        try:
            report = await self._send_pages(peer, revision, pages)
        except Conflict:  # a page of before was still under way
            report = await self._send_pages(peer, revision, pages)
        log.info("terms sent", cluster=cluster.record.name, revision=report.revision, pages=len(pages))
        return report

    async def _send_pages(
        self, peer: ActorRef, revision: int, pages: Sequence[tuple[OntologyTerm, ...]]
    ) -> OntologyReport:
        for number, page in enumerate(pages):
            message = OntologySync(revision=revision, page=number, pages=len(pages), terms=page)
            report: OntologyReport = await peer.ask(message, timeout=PAGE_SECONDS)
            if report.revision == revision:
                return report
        raise DataError(f"the node took all pages of revision {revision} and has {report.revision}")

    async def _present(self) -> tuple[int, list[tuple[OntologyTerm, ...]]]:
        async with self._reading:
            if self._revision != self._terms.revision:
                revision, terms = await self._terms.read()
                if not revision:
                    raise NotFound(
                        "the hub has no terms", hint="Import an ontology first: syndb-hub ontology import FILE.csv."
                    )
                self._pages = await trio.to_thread.run_sync(in_pages, terms, limiter=_files)
                self._revision = revision
            return self._revision, self._pages


class Vocabulary(BaseModel):
    """All terms of one revision: the content of the node's file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    revision: int = Field(ge=1)
    terms: tuple[OntologyTerm, ...] = Field(max_length=MAX_TERMS)


class OntologyFile:
    """The node's copy.

    Attributes:
        revision: of the terms in the file; 0 before :meth:`load`, and while there are none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.revision = 0

    async def load(self) -> Vocabulary | None:
        """The terms, or None when there are none that can be read."""
        found = await trio.to_thread.run_sync(self._read, limiter=_files)
        self.revision = 0 if found is None else found.revision
        return found

    async def replace(self, vocabulary: Vocabulary) -> None:
        """Put these terms in place of those before, whole or not at all.

        Raises:
            ConfigError: the file cannot be written.
        """
        await trio.to_thread.run_sync(lambda: write_private(self._path, vocabulary.model_dump_json()), limiter=_files)
        self.revision = vocabulary.revision

    def _read(self) -> Vocabulary | None:
        try:
            with self._path.open("rb") as file:
                return Vocabulary.model_validate_json(file.read(2 * MAX_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            said = error.strerror if isinstance(error, OSError) else "it holds something else"
            log.warning("terms not read; the hub sends them again", file=str(self._path), cause=said)
            return None


class _Arriving:
    """The pages of one revision that came so far, in order."""

    def __init__(self, revision: int, pages: int) -> None:
        self.revision = revision
        self.pages = pages
        self.due = 0
        self._size = 0
        self._terms: dict[str, OntologyTerm] = {}

    def vocabulary(self) -> Vocabulary:
        """All terms; for when no page is due any more."""
        return Vocabulary(revision=self.revision, terms=tuple(self._terms.values()))

    def repeats(self, page: OntologySync) -> bool:
        """Whether this page came before.

        Raises:
            DataError: it did, with other terms.
        """
        if page.page >= self.due:
            return False
        if any(self._terms.get(term.id) != term for term in page.terms):
            raise DataError(f"page {page.page} of revision {self.revision} came twice and differs")
        return True

    def add(self, page: OntologySync) -> None:
        """The page that is due.

        Raises:
            DataError: a term of it came before.
            LimitExceeded: together they are more than a node keeps.
        """
        for term in page.terms:
            if term.id in self._terms:
                raise DataError(f"the term {term.id} stands twice in revision {self.revision}")
            self._terms[term.id] = term
            self._size += len(term.model_dump_json())
        if len(self._terms) > MAX_TERMS or self._size > MAX_BYTES:
            raise LimitExceeded(f"a node keeps at most {MAX_TERMS} terms of together {MAX_BYTES} bytes")
        self.due += 1


class OntologyKeeper(Actor):
    """The node's end: collects pages, and replaces the file when the last one came."""

    expected = (SynDBError,)

    def __init__(self, *, file: OntologyFile) -> None:
        self._file = file
        self._arriving: _Arriving | None = None

    async def on_start(self) -> None:
        """Know what the file holds."""
        await self._file.load()

    @handle
    async def take(self, message: OntologySync) -> OntologyReport:
        """Take one page. One that came before is acknowledged again; the first one of another revision begins anew.

        Raises:
            Conflict: another page is due.
            DataError: it contradicts the pages before it; they are forgotten.
            LimitExceeded: the terms are more than a node keeps; they are forgotten.
            ConfigError: the file cannot be written.
        """
        if message.revision == self._file.revision:
            return OntologyReport(revision=self._file.revision)
        arriving = self._arriving
        if message.page == 0 and (arriving is None or arriving.revision != message.revision):
            arriving = _Arriving(message.revision, message.pages)
        self._arriving = None  # unless this page fits
        if arriving is None or arriving.revision != message.revision:
            self._arriving = arriving
            raise Conflict(f"page 0 of revision {message.revision} is due", hint="Send all pages in order.")
        if message.pages != arriving.pages or message.page >= message.pages:
            raise DataError(f"page {message.page} of {message.pages} came, of {arriving.pages} before")
        if not arriving.repeats(message):
            if message.page != arriving.due:
                self._arriving = arriving
                raise Conflict(
                    f"page {arriving.due} of revision {message.revision} is due, page {message.page} came",
                    hint="Send all pages in order.",
                )
            arriving.add(message)
        if arriving.due < arriving.pages:
            self._arriving = arriving
        else:
            await self._file.replace(arriving.vocabulary())
            log.info("terms replaced", revision=message.revision, pages=message.pages)
        return OntologyReport(revision=self._file.revision)
