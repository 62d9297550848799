"""The secrets by which nodes may join, and what the hub remembers about them.

A node proves one secret: the federation password, the password before it while that is being rotated, or the secret
of an invitation. It says which by the key's id, so that the hub tries one and not all. An invitation belongs to the
first PeerId that proves it and stays that node's own secret: revoking it concerns nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from actors.remote.proof import key_id as id_of

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


class InvitationStore(Protocol):
    """Where invitations and revoked keys are kept; the hub's metadata store implements it.

    Commands of the operator write it while the hub runs, so the registry asks it at every attempt to join.
    """

    async def find(self, key_id: str) -> Invitation | None:
        """The invitation of that key, also an expired or revoked one."""
        ...

    async def use(self, key_id: str, peer_id: str) -> None:
        """Note that ``peer_id`` has proved it; replaces the PeerId when a node has changed its key."""
        ...

    async def revoke_peer(self, peer_id: str, cause: str) -> None:
        """Believe this PeerId never again."""
        ...

    async def revoked_peers(self) -> frozenset[str]:
        """All PeerIds that were revoked."""
        ...
