"""What the hub's other parts tell its registry, besides the messages of nodes (:mod:`syndb_common.messages`).

All of them are asked for: what cannot be done is an error of :mod:`syndb_common.errors`, ``NotFound`` for a node that
does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from actors.remote.proof import Transcript
from syndb_common.messages import CatalogAnnouncement, RegisterCluster, Registered


@dataclass(frozen=True, slots=True)
class Enter:
    """The operator enters a node that has not joined yet; answered with the id it will have.

    The first PeerId that proves the name has it. ``host`` may be empty, an IP address or a host name; the hub will
    dial the node there.
    """

    name: str
    host: str = ""
    port: int = 50052
    institution: str = ""
    description: str = ""
    contact_email: str = ""


@dataclass(frozen=True, slots=True)
class Activate:
    """Let a node take part that waits for approval or was deactivated."""

    cluster_id: UUID


@dataclass(frozen=True, slots=True)
class Deactivate:
    """Exclude a node from the federation; its record stays."""

    cluster_id: UUID


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove a node that takes no part, with all that is kept of it. Its name is free then; a revoked key stays so."""

    cluster_id: UUID


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """Believe the PeerId of this node never again; the name, and what it owns, wait for an approved one."""

    cluster_id: UUID
    cause: str


@dataclass(frozen=True, slots=True)
class ApproveHosts:
    """Dial the node at these IP addresses, networks (CIDR) and host names too, in place of those approved before."""

    cluster_id: UUID
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CatalogueRead:
    """All that a node has published, put together from its pages: ``announcement.versions`` is the whole."""

    cluster_id: UUID
    announcement: CatalogAnnouncement


@dataclass(frozen=True, slots=True)
class RegisterSigned:
    """A registration that came over HTTP; send it with the PeerId it claims as ``sender``.

    The registry checks the signature, by that PeerId over :func:`actors.remote.proof.http_statement` of the role
    ``node``, before anything else.

    Attributes:
        digest: of the request's body (:func:`actors.remote.proof.body_digest`), from which ``registration`` was read.
        client: IP address the request came from; empty when it is not known.
    """

    registration: RegisterCluster
    signature: bytes = field(repr=False)
    digest: bytes
    client: str = ""


@dataclass(frozen=True, slots=True)
class SignedAcceptance:
    """Answer to :class:`RegisterSigned`. Who asked signs the transcript's ``http_statement`` of the role ``hub``."""

    registered: Registered
    transcript: Transcript
