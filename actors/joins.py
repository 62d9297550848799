"""Attempts to join: challenges handed out, proofs checked, and guessing held down.

It changes nothing about the federation: who has proved what is handed to the registry, which decides.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import structlog

from actors.admission import Proved
from actors.remote.identity import is_signed_by
from actors.remote.proof import Transcript, generate_nonce, node_proof, succession_statement, verify
from syndb_common.errors import InvalidRequest, JoinRefused, TooManyRequests
from syndb_common.messages import PROTOCOL_VERSION, JoinChallenge, JoinRequest, RegisterCluster

log = structlog.get_logger(__name__)

JOIN_SECONDS = 30.0
"""A challenge is void after this: a node needs one round trip and, once, a key stretched by Argon2id."""
PENDING_JOINS = 2000
"""Challenges kept at once; the oldest give way, so strangers cannot fill the memory."""
FAILED_PROOFS = 5
"""Wrong proofs of one PeerId within a minute before it has to wait: a node that retries a typo is told to stop."""
STRANGERS_FAILED_PROOFS = 1200
"""Wrong proofs within a minute from all PeerIds that are no members: PeerIds cost nothing. 20 guesses a second."""
MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Join:
    """One attempt, from its challenge on."""

    peer_id: str
    request: JoinRequest
    hub_nonce: bytes
    until: float


class Joins:
    """The attempts that are under way.

    Args:
        hub_peer_id: our own PeerId, part of every proof.
        is_member: whether a PeerId has a name here; members are never held up by what strangers do.
        now: seconds, monotonic.
    """

    def __init__(self, hub_peer_id: str, is_member: Callable[[str], bool], now: Callable[[], float]) -> None:
        self._hub_peer_id = hub_peer_id
        self._is_member = is_member
        self._now = now
        self._pending: OrderedDict[UUID, Join] = OrderedDict()
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self._strangers_failures: deque[float] = deque(maxlen=STRANGERS_FAILED_PROOFS)

    def challenge(self, peer_id: str, request: JoinRequest) -> JoinChallenge:
        """First step of joining.

        Raises:
            InvalidRequest: a version of the protocol that is not spoken here.
            TooManyRequests: too many wrong proofs before this.
        """
        if request.protocol_version not in (PROTOCOL_VERSION, PROTOCOL_VERSION - 1):
            raise InvalidRequest(
                f"the node speaks protocol {request.protocol_version}, this hub {PROTOCOL_VERSION}",
                hint="Update the older of the two.",
            )
        self._check_failures(peer_id)
        while len(self._pending) >= PENDING_JOINS:
            self._pending.popitem(last=False)
        join_id, hub_nonce = uuid4(), generate_nonce()
        self._pending[join_id] = Join(peer_id, request, hub_nonce, self._now() + JOIN_SECONDS)
        return JoinChallenge(join_id=join_id, hub_nonce=hub_nonce)

    def take(self, peer_id: str, join_id: UUID) -> tuple[Join, Transcript]:
        """The attempt that a registration belongs to. Each is good for one registration.

        Raises:
            JoinRefused: there is none.
            TooManyRequests: too many wrong proofs before this.
        """
        self._check_failures(peer_id)
        join = self._pending.get(join_id)
        if join is not None and join.peer_id == peer_id:
            del self._pending[join_id]
        if join is None or join.peer_id != peer_id or join.until < self._now():
            raise JoinRefused("this challenge is unknown, used or too old", hint="Start joining again.")
        return join, Transcript(
            node_nonce=join.request.node_nonce,
            hub_nonce=join.hub_nonce,
            node_peer_id=peer_id,
            hub_peer_id=self._hub_peer_id,
            cluster_name=join.request.cluster_name,
        )

    def prove(
        self, join: Join, transcript: Transcript, registration: RegisterCluster, keys: tuple[bytes, ...]
    ) -> Proved:
        """Check the proof of one of ``keys``, those the node may mean.

        Raises:
            JoinRefused: the proof is wrong, or the signature of the key before.
        """
        peer_id = join.peer_id
        key = next((key for key in keys if verify(registration.node_proof, node_proof(key, transcript))), None)
        if key is None:
            self._failures.setdefault(peer_id, []).append(self._now())
            if not self._is_member(peer_id):
                self._strangers_failures.append(self._now())
            log.warning("join refused: wrong federation password", cluster=join.request.cluster_name, peer_id=peer_id)
            raise JoinRefused(
                "invalid federation password",
                hint="SYNDB_FEDERATION_PASSWORD (or federation.password) of the node must equal the hub's exactly, "
                "or be an invitation of this hub.",
            )
        self._failures.pop(peer_id, None)
        succession = registration.succession
        if succession is not None and not is_signed_by(
            succession.previous_peer_id, succession.signature, succession_statement(transcript)
        ):
            raise JoinRefused(
                "the signature of the node's previous key is wrong", hint="Rotate the key again at the node."
            )
        return Proved(
            peer_id,
            join.request.cluster_name,
            join.request.protocol_version,
            transcript,
            key,
            None if succession is None else succession.previous_peer_id,
        )

    def _check_failures(self, peer_id: str) -> None:
        minute_ago = self._now() - MINUTE
        recent = [at for at in self._failures.get(peer_id, ()) if at > minute_ago]
        strangers = self._strangers_failures
        flooded = len(strangers) == STRANGERS_FAILED_PROOFS and strangers[0] > minute_ago
        if len(recent) >= FAILED_PROOFS or (flooded and not self._is_member(peer_id)):
            raise TooManyRequests("too many wrong proofs", hint="Wait a minute, and check the federation password.")
        if recent:
            self._failures[peer_id] = recent
            self._failures.move_to_end(peer_id)
        else:
            self._failures.pop(peer_id, None)
        while len(self._failures) > PENDING_JOINS:
            self._failures.popitem(last=False)
