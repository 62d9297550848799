"""The node's actor towards its hub: finds it, joins it, answers its pings, and joins again when it went silent.

Only the pinned hub is ever spoken to. A hub that restarts remembers its nodes and pings them; a node that hears no
ping for a while looks for the hub anew and joins again under its old name, so both sides heal without a person.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import structlog
import trio

from actors.remote.proof import Transcript, generate_nonce, hub_proof, node_proof, verify
from actors.runtime import Actor, ActorRef, handle
from syndb_common.engine import published
from syndb_common.engine.interface import Engine
from syndb_common.errors import DeadlineExceeded, EngineUnavailable, JoinRefused, SynDBError
from syndb_common.messages import (
    CatalogAnnouncement,
    DatasetCatalogRequest,
    Endpoints,
    FlightEndpoint,
    GetFlightEndpoint,
    HealthPing,
    HealthReport,
    JoinRequest,
    RegisterCluster,
)
from syndb_common.tables import schema
from syndb_common.tables.versions import PublishedVersion

log = structlog.get_logger(__name__)
_notes = trio.CapacityLimiter(1)

ASK_SECONDS = 10.0
"""Deadline of one step of joining."""
ENGINE_SECONDS = 1.0
"""A ping waits so long for the engine; then it reports the last known catalogue and a busy engine."""
FRESH_SECONDS = 5.0
"""A catalogue read this recently is announced from memory: the hub asks right after a ping that has read it."""
CATALOGUE_SECONDS = 8.0
"""How long reading it anew may take; the hub waits ten seconds for the answer."""
RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses between attempts to join. They stay short: hubs come back within seconds, and an attempt is cheap."""
CAUSE_CHARACTERS = 1000
"""What a report may say about the engine; ClickHouse can be wordier."""
REFUSED_SECONDS = 30.0
"""Pause after a refusal: only a person can change that, but nobody should have to restart the node for it."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a node says of itself when it joins."""

    name: str
    node_peer_id: str
    hub_peer_id: str
    key: bytes = field(repr=False)
    institution: str = ""
    description: str = ""
    contact_email: str = ""
    software: str = ""


class Catalogue:
    """The versions this node has published, read from its engine's commit rows."""

    def __init__(self, engine: Engine, sharing: Callable[[PublishedVersion], str]) -> None:
        self._engine = engine
        self._sharing = sharing
        self._versions: tuple[PublishedVersion, ...] = ()
        self._revision = 0
        self._schema_version = 0

    @property
    def versions(self) -> tuple[PublishedVersion, ...]:
        """All published versions as of the last :meth:`refresh`."""
        return self._versions

    @property
    def schema_version(self) -> int:
        """The engine's schema version as of the last :meth:`refresh`."""
        return self._schema_version

    @property
    def sharing(self) -> Mapping[UUID, str]:
        """The owner's sharing level of every data set."""
        return {version.dataset_id: self._sharing(version) for version in self._versions}

    @property
    def revision(self) -> int:
        """A number that differs whenever the catalogue differs."""
        return self._revision

    async def refresh(self) -> None:
        """Read the commit rows again."""
        self._schema_version = await schema.schema_version(self._engine)
        self._versions = tuple(await published.versions(self._engine)) if self._schema_version else ()
        content = repr(sorted((str(v.dataset_id), v.version, v.content_hash) for v in self._versions))
        content += repr(sorted((str(key), level) for key, level in self.sharing.items()))
        self._revision = int.from_bytes(hashlib.sha256(content.encode()).digest()[:6], "big")


