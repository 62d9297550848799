"""The hub's registry: admits nodes, remembers them, and keeps the directory that everybody reads.

A node is admitted in two steps, each one message: it asks for a challenge, then proves the federation password
over both nonces, both PeerIds and its name (:mod:`actors.remote.proof`). From then on its PeerId counts, which
the transport has verified. The name belongs to the first PeerId that proved it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import structlog

from actors.cluster_store import ClusterStore
from actors.directory import HUB, Cluster, ClusterRecord, Directory, Health, Standing, false_claims, owned
from actors.health import HealthObserved, Watch
from actors.registry_messages import Deactivate
from actors.remote.proof import Transcript, generate_nonce, hub_proof, node_proof, verify
from actors.runtime import Actor, handle
from syndb_common.errors import Conflict, InvalidRequest, JoinRefused, NotFound, SynDBError, TooManyRequests
from syndb_common.messages import (
    PROTOCOL_VERSION,
    Acknowledged,
    CatalogAnnouncement,
    JoinChallenge,
    JoinRequest,
    RegisterCluster,
    Registered,
)

log = structlog.get_logger(__name__)

JOIN_SECONDS = 30.0
"""A challenge is void after this: a node needs one round trip and, once, a key stretched by Argon2id."""
PENDING_JOINS = 1000
"""Challenges kept at once; the oldest give way, so strangers cannot fill the memory."""
FAILED_PROOFS = 5
"""Wrong proofs of one PeerId within a minute before it has to wait: a node that retries a typo is told to stop.

