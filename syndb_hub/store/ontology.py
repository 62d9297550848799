"""The federation's controlled vocabularies, replaced as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise

import sqlalchemy as sa
import structlog
import trio

from actors.ontology_sync import MAX_BYTES, MAX_TERMS
from syndb_common.errors import DataError, LimitExceeded, Unavailable
from syndb_common.messages import OntologyTerm
from syndb_hub.store.database import Store
from syndb_hub.store.schema import hub_state, ontology_terms

log = structlog.get_logger(__name__)

NOTICE_SECONDS = 2.0
"""Between two looks at whether the terms were replaced: as often as nodes are pinged, which is when they get them."""
_REVISION = "ontology revision"
_BATCH = 5000
"""Rows of one statement."""


class StoredTerms:
    """Repository of terms. Implements :class:`actors.ontology_sync.Terms`; :meth:`load` it before use.

    Commands replace the terms in a process of their own; :meth:`run` notices it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._revision = 0

    @property
    def revision(self) -> int:
        """Of the present terms, derived from what they say; 0 while there are none."""
        return self._revision

    async def load(self) -> None:
        """Learn the revision that is stored."""
        self._revision = await self._store.read(_stored_revision)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Learn what others store, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(NOTICE_SECONDS)
            before = self._revision
            try:
                await self.load()
            except Unavailable as error:
                log.warning("terms not looked at", cause=error.message)
            if self._revision != before:
                log.info("there are other terms", revision=self._revision)

    async def read(self) -> tuple[int, Sequence[OntologyTerm]]:
        """The present revision and all its terms, by id."""
        by_id = sa.select(ontology_terms.c.term).order_by(ontology_terms.c.id)

        def work(connection: sa.Connection) -> tuple[int, Sequence[OntologyTerm]]:
            terms = [OntologyTerm.model_validate(each) for each in connection.execute(by_id).scalars()]
            return _stored_revision(connection), terms

        self._revision, terms = await self._store.read(work)
        return self._revision, terms

    async def replace(self, terms: Iterable[OntologyTerm]) -> int:
        """Put these terms in place of those before; returns their revision.

        Raises:
            DataError: two terms have one id.
            LimitExceeded: they are more than a node keeps.
        """
        ordered = sorted(terms, key=lambda term: term.id)
        if len(ordered) > MAX_TERMS:
            raise LimitExceeded(f"{len(ordered)} terms, a federation has at most {MAX_TERMS}")
        twice = next((a.id for a, b in pairwise(ordered) if a.id == b.id), None)
        if twice is not None:
            raise DataError(f"two terms have the id {twice}", hint="Give each term an id of its own.")
        if sum(len(term.model_dump_json()) for term in ordered) > MAX_BYTES:
            raise LimitExceeded(f"terms of together more than {MAX_BYTES} bytes, and a node keeps no more")
        self._revision = await self._store.write(lambda connection: _replace(connection, ordered))
        return self._revision


def _replace(connection: sa.Connection, terms: Sequence[OntologyTerm]) -> int:
    revision = _revision_of(terms)
    connection.execute(sa.delete(ontology_terms))
    rows = [{"id": term.id, "vocabulary": term.vocabulary, "term": term.model_dump(mode="json")} for term in terms]
    for start in range(0, len(rows), _BATCH):
        connection.execute(sa.insert(ontology_terms), rows[start : start + _BATCH])
    connection.execute(sa.delete(hub_state).where(hub_state.c.name == _REVISION))
    connection.execute(sa.insert(hub_state).values(name=_REVISION, value=str(revision)))
    return revision


def _stored_revision(connection: sa.Connection) -> int:
    found = connection.execute(sa.select(hub_state.c.value).where(hub_state.c.name == _REVISION)).scalar_one_or_none()
    return int(found or 0)


def _revision_of(terms: Sequence[OntologyTerm]) -> int:
    """A number of 48 bits that follows from the terms: a hub restored from a backup has the former number again."""
    digest = hashlib.sha256()
    for term in terms:
        digest.update(term.model_dump_json().encode() + b"\n")
    return 1 + int.from_bytes(digest.digest()[:6], "big") if terms else 0
