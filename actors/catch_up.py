"""Helping a node that answers to what it lacks: migrations, the hub's picture of its catalogue, terms.

Each step is tried when a ping shows that it is needed, and after a failure again after a while, at once when something
else is needed now. All this concerns one run of the node with one key: what was sent to an earlier run may never be
answered, and what failed there says nothing about the next, so it ends with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

import structlog
import trio

from actors.catalogue_reading import read_catalogue
from actors.directory import Cluster
from actors.ontology_sync import SEND_SECONDS, SyncTerms
from actors.registry_messages import CatalogueRead
from actors.runtime import ActorError, ActorRef
from actors.schema_sync import SYNC_SECONDS, SyncCluster
from syndb_common.errors import DeadlineExceeded, PeerUnavailable, SynDBError
from syndb_common.messages import HealthReport

log = structlog.get_logger(__name__)

AGAIN_SECONDS = 30.0
"""After a step failed, the same is not tried again before this: mostly only a person can help."""
REGISTRY_SECONDS = 10.0
CAUSE_CHARACTERS = 200
ONTOLOGY_SINCE = 2
"""The protocol version that brought terms."""


class Step(Enum):
    """What a node may lack; the value names it in causes."""

    SCHEMA = "schema sync"
    CATALOGUE = "catalogue"
    ONTOLOGY = "ontology"


@dataclass(frozen=True, slots=True)
class _Failed:
    """What did not work, why, and when it may be tried again."""

    what: int
    cause: str
    until: float


class Progress:
    """What is being done and what failed at one run of a node.

    Args:
        peer_id: the node's key.
        boot_id: of the run, empty if the node does not say.

    Attributes:
        scope: of the present help; cancelled when another run of the node answers.
        running: set when the present help ends; None while none is given.
        late: whether nobody waits for it any more.
        schema_version: the node's after the present help, 0 if it sent no migrations.
    """

    __slots__ = ("_boot_id", "_failed", "_heard", "_peer_id", "late", "running", "schema_version", "scope")

    def __init__(self, peer_id: str | None, boot_id: str = "") -> None:
        self._peer_id = peer_id
        self._boot_id = boot_id
        self._heard = trio.current_time()
        self.scope = trio.CancelScope()
        self.running: trio.Event | None = None
        self.late = False
        self.schema_version = 0
        self._failed: dict[Step, _Failed] = {}

    def hears(self, peer_id: str | None, report: HealthReport) -> bool:
        """Whether a report comes from this run: with its key and boot id, or begun before the report before."""
        now, heard = trio.current_time(), self._heard
        self._heard = now
        if report.boot_id or self._boot_id:
            return (peer_id, report.boot_id) == (self._peer_id, self._boot_id)
        return peer_id == self._peer_id and report.uptime_seconds >= now - heard

    def note(self, step: Step, what: int, error: Exception) -> None:
        """The step failed."""
        # A node lost on the way is pinged anyway; what it misses is tried again as soon as it answers. An actor of the
        # hub that crashed is back at once.
        wait = 0.0 if isinstance(error, PeerUnavailable | DeadlineExceeded | ActorError) else AGAIN_SECONDS
        self._failed[step] = _Failed(what, str(error)[:CAUSE_CHARACTERS], trio.current_time() + wait)

    def done(self, step: Step) -> None:
        """The step succeeded."""
        self._failed.pop(step, None)

    def due(self, lacking: dict[Step, int]) -> bool:
        """Whether one of these may be tried now. What is not lacking any more is forgotten."""
        for step in self._failed.keys() - lacking.keys():
            del self._failed[step]
        return any(self.may_try(step, what) for step, what in lacking.items())

    def may_try(self, step: Step, what: int) -> bool:
        """Whether the step did not fail just now for the same thing."""
        failed = self._failed.get(step)
        return failed is None or failed.what != what or trio.current_time() >= failed.until

    @property
    def troubles(self) -> tuple[str, ...]:
        """What failed and makes the node worse to ask; terms are not needed for that."""
        return tuple(f"{step.value}: {failed.cause}" for step, failed in self._failed.items() if step != Step.ONTOLOGY)


class CatchUp:
    """The steps, and when each is needed.

    Args:
        find: finds the actors ``schema_publisher``, ``ontology_publisher`` and ``registry``.
        peer: makes the reference to a node.
        schema_version: the hub's.
        ontology_revision: of the hub's terms; 0 while it has none.
    """

    def __init__(
        self,
        *,
        find: Callable[[str], ActorRef],
        peer: Callable[[Cluster], ActorRef],
        schema_version: int,
        ontology_revision: Callable[[], int],
    ) -> None:
        self._find = find
        self._peer = peer
        self._schema_version = schema_version
        self._ontology_revision = ontology_revision
        self._steps: dict[Step, Callable[[Cluster, int, Progress], Awaitable[None]]] = {
            Step.SCHEMA: self._send_schema,
            Step.CATALOGUE: self._read_catalogue,
            Step.ONTOLOGY: self._send_terms,
        }

    def lacking(self, cluster: Cluster, report: HealthReport) -> dict[Step, int]:
        """What the node lacks, with what is to be mended: its version, its revision, the revision it should have."""
        if report.engine not in ("ok", "busy"):
            return {}  # it can neither apply nor read, and says so already
        found = {}
        if report.engine == "ok" and report.schema_version < self._schema_version:
            found[Step.SCHEMA] = report.schema_version
        if report.catalogue_revision != cluster.catalogue_revision:
            found[Step.CATALOGUE] = report.catalogue_revision
        revision = self._ontology_revision()
        if revision not in (0, report.ontology_revision) and cluster.record.protocol_version >= ONTOLOGY_SINCE:
            found[Step.ONTOLOGY] = revision
        return found

    async def help(self, cluster: Cluster, lacking: dict[Step, int], progress: Progress) -> None:
        """Do what is lacking, in order; what fails is noted and does not stop the rest."""
        progress.schema_version = 0
        for step, what in lacking.items():
            if not progress.may_try(step, what):
                continue
            try:
                await self._steps[step](cluster, what, progress)
                progress.done(step)
            except (SynDBError, ActorError) as error:
                log.warning("node not helped", step=step.value, cluster=cluster.record.name, cause=str(error))
                progress.note(step, what, error)

    async def _send_schema(self, cluster: Cluster, version: int, progress: Progress) -> None:
        message = SyncCluster(cluster.record.id, version)
        report = await self._find("schema_publisher").ask(message, timeout=SYNC_SECONDS)
        progress.schema_version = report.schema_version

    async def _read_catalogue(self, cluster: Cluster, _revision: int, _progress: Progress) -> None:
        announcement = await read_catalogue(self._peer(cluster))
        read = CatalogueRead(cluster.record.id, announcement)
        await self._find("registry").ask(read, timeout=REGISTRY_SECONDS)

    async def _send_terms(self, cluster: Cluster, _revision: int, _progress: Progress) -> None:
        await self._find("ontology_publisher").ask(SyncTerms(cluster.record.id), timeout=SEND_SECONDS)
