"""The hub's health monitor: one loop per node, so that a slow node never delays another.

What a node's answers mean is a table of states (:mod:`actors.health`). A node that answers and lacks something is
helped (:mod:`actors.catch_up`): it is sent the migrations and the terms it lacks, and a catalogue that changed is read.
What was seen goes to the registry (:mod:`actors.health_reports`).

Pings are spread by jitter, and a bounded number is under way. Nodes that were slow or silent lately have places of
their own, so that they, who hold a place for long, never delay the others.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import ClassVar
from uuid import UUID

import trio

from actors.catch_up import CatchUp, Progress, Step
from actors.directory import Cluster, Directory
from actors.health import (
    Answered,
    HealthObserved,
    HealthPolicy,
    Missed,
    NodeHealth,
    Outcome,
    Verify,
    Watch,
    judge,
    patience,
    pause,
    transition,
)
from actors.health_reports import HealthReports
from actors.runtime import Actor, ActorError, ActorRef, handle
from syndb_common.errors import Conflict, NotFound, SynDBError
from syndb_common.messages import HealthPing, HealthReport

PLACES = 256
"""Pings under way at once to nodes that answered well lately, and as many to all others."""
HELPERS = 16
"""Nodes helped at once: each may hold a catalogue of some megabytes in memory."""
MANY = 1000
"""Of so many nodes the first pings are spread over a whole interval, of fewer over less: a hub that restarts knows a
small federation again at once."""
REPORT_SECONDS = 5.0
"""A node to which nothing happens is reported so often, for its latency and when it was last seen."""
LONGEST_SKEW = 1e9
"""Seconds; what a clock that is no clock counts as."""
REGISTRY_SECONDS = 30.0
"""For the registry to take a batch of observations; it writes changes to its store."""


class _Watched:
    """What the monitor keeps of one node.

    Attributes:
        wake: set to end the pause between two pings.
        begun: checks begun; ``finished`` is the number of the last one that ended.
        checked: set when the present check ends, if somebody waits for that.
        ended: whether nobody looks after the node any more.
        reported: when it was reported last.
    """

    __slots__ = ("begun", "checked", "ended", "finished", "observed", "progress", "reported", "state", "wake")

    def __init__(self, state: NodeHealth) -> None:
        self.state = state
        self.wake = trio.Event()
        self.begun = 0
        self.finished = 0
        self.checked: trio.Event | None = None
        self.ended = False
        self.observed: HealthObserved | None = None
        self.reported = -math.inf
        self.progress = Progress(None)

    def finish(self) -> None:
        """A check, or the watch itself, has ended."""
        self.finished = self.begun
        if self.checked is not None:
            self.checked.set()
            self.checked = None


class HealthMonitor(Actor):
    """Pings every active node of the directory and reports to the actor ``registry``.

    It finds ``schema_publisher`` and ``ontology_publisher`` too, when a node lacks what they send.

    Args:
        directory: whom to ping.
        peer: makes the reference to a node.
        policy: what counts as slow or gone.
        schema_version: the hub's.
        ontology_revision: of the hub's terms; 0 while it has none.
        next_hub_peer_id: the key the hub will change to, told with each ping; empty for none.
    """

    mailbox_size: ClassVar[int] = 4096
    """A federation that comes back as a whole asks to be watched all at once."""
    expected = (SynDBError,)

    def __init__(
        self,
        *,
        directory: Directory,
        peer: Callable[[Cluster], ActorRef],
        policy: HealthPolicy,
        schema_version: int,
        ontology_revision: Callable[[], int] = lambda: 0,
        next_hub_peer_id: Callable[[], str] = lambda: "",
    ) -> None:
        self._directory = directory
        self._peer = peer
        self._policy = policy
        self._schema_version = schema_version
        self._next_hub_peer_id = next_hub_peer_id
        self._watched: dict[UUID, _Watched] = {}
        self._places = trio.CapacityLimiter(PLACES)
        self._suspects = trio.CapacityLimiter(PLACES)
        self._helpers = trio.CapacityLimiter(HELPERS)
        self._chance = random.Random()  # noqa: S311 - jitter, not secrets
        self._reports = HealthReports(lambda batch: self._find("registry").ask(batch, timeout=REGISTRY_SECONDS))
        self._catch_up = CatchUp(
            find=self._find, peer=peer, schema_version=schema_version, ontology_revision=ontology_revision
        )

    async def on_start(self) -> None:
        """Watch all nodes that are known."""
        self.context.start_soon(self._reports.run)
        clusters = self._directory.clusters
        spread = self._policy.interval * min(len(clusters) / MANY, 1.0)
        for cluster_id in clusters:
            self._watch(cluster_id, self._chance.random() * spread)

    @handle
    async def watch(self, message: Watch) -> None:
        """Begin to watch a node, or ping it at once when it is watched already."""
        self._watch(message.cluster_id).wake.set()

    @handle
    async def verify(self, message: Verify) -> HealthObserved:
        """Ping a node now and wait until what was seen stands in the directory."""
        cluster = self._directory.get(message.cluster_id)
        if cluster is None:
            raise NotFound(f"no cluster {message.cluster_id}")
        if not cluster.record.is_active:
            raise Conflict(
                f"{cluster.record.name} does not take part: it is {cluster.record.standing}",
                hint="Activate it first; one that is pending has to join before.",
            )
        return self.context.delegate(self._verify, self._watch(message.cluster_id))

    async def _verify(self, watched: _Watched) -> HealthObserved:
        wanted = watched.begun + 1
        watched.wake.set()
        while watched.finished < wanted:
            if watched.ended:
                raise Conflict("the node left the federation meanwhile")
            if watched.checked is None:
                watched.checked = trio.Event()
            await watched.checked.wait()
        await self._reports.delivered()
        assert watched.observed is not None  # a check has finished
        return watched.observed

    def _find(self, name: str) -> ActorRef:
        return self.context.find(name)

    def _watch(self, cluster_id: UUID, delay: float = 0.0) -> _Watched:
        watched = self._watched.get(cluster_id)
        if watched is None:
            known = self._directory.get(cluster_id)
            state = NodeHealth() if known is None else NodeHealth(known.health, known.cause, known.failures)
            watched = self._watched[cluster_id] = _Watched(state)
            self.context.start_soon(self._look_after, cluster_id, watched, delay)
        return watched

    async def _look_after(self, cluster_id: UUID, watched: _Watched, delay: float) -> None:
        try:
            while True:
                with trio.move_on_after(delay):
                    await watched.wake.wait()
                watched.wake = trio.Event()
                cluster = self._directory.get(cluster_id)
                if cluster is None or not cluster.record.is_active:
                    return
                await self._check(cluster, watched)
                watched.finish()
                delay = pause(watched.state, self._policy, self._chance.random())
        finally:
            watched.ended = True
            watched.finish()
            self._watched.pop(cluster_id, None)

    async def _check(self, cluster: Cluster, watched: _Watched) -> None:
        policy, before = self._policy, watched.state
        answer: HealthReport | str
        async with self._suspects if before.failures or before.troubled else self._places:
            watched.begun += 1
            sent, began = time.time(), trio.current_time()
            ping = HealthPing(clock=sent, next_hub_peer_id=self._next_hub_peer_id())
            try:
                answer = await self._peer(cluster).ask(ping, timeout=patience(before, policy))
            except SynDBError as error:
                answer = error.message
            except ActorError as error:
                answer = f"the hub could not ask: {error}"
            latency = trio.current_time() - began
        if isinstance(answer, str):
            self._observe(cluster, watched, Missed(answer))
            return
        skew = answer.clock - (sent + latency / 2)
        skew = max(-LONGEST_SKEW, min(skew, LONGEST_SKEW)) if math.isfinite(skew) else LONGEST_SKEW
        report = await self._with_help(cluster, watched, answer)
        outcome = judge(report, latency, skew, policy, schema_version=self._schema_version)
        if troubles := watched.progress.troubles:
            outcome = Answered(outcome.definite + troubles, outcome.slow)
        self._observe(cluster, watched, outcome, latency, skew, report)

    async def _with_help(self, cluster: Cluster, watched: _Watched, report: HealthReport) -> HealthReport:
        """Have the node helped if it lacks something, and wait a moment for it: the next ping must not wait longer."""
        if not watched.progress.hears(cluster.record.peer_id, report):
            watched.progress.scope.cancel()
            watched.progress = Progress(cluster.record.peer_id, report.boot_id)
        progress = watched.progress
        lacking = self._catch_up.lacking(self._directory.get(cluster.record.id) or cluster, report)
        if progress.due(lacking) and progress.running is None:
            progress.running = running = trio.Event()
            progress.scope = trio.CancelScope()
            self.context.start_soon(self._help, cluster, lacking, watched, progress)
            with trio.move_on_after(self._policy.interval):
                await running.wait()
                return report.model_copy(update={"schema_version": max(progress.schema_version, report.schema_version)})
            progress.late = True
        return report

    async def _help(self, cluster: Cluster, lacking: dict[Step, int], watched: _Watched, progress: Progress) -> None:
        with progress.scope:
            async with self._helpers:
                await self._catch_up.help(cluster, lacking, progress)
        if progress.running is not None:
            progress.running.set()
        if progress.late:
            watched.wake.set()
        progress.running, progress.late = None, False

    def _observe(
        self,
        cluster: Cluster,
        watched: _Watched,
        outcome: Outcome,
        latency: float | None = None,
        skew: float | None = None,
        report: HealthReport | None = None,
    ) -> None:
        state = watched.state = transition(watched.state, outcome, self._policy, trio.current_time())
        observed = HealthObserved(
            cluster_id=cluster.record.id,
            health=state.health,
            cause=state.cause,
            failures=state.failures,
            latency_seconds=latency,
            # Without its engine a node says what it knew last, and nothing after a restart.
            schema_version=report.schema_version if report is not None and report.engine == "ok" else None,
            flaps=len(state.lost),
            clock_skew_seconds=skew,
            ontology_revision=None if report is None else report.ontology_revision,
        )
        self._report(watched, observed)

    def _report(self, watched: _Watched, observed: HealthObserved) -> None:
        """Let the registry know what changed at once, and now and then what did not."""
        watched.observed = observed
        known, now = self._directory.get(observed.cluster_id), trio.current_time()
        if known is None:
            return
        changed = known.health is not observed.health
        if changed or now - watched.reported >= REPORT_SECONDS or _differs(known, observed):
            watched.reported = now
            self._reports.add(observed, urgent=changed)


def _differs(known: Cluster, observed: HealthObserved) -> bool:
    return (
        known.cause != observed.cause
        or known.failures != observed.failures
        or known.flaps != observed.flaps
        or observed.schema_version not in (None, known.record.schema_version)
        or observed.ontology_revision not in (None, known.ontology_revision)
    )