class Cluster(Actor):
    """Keeps the node in its federation.

    Args:
        membership: what to say when joining.
        catalogue: what the node holds.
        endpoints: where the node can be reached, asked for at every attempt to join (addresses change).
        find_hub: finds the pinned hub and connects to it; returns a reference to it.
        load: how many queries run now.
        state_file: where the operator's commands read how the node stands.
        silence_seconds: join again when the hub has not pinged for so long.
    """

    expected = (SynDBError,)

    def __init__(
        self,
        *,
        membership: Membership,
        catalogue: Catalogue,
        endpoints: Callable[[], Endpoints],
        find_hub: Callable[[], Awaitable[ActorRef]],
        load: Callable[[], int],
        state_file: Path,
        silence_seconds: float,
    ) -> None:
        self._membership = membership
        self._catalogue = catalogue
        self._endpoints = endpoints
        self._find_hub = find_hub
        self._load = load
        self._state_file = state_file
        self._silence_seconds = silence_seconds
        self._started = time.monotonic()
        self._last_ping = -float("inf")
        self._refreshed = -float("inf")
        self._joined = False

    async def on_start(self) -> None:
        """Begin to look for the hub."""
        await self._note("looking for the hub")
        self.context.start_soon(self._stay_joined)

    @handle
    async def ping(self, message: HealthPing) -> HealthReport:
        """Say how the node is; the hub's clock is compared with ours by the hub."""
        self._last_ping = trio.current_time()
        engine = "ok"
        try:
            with trio.move_on_after(ENGINE_SECONDS) as scope:
                await self._refresh()
            if scope.cancelled_caught:
                engine = "busy"
        except SynDBError as error:
            engine = error.message[:CAUSE_CHARACTERS]
        return HealthReport(
            schema_version=self._catalogue.schema_version,
            engine=engine,
            load=self._load(),
            catalogue_revision=self._catalogue.revision,
            clock=time.time(),
            uptime_seconds=time.monotonic() - self._started,
            software=self._membership.software,
        )

    @handle
    async def catalogue(self, message: DatasetCatalogRequest) -> CatalogAnnouncement:
        """Say what is published here; read again only if no ping did so just now."""
        if trio.current_time() - self._refreshed > FRESH_SECONDS:
            return self.context.delegate(self._announce_anew)
        return self._announcement()

    async def _announce_anew(self) -> CatalogAnnouncement:
        with trio.move_on_after(CATALOGUE_SECONDS) as scope:
            await self._refresh()
        if scope.cancelled_caught:
            raise DeadlineExceeded(f"the engine did not say within {CATALOGUE_SECONDS:g} s what is published")
        return self._announcement()

    async def _refresh(self) -> None:
        await self._catalogue.refresh()
        self._refreshed = trio.current_time()

    def _announcement(self) -> CatalogAnnouncement:
        return CatalogAnnouncement(
            revision=self._catalogue.revision,
            versions=self._catalogue.versions,
            sharing=dict(self._catalogue.sharing),
        )

    @handle
    async def flight_endpoint(self, message: GetFlightEndpoint) -> FlightEndpoint:
        """Say where our Flight server is."""
        endpoints = self._endpoints()
        return FlightEndpoint(location=endpoints.flight, certificate=endpoints.flight_certificate)

    async def _stay_joined(self) -> None:
        attempt = 0
        while True:
            silence = trio.current_time() - self._last_ping
            # A hub that remembers us pings before we joined; what it remembers may be out of date.
            if self._joined and silence < self._silence_seconds:
                await trio.sleep(self._silence_seconds - silence)
                continue
            try:
                await self._join()
                attempt = 0
                self._joined = True
                # The hub pings at once; give it the whole silence before asking again.
                self._last_ping = trio.current_time()
            except SynDBError as error:
                refused = isinstance(error, JoinRefused) or error.code == "conflict"
                pause = REFUSED_SECONDS if refused else RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
                attempt += 1
                log.warning("not joined", cause=error.message, hint=error.hint, again_in_seconds=pause)
                await self._note("refused" if refused else "looking for the hub", error)
                await trio.sleep(pause)

    async def _join(self) -> None:
        me = self._membership
        hub = await self._find_hub()
        endpoints = self._endpoints()  # not before: finding the hub waits until our own host listens
        if not endpoints.flight:
            raise EngineUnavailable("the engine is starting", hint="A node joins when its data can be read.")
        node_nonce = generate_nonce()
        challenge = await hub.ask(JoinRequest(cluster_name=me.name, node_nonce=node_nonce), timeout=ASK_SECONDS)
        transcript = Transcript(
            node_nonce=node_nonce,
            hub_nonce=challenge.hub_nonce,
            node_peer_id=me.node_peer_id,
            hub_peer_id=me.hub_peer_id,
            cluster_name=me.name,
        )
        registration = RegisterCluster(
            join_id=challenge.join_id,
            node_proof=node_proof(me.key, transcript),
            endpoints=endpoints,
            schema_version=self._catalogue.schema_version,
            institution=me.institution,
            description=me.description,
            contact_email=me.contact_email,
            software=me.software,
        )
        registered = await hub.ask(registration, timeout=ASK_SECONDS)
        if not verify(registered.hub_proof, hub_proof(me.key, transcript)):
            raise JoinRefused(
                "the hub did not prove the federation password",
                hint="Check federation.hub_peer_id and the password with the hub's operator.",
            )
        log.info("joined", hub=me.hub_peer_id, cluster_id=str(registered.cluster_id))
        await self._note("joined", cluster_id=str(registered.cluster_id))

    async def _note(self, state: str, error: SynDBError | None = None, **facts: str) -> None:
        """Leave a small file for `syndb federation status`."""
        content = {
            "state": state,
            "cluster": self._membership.name,
            "peer_id": self._membership.node_peer_id,
            "hub_peer_id": self._membership.hub_peer_id,
            "cause": error.message if error else "",
            "hint": error.hint if error else "",
            "at": time.time(),
            **facts,
        }
        try:
            await write_note(self._state_file, json.dumps(content, indent=1))
        except OSError as full_disk:
            log.warning("state not written", file=str(self._state_file), cause=full_disk.strerror)


async def write_note(path: Path, content: str) -> None:
    """Put a file in place, whole or not at all, without holding up the loop."""
    await trio.to_thread.run_sync(_replace_file, path, content, limiter=_notes)


def _replace_file(path: Path, content: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(content)
    os.replace(temporary, path)
