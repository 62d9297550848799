"""Joining in two HTTP requests: the registry's challenge and proof, with signatures in place of a handshake.

Over libp2p the connection proves both PeerIds. Here the node signs the transcript and what it says with its key, which
the registry checks, so that knowing the password is not enough to speak for another node, and nobody on the way can
change a word; and the hub signs with its own, the challenge already, so that a node proves the password to nobody else.
"""

from __future__ import annotations

from collections.abc import Callable

from actors.registry_messages import RegisterSigned, SignedAcceptance
from actors.remote.identity import Identity
from actors.remote.policy import RateLimit
from actors.remote.proof import Transcript, body_digest, http_statement
from actors.runtime import ActorRef
from syndb_common.clients import rate_key
from syndb_common.errors import TooManyRequests
from syndb_common.messages import JoinChallenge, JoinRequest, RegisterCluster, Registered
from syndb_hub.federation.asking import ask


class HttpJoining:
    """Implements :class:`syndb_hub.federation.service.JoinOverHttp`.

    Args:
        registry: admits nodes.
        identity: the hub's key, which signs challenge and acceptance.
        is_member: whether a PeerId is that of a node that takes part. It is only claimed here and has to be proved
            yet: such a request passes a crowd of strangers, and no other check.
        limit: of requests by client address and overall, as for strangers on libp2p.
    """

    def __init__(
        self,
        registry: ActorRef,
        identity: Identity,
        is_member: Callable[[str], bool],
        *,
        limit: RateLimit | None = None,
    ) -> None:
        self._registry = registry
        self._identity = identity
        self._is_member = is_member
        self._limit = limit or RateLimit()

    async def challenge(self, peer_id: str, request: JoinRequest, *, client: str) -> tuple[JoinChallenge, bytes]:
        """See the protocol."""
        self._admit(client, peer_id)
        challenge: JoinChallenge = await ask(self._registry, request, sender=peer_id)
        transcript = Transcript(
            node_nonce=request.node_nonce,
            hub_nonce=challenge.hub_nonce,
            node_peer_id=peer_id,
            hub_peer_id=self._identity.peer_id,
            cluster_name=request.cluster_name,
        )
        digest = body_digest(challenge.model_dump())
        return challenge, self._identity.sign(http_statement(b"challenge", transcript, digest))

    async def register(
        self, peer_id: str, registration: RegisterCluster, signature: bytes, digest: bytes, *, client: str
    ) -> tuple[Registered, bytes]:
        """See the protocol."""
        self._admit(client, peer_id)
        message = RegisterSigned(registration, signature, digest, client)
        accepted: SignedAcceptance = await ask(self._registry, message, sender=peer_id)
        digest = body_digest(accepted.registered.model_dump())
        return accepted.registered, self._identity.sign(http_statement(b"hub", accepted.transcript, digest))

    def _admit(self, client: str, peer_id: str) -> None:
        if not self._limit.admit(rate_key(client), stranger=not self._is_member(peer_id)):
            raise TooManyRequests("too many attempts to join", hint="Wait some seconds.")
