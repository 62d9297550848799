"""The secrets by which nodes may join, and what the hub remembers about them.

A node proves one secret: the federation password, the password before it while that is being rotated, or the secret
of an invitation. It says which by the key's id, so that the hub tries one and not all. An invitation belongs to the
first PeerId that proves it and stays that node's own secret: revoking it concerns nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol
from uuid import uuid4

from actors.directory import HUB, Cluster, ClusterRecord, Directory, Standing
from actors.remote.proof import Transcript
from actors.remote.proof import key_id as id_of
from syndb_common.errors import Conflict, JoinRefused
from syndb_common.messages import RegisterCluster

Secret = Literal["password", "previous password", "invitation or older password", ""]
"""What a node joined with; empty when that is not known any more."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys behind the federation password and behind the one before it (:func:`actors.remote.proof.derive_key`).

    The hub's composition hands the registry a function that returns the present one, so that a password can be
    rotated while the hub runs.
    """

    current: bytes = field(repr=False)
    previous: bytes | None = field(default=None, repr=False)

    def find(self, key_id: str) -> tuple[bytes, ...]:
        """The keys a node may mean: the one of that id, or without one both, the current first."""
        both = (self.current,) if self.previous is None else (self.current, self.previous)
        return tuple(key for key in both if not key_id or id_of(key) == key_id)

    def secret_of(self, key_id: str) -> Secret:
        """What the record of a node says it joined with."""
        if not key_id:
            return ""
        if key_id == id_of(self.current):
            return "password"
        if self.previous is not None and key_id == id_of(self.previous):
            return "previous password"
        return "invitation or older password"


@dataclass(frozen=True, slots=True)
class Invitation:
    """A secret made for one node.

    Attributes:
        key_id: :func:`actors.remote.proof.key_id` of the key.
        key: 32 random bytes.
        cluster_name: the only name it is good for; empty for any.
        expires_at: after this it admits nobody new; the node that used it before keeps it.
        used_by: the PeerId that proved it first.
        revoked_at: from then on it admits nobody.
    """

    key_id: str
    key: bytes = field(repr=False)
    created_at: datetime
    expires_at: datetime
    cluster_name: str = ""
    used_by: str | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Proved:
    """A node that proved a secret, and with ``previous_peer_id`` the key that has handed its name to this one."""

    peer_id: str
    cluster_name: str
    protocol_version: int
    transcript: Transcript
    key: bytes = field(repr=False)
    previous_peer_id: str | None = None


class InvitationStore(Protocol):
    """Where invitations are kept; the hub's metadata store implements it.

    Commands of the operator write it while the hub runs, so the registry asks it at every attempt to join.
    """

    async def find(self, key_id: str) -> Invitation | None:
        """The invitation of that key, also an expired or revoked one."""
        ...

    async def use(self, key_id: str, peer_id: str) -> None:
        """Note that ``peer_id`` has proved it; replaces the PeerId when a node has changed its key."""
        ...


def check_invitation(invitation: Invitation, proved: Proved, known: Cluster | None, now: datetime) -> None:
    """Return if the node may join by the invitation it has proved.

    Args:
        invitation: whose secret the node has proved.
        proved: the node.
        known: what :func:`claimed` found. Only with a name that is handed on does an invitation go to another key:
            else one could admit any number of nodes, each vouched for by the one before.
        now: the present time.

    Raises:
        JoinRefused: it was revoked, is another node's or for another name, or expired before anybody used it.
    """
    ask = "Ask the hub's operator for a new one."
    if invitation.revoked_at is not None:
        raise JoinRefused("this invitation was revoked", hint=ask)
    if invitation.cluster_name not in ("", proved.cluster_name):
        raise JoinRefused(f"this invitation is for the name {invitation.cluster_name}", hint="Join under that name.")
    if invitation.used_by is None and invitation.expires_at < now:
        raise JoinRefused("this invitation has expired", hint=ask)
    handed_on = known is not None and known.record.peer_id in (proved.peer_id, proved.previous_peer_id)
    if invitation.used_by not in (None, proved.peer_id, proved.previous_peer_id if handed_on else None):
        raise JoinRefused("this invitation belongs to another node", hint=ask)


def claimed(proved: Proved, directory: Directory) -> Cluster | None:
    """The node that has the name so far, if the one that proved a secret may have it; None for a new name.

    It is asked after the proof: who is in the federation is no business of those who proved nothing.

    Raises:
        Conflict: the name is another's, or the PeerId has another name, or the key that hands its name to it has.
        JoinRefused: the name was deactivated.
    """
    name, peer_id = proved.cluster_name, proved.peer_id
    if name == HUB:
        raise Conflict(f"no node can be named {HUB}", hint="Choose another cluster name.")
    by_peer = directory.by_peer(peer_id)
    if by_peer is not None and by_peer.record.name != name:
        raise Conflict(
            f"this node is already registered as {by_peer.record.name}",
            hint="Keep that name, or give the node a key of its own.",
        )
    previous = None if proved.previous_peer_id is None else directory.by_peer(proved.previous_peer_id)
    if previous is not None and previous.record.name != name:
        raise Conflict(
            f"the node's previous key hands on no other name than its own, {previous.record.name}",
            hint="Join under that name, or as a node of its own: with a new data_dir.",
        )
    known = directory.by_name(name)
    if known is not None and known.record.peer_id not in (None, peer_id, proved.previous_peer_id):
        raise Conflict(
            f"the name {name} belongs to another node",
            hint="Choose another cluster name, or give this node the key of the old one.",
        )
    if known is not None and known.record.standing is Standing.INACTIVE:
        raise JoinRefused(f"{name} was deactivated by the hub's operator", hint="Ask the hub's operator why.")
    return known


def joined(
    proved: Proved,
    message: RegisterCluster,
    known: ClusterRecord | None,
    observed_hosts: tuple[str, ...],
    *,
    fresh: Standing,
    vouched: bool = False,
) -> ClusterRecord:
    """The record of a node that has just joined.

    Args:
        proved: the node.
        message: what it says of itself.
        known: the record under its name so far.
        observed_hosts: IP addresses its connection comes from; none when it has ended already, or leads through a
            relay: then those of before still hold.
        fresh: the standing of a node whose key has no name here yet.
        vouched: whether it joins by an invitation for this very name, made by the hub's operator. Without, a name whose
            key was revoked waits: who stole the key may have the password too.
    """
    # What is known of a name without a key counts until the node says something itself.
    entered = known if known is not None and known.peer_id is None else None
    is_new = known is None or (known.peer_id is None and (known.standing is Standing.PENDING or vouched))
    return ClusterRecord(
        id=uuid4() if known is None else known.id,
        name=proved.cluster_name,
        peer_id=proved.peer_id,
        endpoints=message.endpoints,
        registered_at=datetime.now(UTC) if known is None else known.registered_at,
        institution=message.institution or (entered.institution if entered else ""),
        description=message.description or (entered.description if entered else ""),
        contact_email=message.contact_email or (entered.contact_email if entered else ""),
        software=message.software,
        standing=fresh if known is None or is_new else known.standing,
        schema_version=message.schema_version,
        protocol_version=proved.protocol_version,
        key_id=id_of(proved.key),
        observed_hosts=observed_hosts or (known.observed_hosts if known is not None else ()),
        approved_hosts=() if known is None else known.approved_hosts,
    )
