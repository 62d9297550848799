"""The hub's registry: admits nodes, remembers them, and keeps the directory that everybody reads.

A node is admitted in two steps, each one message: it asks for a challenge, then proves a secret over both nonces, both
PeerIds and its name (:mod:`actors.joins`, :mod:`actors.remote.proof`). From then on its PeerId counts, which the
transport has verified. A node whose libp2p cannot reach the hub joins by the same steps over HTTP, where it signs what
no connection proves: the hub's HTTP side asks :class:`JoinRequest` and :class:`RegisterSigned` with the PeerId the
node claims as ``sender``.

The name belongs to the first PeerId that proved it, until that key hands it on (succession) or is revoked:

| standing | joining with the key that has the name | with its successor | with any other key |
|---|---|---|---|
| no such name | | | ``active``, or ``waiting`` with ``require_approval`` |
| pending, without a key | | | ``active``, or ``waiting`` with ``require_approval`` |
| waiting, its key revoked | refused | refused | ``waiting``; like a new name by an invitation for it |
| waiting | ``waiting`` | ``waiting`` | conflict |
| active | ``active`` | ``active`` | conflict |
| inactive | refused | refused | conflict |

Of the addresses a node announces only approved ones are published to be dialled (:mod:`actors.addresses`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import structlog

from actors.address_book import AddressBook
from actors.addresses import Address, Approval, Resolver, look_up, machine_addresses, names
from actors.admission import Invitation, InvitationStore, Keyring, check_invitation, claimed, joined
from actors.claims import Claims
from actors.cluster_store import ClusterStore, Transition
from actors.directory import HUB, Cluster, ClusterRecord, Directory, Standing
from actors.health import HealthObservations, HealthObserved, Watch
from actors.joins import Join, Joins
from actors.registry_messages import (
    Activate,
    ApproveHosts,
    CatalogueRead,
    Deactivate,
    Enter,
    Forget,
    RegisterSigned,
    RevokeKey,
    SignedAcceptance,
)
from actors.registry_store import Keeper
from actors.remote.identity import is_signed_by
from actors.remote.proof import Transcript, http_statement, hub_proof
from actors.runtime import Actor, ActorError, MailboxFull, handle
from actors.sightings import farewell, sighted
from actors.standings import announced, keyless, unseen
from syndb_common.errors import Conflict, InvalidRequest, JoinRefused, NotFound, SynDBError
from syndb_common.messages import (
    Acknowledged,
    CatalogAnnouncement,
    Endpoints,
    JoinChallenge,
    JoinRequest,
    LeaveFederation,
    RegisterCluster,
    Registered,
)
from syndb_common.metrics import HEALTH_CHANGES

log = structlog.get_logger(__name__)

NEW_KEY = (
    "Stop the node, move identity.key out of its data_dir, and join with a new invitation of the hub's operator: "
    "syndb federation init --force --invite-file FILE. A key made by syndb-node rotate-key is refused as well."
)
"""What helps a node whose key was revoked: nothing that the revoked key signs."""

LOOKED_UP_SECONDS = 30.0
"""For the registry to hear what a look-up found: it is never busy for so long."""

MAX_NODES = 1000
"""Names a hub keeps: who knows the password could else fill its memory and its store with them."""


@dataclass(frozen=True, slots=True)
class _LookedUp:
    cluster_id: UUID
    found: Mapping[str, tuple[Address, ...]]


class Registry(Actor):
    """Admits nodes and writes the directory.

    Args:
        directory: where the picture is published.
        store: where it is kept.
        invitations: secrets made for one node each.
        hub_peer_id: our own PeerId, part of every proof.
        keys: the present keys of the federation password; asked at every attempt to join.
        schema_version: the hub's, told to nodes.
        require_approval: whether a key that is new here waits for the operator.
        approval: what the hub may dial of any node.
        observed_hosts: IP addresses a peer's connections come from (:meth:`actors.remote.transport.Transport`).
        ping_seconds: how often nodes are pinged, told to them.
        next_hub_peer_id: the key the hub will change to, or empty; asked at every registration.
        own_addresses: those of the hub's machine.
        resolve: finds the addresses of a host name.
        max_nodes: how many names there may be, whatever their standing.
    """

    expected = (SynDBError,)

    def __init__(
        self,
        *,
        directory: Directory,
        store: ClusterStore,
        invitations: InvitationStore,
        hub_peer_id: str,
        keys: Callable[[], Keyring],
        schema_version: int,
        require_approval: bool = False,
        approval: Approval | None = None,
        observed_hosts: Callable[[str], Iterable[str]] = lambda peer_id: (),
        ping_seconds: float | None = None,
        next_hub_peer_id: Callable[[], str] = lambda: "",
        own_addresses: Callable[[], Collection[Address]] = machine_addresses,
        resolve: Resolver = look_up,
        max_nodes: int = MAX_NODES,
    ) -> None:
        self._directory = directory
        self._store = store
        self._invitations = invitations
        self._hub_peer_id = hub_peer_id
        self._keys = keys
        self._schema_version = schema_version
        self._require_approval = require_approval
        self._book = AddressBook(approval or Approval(), own_addresses, resolve)
        self._observed_hosts = observed_hosts
        self._ping_seconds = ping_seconds
        self._next_hub_peer_id = next_hub_peer_id
        self._max_nodes = max_nodes
        self._keeper = Keeper(store)
        self._looking_up: set[UUID] = set()

    async def on_start(self) -> None:
        """Load the records; nodes known from before are pinged without waiting for them to call.

        What they held is known too, so that data of a node that is away are missing and not unknown.
        """
        self._joins = Joins(self._hub_peer_id, self._is_member, self.context.clock.now)
        known = self._directory.clusters
        revoked = await self._store.revoked_peers()
        stored = [record for record in await self._store.load() if record.id not in known]
        # An older release kept the two facts apart, and a backup may.
        records = [keyless(record) if record.peer_id in revoked else record for record in stored]
        catalogues = await self._store.load_catalogues() if records else {}
        loaded = [announced(unseen(Cluster(record), record), catalogues.get(record.id)) for record in records]
        for cluster in (*known.values(), *loaded):
            self._publish(cluster)
        self._claims = Claims(self._directory.clusters.values())
        self.context.start_soon(self._keeper.run)

    async def on_stop(self) -> None:
        """Write down what waits to be written."""
        await self._keeper.flush()

    @handle
    async def challenge(self, message: JoinRequest) -> JoinChallenge:
        """First step of joining."""
        return self._joins.challenge(self._sender(), message)

    @handle
    async def register(self, message: RegisterCluster) -> Registered:
        """Second step of joining, over a connection that proves the sender's key."""
        join, transcript = self._joins.take(self._sender(), message.join_id)
        self._book.refresh()
        return await self._admit(join, transcript, message, tuple(self._observed_hosts(join.peer_id)))

    @handle
    async def register_signed(self, message: RegisterSigned) -> SignedAcceptance:
        """Second step of joining over HTTP, where the signature proves the sender's key."""
        registration = message.registration
        join, transcript = self._joins.take(self._sender(), registration.join_id)
        self._book.refresh()
        if not is_signed_by(join.peer_id, message.signature, http_statement(b"node", transcript, message.digest)):
            raise JoinRefused(
                "the node's signature is wrong", hint="Sign transcript and body with the key of the PeerId."
            )
        # Through a proxy on this machine everybody seems to be local, so that says nothing here.
        observed = () if not message.client or self._book.is_own(message.client) else (message.client,)
        return SignedAcceptance(await self._admit(join, transcript, registration, observed), transcript)

    @handle
    async def leave(self, message: LeaveFederation) -> Acknowledged:
        """A node stops on purpose: nobody needs to find out."""
        cluster = self._member()
        await self._observe([farewell(cluster, message.reason)])
        return Acknowledged()

    @handle
    async def announced(self, message: CatalogAnnouncement) -> Acknowledged:
        """A node says what it has published. Of a catalogue in pages this tells only that there is a new one."""
        cluster = self._member()
        if message.pages == 1:
            self._catalogue(cluster, message)
        elif message.revision != cluster.catalogue_revision:
            self._watch(cluster.record.id)
        return Acknowledged()

    @handle
    async def catalogue_read(self, message: CatalogueRead) -> None:
        """The health monitor has fetched all that a node publishes."""
        cluster = self._found(message.cluster_id)
        if cluster.record.is_active:
            self._catalogue(cluster, message.announcement)

    @handle
    async def observed(self, message: HealthObserved) -> None:
        """The health monitor saw something."""
        await self._observe([message])

    @handle
    async def observed_many(self, message: HealthObservations) -> None:
        """The health monitor saw several things."""
        await self._observe(message.observations)

    @handle
    async def enter(self, message: Enter) -> UUID:
        """Enter a node that has not joined yet."""
        if message.name == HUB or self._directory.by_name(message.name) is not None:
            raise Conflict(f"the name {message.name} is taken", hint="Choose another cluster name.")
        self._check_room()
        approved_hosts = (message.host,) if message.host else ()
        Approval.of(approved_hosts)
        host = f"[{message.host}]" if ":" in message.host else message.host
        record = ClusterRecord(
            id=uuid4(),
            name=message.name,
            peer_id=None,
            endpoints=Endpoints(
                multiaddrs=(), flight=f"grpc+tls://{host}:{message.port}" if host else "", flight_certificate=""
            ),
            registered_at=datetime.now(UTC),
            institution=message.institution,
            description=message.description,
            contact_email=message.contact_email,
            standing=Standing.PENDING,
            approved_hosts=approved_hosts,
        )
        await self._stand(Cluster(record))
        return record.id

    @handle
    async def activate(self, message: Activate) -> None:
        """Let a node take part. A deactivated name without a key waits for one, and then for another approval."""
        cluster = self._found(message.cluster_id)
        record = cluster.record
        if record.peer_id is None and record.standing is not Standing.INACTIVE:
            raise Conflict(f"no node has proved the name {record.name} yet", hint="Activate it once it has joined.")
        if not record.is_active:
            standing = Standing.WAITING if record.peer_id is None else Standing.ACTIVE
            await self._stand(replace(cluster, record=replace(record, standing=standing)))
            self._watch(record.id)

    @handle
    async def deactivate(self, message: Deactivate) -> None:
        """Exclude a node; its next message is refused."""
        cluster = self._found(message.cluster_id)
        if cluster.record.standing is not Standing.INACTIVE:
            await self._stand(replace(cluster, record=replace(cluster.record, standing=Standing.INACTIVE)))

    @handle
    async def forget(self, message: Forget) -> None:
        """Remove a node that takes no part."""
        cluster = self._found(message.cluster_id)
        if cluster.record.is_active:
            raise Conflict(f"{cluster.record.name} takes part", hint="Deactivate it first.")
        self._keeper.forget(message.cluster_id)
        await self._store.forget(message.cluster_id)
        self._book.forget(message.cluster_id)
        self._claims.update(cluster, replace(cluster, versions=()), self._directory)
        self._directory.remove(message.cluster_id)
        log.warning("node forgotten", cluster=cluster.record.name, peer_id=cluster.record.peer_id)

    @handle
    async def revoke_key(self, message: RevokeKey) -> None:
        """Believe a node's key never again. What the node owned stays with its name."""
        cluster = self._found(message.cluster_id)
        record = cluster.record
        if record.peer_id is None:
            raise Conflict(f"{record.name} has no key", hint="Nothing needs to be revoked.")
        without = keyless(record)
        await self._store.revoke(without, record.peer_id, message.cause)
        self._publish(unseen(cluster, without))
        log.warning("key revoked", cluster=record.name, peer_id=record.peer_id, cause=message.cause)

    @handle
    async def approve_hosts(self, message: ApproveHosts) -> None:
        """Change where a node may be dialled."""
        Approval.of(message.hosts)
        cluster = self._found(message.cluster_id)
        record = replace(cluster.record, approved_hosts=message.hosts)
        await self._store.save(record)
        self._publish(replace(cluster, record=record))
        log.info("hosts approved", cluster=record.name, hosts=message.hosts)

    @handle
    async def looked_up(self, message: _LookedUp) -> None:
        """The addresses of a node's host names are known."""
        cluster = self._directory.get(message.cluster_id)
        if cluster is not None:
            self._book.learn(message.cluster_id, message.found, self.context.clock.now())
            # It may have joined again with other names while these were looked up.
            self._publish(cluster, look_up=not names(cluster.record.endpoints) <= message.found.keys())

    async def _admit(
        self, join: Join, transcript: Transcript, message: RegisterCluster, observed: tuple[str, ...]
    ) -> Registered:
        """Verify the proof; then the name is the node's."""
        invitation: Invitation | None = None
        keys = self._keys().find(join.request.key_id)
        if not keys and (invitation := await self._invitations.find(join.request.key_id)) is not None:
            keys = (invitation.key,)
        proved = self._joins.prove(join, transcript, message, keys)
        if {proved.peer_id, proved.previous_peer_id} & await self._store.revoked_peers():
            raise JoinRefused("this key was revoked by the hub's operator", hint=NEW_KEY)
        known = claimed(proved, self._directory)
        if known is None:
            self._check_room()
        if invitation is not None:
            check_invitation(invitation, proved, known, datetime.now(UTC))
            if invitation.used_by != proved.peer_id:
                await self._invitations.use(invitation.key_id, proved.peer_id)
        approve = Standing.WAITING if self._require_approval else Standing.ACTIVE
        record = joined(
            proved,
            message,
            None if known is None else known.record,
            observed,
            fresh=approve,
            vouched=invitation is not None and invitation.cluster_name == proved.cluster_name,
        )
        if known is None or record != known.record:
            await self._store.save(record)
        if known is None or known.record.peer_id is None:
            known = unseen(Cluster(record) if known is None else known, record)
        self._publish(replace(known, record=record, failures=0))
        log.info("node registered", cluster=record.name, peer_id=record.peer_id, standing=record.standing)
        if record.is_active:
            self._watch(record.id)
        return Registered(
            cluster_id=record.id,
            hub_proof=hub_proof(proved.key, transcript),
            schema_version=self._schema_version,
            standing=record.standing,
            ping_seconds=self._ping_seconds,
            next_hub_peer_id=self._next_hub_peer_id(),
        )

    async def _stand(self, cluster: Cluster) -> None:
        """Give a node another standing."""
        record = cluster.record
        await self._store.save(record)
        self._publish(unseen(cluster, record))
        log.info("standing changed", cluster=record.name, standing=record.standing)

    def _catalogue(self, cluster: Cluster, message: CatalogAnnouncement) -> None:
        now = announced(cluster, message)
        self._directory.publish([now])
        self._claims.update(cluster, now, self._directory)
        if message.revision != cluster.catalogue_revision:
            self._keeper.catalogue(cluster.record.id, message)

    async def _observe(self, observations: Iterable[HealthObserved]) -> None:
        """Publish what was seen of active nodes, and keep what has changed."""
        records: dict[UUID, ClusterRecord] = {}
        transitions: list[Transition] = []
        for seen in observations:
            before = self._directory.get(seen.cluster_id)
            if before is None or not before.record.is_active:
                continue
            if self._book.is_due(seen.cluster_id, self.context.clock.now()):
                self._start_look_up(before)
            now = sighted(before, seen)
            self._directory.publish([now])
            if now.record is not before.record:
                records[now.record.id] = now.record
            if now.health is not before.health:
                HEALTH_CHANGES.labels(now.health.value).inc()
                log.info("health changed", cluster=now.record.name, was=before.health, now=now.health, cause=now.cause)
                transitions.append(Transition(now.record.id, seen.at, before.health, now.health, now.cause))
        await self._keeper.changes(records.values(), transitions)

    def _publish(self, cluster: Cluster, *, look_up: bool = True) -> None:
        """Publish a node whose place may have changed; names it announces are looked up beside the handlers."""
        self._directory.publish([self._book.place(cluster)])
        if look_up:
            self._start_look_up(cluster)

    def _start_look_up(self, cluster: Cluster) -> None:
        cluster_id = cluster.record.id
        wanted = cluster.record.peer_id is not None and bool(names(cluster.record.endpoints))
        if wanted and cluster_id not in self._looking_up:
            self._looking_up.add(cluster_id)
            self.context.start_soon(self._look_up, cluster)

    async def _look_up(self, cluster: Cluster) -> None:
        found = await self._book.look_up(cluster)
        cluster_id = cluster.record.id
        self._looking_up.discard(cluster_id)
        with suppress(ActorError):
            await self.context.ref.ask(_LookedUp(cluster_id, found), timeout=LOOKED_UP_SECONDS)

    def _watch(self, cluster_id: UUID) -> None:
        # A full mailbox means that the monitor is looking after nodes as fast as it can.
        with suppress(MailboxFull):
            self.context.find("health_monitor").tell(Watch(cluster_id))

    def _check_room(self) -> None:
        if len(self._directory) >= self._max_nodes:
            raise Conflict(
                f"this hub has {len(self._directory)} nodes, as many as it takes",
                hint="Its operator can forget those that are gone (`syndb federation clusters forget`), or raise "
                "federation.max_nodes.",
            )

    def _found(self, cluster_id: UUID) -> Cluster:
        cluster = self._directory.get(cluster_id)
        if cluster is None:
            raise NotFound(f"no cluster {cluster_id}")
        return cluster

    def _member(self) -> Cluster:
        cluster = self._directory.by_peer(self._sender())
        if cluster is None or not cluster.record.is_active:
            raise JoinRefused("this PeerId is not registered, or takes no part now", hint="Join first.")
        return cluster

    def _is_member(self, peer_id: str) -> bool:
        cluster = self._directory.by_peer(peer_id)
        return cluster is not None and cluster.record.is_active

    def _sender(self) -> str:
        sender = self.context.sender
        if not isinstance(sender, str):
            raise InvalidRequest("this message must come from a peer")
        return sender
