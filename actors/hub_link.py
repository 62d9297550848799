"""A node's way to its hub: which keys are pinned, what is proved to it, and by which road it is reached."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from actors import key_rotation
from actors.http_joining import join_over_http
from actors.hub_pins import HubPins
from actors.joining import Application, FederationSecret, Membership, join
from actors.key_rotation import NodeKeys
from actors.runtime import ActorRef
from syndb_common.errors import ConfigError, DeadlineExceeded, EngineUnavailable, JoinRefused, PeerUnavailable
from syndb_common.messages import Endpoints, Registered

log = structlog.get_logger(__name__)
_files = trio.CapacityLimiter(1)


@dataclass(frozen=True, slots=True)
class FoundHub:
    """A pinned hub to which a connection stands; ``ref`` answers messages there."""

    peer_id: str
    ref: ActorRef


@dataclass(frozen=True, slots=True)
class Joined:
    """A hub has accepted the node and proved itself.

    Attributes:
        hub: answers messages there; None while only HTTP leads to it.
    """

    registered: Registered
    hub_peer_id: str
    hub: ActorRef | None = None

    @property
    def takes_part(self) -> bool:
        """Whether the node is a member; else the hub's operator has to approve it."""
        return self.registered.standing == "active"


class HubLink:
    """Joins the hub, and keeps what follows from it: pins and the node's own key.

    Args:
        folder: the node's ``data_dir``.
        membership: what the node says of itself.
        keys: the node's key, and the one before while the hub has not accepted the change.
        pins: the hub keys that are obeyed.
        secret: what is proved.
        find_hub: reaches a pinned hub over libp2p.
        hub_url: address of the hub's REST API; empty for none.
        endpoints: where the node can be reached, asked for at every attempt: addresses change.
    """

    def __init__(
        self,
        *,
        folder: Path,
        membership: Membership,
        keys: NodeKeys,
        pins: HubPins,
        secret: FederationSecret,
        find_hub: Callable[[], Awaitable[FoundHub]],
        hub_url: Callable[[], str],
        endpoints: Callable[[], Endpoints],
    ) -> None:
        self.membership = membership
        self.pins = pins
        self._folder = folder
        self._keys = keys
        self._secret = secret
        self._find_hub = find_hub
        self._hub_url = hub_url
        self._endpoints = endpoints

    @property
    def endpoints(self) -> Endpoints:
        """Where the node can be reached now."""
        return self._endpoints()

    async def find(self) -> FoundHub:
        """Reach a pinned hub over libp2p.

        Raises:
            PeerUnavailable: it was not found.
        """
        return await self._find_hub()

    async def join(self, *, schema_version: int) -> Joined:
        """Join over libp2p, and over HTTP where that does not lead to the hub and an address is configured.

        Raises:
            JoinRefused: the password, the name or the hub's proof is not what it should be.
            SynDBError: the hub cannot be reached, or what it answered.
        """
        await self._heed_operator()
        try:
            return await self._join_by_libp2p(schema_version)
        except (PeerUnavailable, DeadlineExceeded) as error:
            url = self._hub_url()
            if not url:
                raise
            log.info("the hub is not reached over libp2p: joining over HTTP", cause=error.message, url=url)
            return await self._join_by_http(url, schema_version)

    async def _join_by_libp2p(self, schema_version: int) -> Joined:
        found = await self._find_hub()
        application = self._application(schema_version)  # not before: finding waits until our own host listens
        key = await self._secret.key(found.peer_id)
        registered = await join(found.ref, found.peer_id, key, application)
        await self._accepted_by(found.peer_id)
        await self.pins.announced(found.peer_id, registered.next_hub_peer_id)
        return Joined(registered, found.peer_id, found.ref)

    async def _join_by_http(self, url: str, schema_version: int) -> Joined:
        hub_peer_id, successor = self.pins.current, self.pins.successor
        application = self._application(schema_version)
        try:
            registered = await join_over_http(url, hub_peer_id, await self._secret.key(hub_peer_id), application)
        except JoinRefused:
            if not successor:
                raise
            # A hub that has changed its key cannot read a proof that was meant for the former one.
            hub_peer_id = successor
            registered = await join_over_http(url, hub_peer_id, await self._secret.key(hub_peer_id), application)
        await self._accepted_by(hub_peer_id)
        await self.pins.announced(hub_peer_id, registered.next_hub_peer_id)
        return Joined(registered, hub_peer_id)

    def _application(self, schema_version: int) -> Application:
        endpoints = self._endpoints()
        if not endpoints.flight:
            raise EngineUnavailable("the engine is starting", hint="A node joins when its data can be read.")
        return Application(
            membership=self.membership,
            identity=self._keys.identity,
            predecessor=self._keys.predecessor,
            endpoints=endpoints,
            schema_version=schema_version,
        )

    async def _accepted_by(self, hub_peer_id: str) -> None:
        """The hub knows us and has proved itself: it is the one to obey, and our new key has its place."""
        await self.pins.changed_over(hub_peer_id)
        if self._keys.predecessor is None:
            return
        try:
            await trio.to_thread.run_sync(key_rotation.finish, self._folder, limiter=_files)
        except ConfigError as error:
            log.warning("the new key is in use and not in its place yet", cause=error.message)
            return
        log.info("the hub knows the new key", former=self._keys.predecessor.peer_id, now=self._keys.identity.peer_id)
        self._keys = NodeKeys(self._keys.identity)

    async def _heed_operator(self) -> None:
        """`syndb-node trust` may have pinned another hub since."""
        try:
            await self.pins.reload()
        except ConfigError as error:
            log.warning("pinned hubs not read again", cause=error.message, hint=error.hint)