PeerIds cost nothing, so what bounds guessing is the overall rate of :mod:`actors.remote.policy`: 40 messages a second
from all strangers together, two for each guess."""


@dataclass(frozen=True, slots=True)
class _Join:
    peer_id: str
    cluster_name: str
    node_nonce: bytes
    hub_nonce: bytes
    until: float


class Registry(Actor):
    """Admits nodes and writes the directory.

    Args:
        directory: where the picture is published.
        store: where it is kept.
        hub_peer_id: our own PeerId, part of every proof.
        key: the stretched federation password.
        schema_version: the hub's, told to nodes.
    """

    expected = (SynDBError,)

    def __init__(
        self,
        *,
        directory: Directory,
        store: ClusterStore,
        hub_peer_id: str,
        key: bytes,
        schema_version: int,
    ) -> None:
        self._directory = directory
        self._store = store
        self._hub_peer_id = hub_peer_id
        self._key = key
        self._schema_version = schema_version
        self._joins: OrderedDict[UUID, _Join] = OrderedDict()
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self._claims: frozenset[tuple[UUID, UUID]] = frozenset()

    async def on_start(self) -> None:
        """Load the records; nodes known from before are pinged without waiting for them to call.

        What they held is known too, so that data of a node that is away are missing and not unknown.
        """
        known = self._directory.clusters
        records = [record for record in await self._store.load() if record.id not in known]
        catalogues = await self._store.load_catalogues() if records else {}
        self._directory.publish([_announced(Cluster(record), catalogues.get(record.id)) for record in records])

    @handle
    async def challenge(self, message: JoinRequest) -> JoinChallenge:
        """First step of joining."""
        peer_id = self._sender()
        if message.protocol_version not in (PROTOCOL_VERSION, PROTOCOL_VERSION - 1):
            raise InvalidRequest(
                f"the node speaks protocol {message.protocol_version}, this hub {PROTOCOL_VERSION}",
                hint="Update the older of the two.",
            )
        self._check_failures(peer_id)
        while len(self._joins) >= PENDING_JOINS:
            self._joins.popitem(last=False)
        join_id, hub_nonce = uuid4(), generate_nonce()
        until = self.context.clock.now() + JOIN_SECONDS
        self._joins[join_id] = _Join(peer_id, message.cluster_name, message.node_nonce, hub_nonce, until)
        return JoinChallenge(join_id=join_id, hub_nonce=hub_nonce)

    @handle
    async def register(self, message: RegisterCluster) -> Registered:
        """Second step of joining: verify the proof, then the name is the node's."""
        peer_id = self._sender()
        self._check_failures(peer_id)
        join = self._joins.get(message.join_id)
        if join is not None and join.peer_id == peer_id:
            del self._joins[message.join_id]
        if join is None or join.peer_id != peer_id or join.until < self.context.clock.now():
            raise JoinRefused("this challenge is unknown, used or too old", hint="Start joining again.")
        transcript = Transcript(
            node_nonce=join.node_nonce,
            hub_nonce=join.hub_nonce,
            node_peer_id=peer_id,
            hub_peer_id=self._hub_peer_id,
            cluster_name=join.cluster_name,
        )
        if not verify(message.node_proof, node_proof(self._key, transcript)):
            self._failures.setdefault(peer_id, []).append(self.context.clock.now())
            log.warning("join refused: wrong federation password", cluster=join.cluster_name, peer_id=peer_id)
            raise JoinRefused(
                "invalid federation password",
                hint="SYNDB_FEDERATION_PASSWORD (or federation.password) of the node must equal the hub's exactly.",
            )
        self._failures.pop(peer_id, None)
        self._check_name(join.cluster_name, peer_id)
        record = self._record(join.cluster_name, peer_id, message)
        await self._store.save(record)
        before = self._directory.clusters.get(record.id, Cluster(record))
        self._directory.publish([replace(before, record=record, catalogue_revision=None, failures=0)])
        log.info("node registered", cluster=record.name, peer_id=peer_id)
        self.context.find("health_monitor").tell(Watch(record.id))
        return Registered(
            cluster_id=record.id, hub_proof=hub_proof(self._key, transcript), schema_version=self._schema_version
        )

    @handle
    async def announced(self, message: CatalogAnnouncement) -> Acknowledged:
        """A node says what it has published."""
        cluster = self._directory.by_peer(self._sender())
        if cluster is None:
            raise JoinRefused("this PeerId is not registered", hint="Join first.")
        announced = _announced(cluster, message)
        self._directory.publish([announced])
        self._log_false_claims()
        if (announced.versions, announced.sharing) != (cluster.versions, cluster.sharing):
            try:
                await self._store.save_catalogue(cluster.record.id, message)
            except SynDBError as error:
                log.warning("catalogue not kept", cluster=cluster.record.name, cause=error.message)
        return Acknowledged()

    @handle
    async def observed(self, message: HealthObserved) -> None:
        """The health monitor saw something."""
        cluster = self._directory.clusters.get(message.cluster_id)
        if cluster is None or not cluster.record.is_active:
            return
        now = datetime.now(UTC)
        record = cluster.record
        if message.schema_version is not None and message.schema_version != record.schema_version:
            record = replace(record, schema_version=message.schema_version)
            await self._store.save(record)
        self._directory.publish(
            [
                replace(
                    cluster,
                    record=record,
                    health=message.health,
                    cause=message.cause,
                    failures=message.failures,
                    latency_seconds=message.latency_seconds,
                    last_seen=now if message.latency_seconds is not None else cluster.last_seen,
                )
            ]
        )
        if message.health is not cluster.health:
            log.info("health changed", cluster=record.name, was=cluster.health, now=message.health, cause=message.cause)
            await self._store.record_transition(record.id, now, cluster.health, message.health, message.cause)

    @handle
    async def deactivate(self, message: Deactivate) -> None:
        """Exclude a node; its next message is refused."""
        cluster = self._directory.clusters.get(message.cluster_id)
        if cluster is None:
            raise NotFound(f"no cluster {message.cluster_id}")
        record = replace(cluster.record, standing=Standing.INACTIVE)
        await self._store.save(record)
        self._directory.publish([replace(cluster, record=record, health=Health.UNKNOWN, cause="deactivated")])
        log.info("node deactivated", cluster=record.name)

    def _record(self, name: str, peer_id: str, message: RegisterCluster) -> ClusterRecord:
        known = self._directory.by_name(name)
        return ClusterRecord(
            id=known.record.id if known else uuid4(),
            name=name,
            peer_id=peer_id,
            endpoints=message.endpoints,
            registered_at=known.record.registered_at if known else datetime.now(UTC),
            institution=message.institution,
            description=message.description,
            contact_email=message.contact_email,
            software=message.software,
            schema_version=message.schema_version,
        )

    def _check_name(self, name: str, peer_id: str) -> None:
        """Asked once the password is proved: who is in the federation is no stranger's business."""
        if name == HUB:
            raise Conflict(f"no node can be named {HUB}", hint="Choose another cluster name.")
        by_name = self._directory.by_name(name)
        if by_name is not None and by_name.record.peer_id != peer_id:
            raise Conflict(
                f"the name {name} belongs to another node",
                hint="Choose another cluster name, or give this node the key of the old one.",
            )
        by_peer = self._directory.by_peer(peer_id)
        if by_peer is not None and by_peer.record.name != name:
            raise Conflict(
                f"this node is already registered as {by_peer.record.name}",
                hint="Keep that name, or give the node a key of its own.",
            )
        if by_name is not None and not by_name.record.is_active:
            raise JoinRefused(f"{name} was deactivated by the hub's operator", hint="Ask the hub's operator why.")

    def _log_false_claims(self) -> None:
        """Name the nodes that announce another's data set, each once as long as they do."""
        clusters = self._directory.clusters.values()
        counted = owned(clusters)
        claims = {
            (cluster.record.id, version.dataset_id): (cluster.record.name, version.metadata.dataset)
            for cluster in clusters
            if cluster.record.is_active
            for version in false_claims(cluster, counted)
        }
        for (_, dataset_id), (name, dataset) in ((k, v) for k, v in claims.items() if k not in self._claims):
            log.warning("announced what another node owns", cluster=name, dataset=dataset, dataset_id=str(dataset_id))
        self._claims = frozenset(claims)

    def _check_failures(self, peer_id: str) -> None:
        now = self.context.clock.now()
        recent = [at for at in self._failures.get(peer_id, ()) if now - at < 60]
        if len(recent) >= FAILED_PROOFS:
            raise TooManyRequests("too many wrong proofs", hint="Wait a minute, and check the federation password.")
        if recent:
            self._failures[peer_id] = recent
            self._failures.move_to_end(peer_id)
        else:
            self._failures.pop(peer_id, None)
        while len(self._failures) > PENDING_JOINS:
            self._failures.popitem(last=False)

    def _sender(self) -> str:
        sender = self.context.sender
        if not isinstance(sender, str):
            raise InvalidRequest("this message must come from a peer")
        return sender


def _announced(cluster: Cluster, message: CatalogAnnouncement | None) -> Cluster:
    """The node with what it announced."""
    if message is None:
        return cluster
    return replace(
        cluster, catalogue_revision=message.revision, versions=message.versions, sharing=dict(message.sharing)
    )
