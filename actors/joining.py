"""One attempt of a node to join its hub, whatever carries the messages.

The node proves the federation password first, and only to a hub whose PeerId it has pinned; then it checks the hub's
proof (:mod:`actors.remote.proof`). Over libp2p the connection proves both PeerIds, over HTTP signatures do
(:mod:`actors.http_joining`). The daemon tries this again and again (:mod:`actors.cluster`), a command once.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from actors.remote.identity import Identity
from actors.remote.proof import (
    Transcript,
    derive_key,
    generate_nonce,
    hub_proof,
    key_id,
    node_proof,
    succession_statement,
    verify,
)
from actors.runtime import ActorRef
from syndb_common.errors import InvalidRequest, JoinRefused
from syndb_common.messages import (
    PROTOCOL_VERSION,
    Endpoints,
    JoinChallenge,
    JoinRequest,
    RegisterCluster,
    Registered,
    Succession,
)

ASK_SECONDS = 10.0
"""Deadline of one step of joining."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a node says of itself when it joins; ``name`` is its name in the federation."""

    name: str
    institution: str = ""
    description: str = ""
    contact_email: str = ""
    software: str = ""


class FederationSecret:
    """The federation password, or the secret of an invitation, and the key it gives with each hub."""

    def __init__(self, password: SecretStr) -> None:
        self._password = password
        self._keys: dict[str, bytes] = {}

    def replace(self, password: SecretStr) -> None:
        """Prove another one from now on."""
        if password != self._password:
            self._password, self._keys = password, {}

    async def key(self, hub_peer_id: str) -> bytes:
        """The key to prove to this hub; a password is stretched once for each, which takes a moment.

        Raises:
            ConfigError: the password is empty or too long.
        """
        if hub_peer_id not in self._keys:
            password, keys = self._password, self._keys
            keys[hub_peer_id] = await derive_key(password.get_secret_value(), hub_peer_id)
            return keys[hub_peer_id]  # of the password that counted when it was asked for
        return self._keys[hub_peer_id]


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """Everything a node has to say in one attempt.

    Attributes:
        predecessor: the key the node had before, when it joins with another one for the first time.
    """

    membership: Membership
    identity: Identity
    endpoints: Endpoints
    schema_version: int
    predecessor: Identity | None = None


class Attempt:
    """One attempt: its nonces, its messages, its checks.

    Args:
        application: what the node says.
        hub_peer_id: the pinned hub that is asked.
        key: what :class:`FederationSecret` gives for that hub.
    """

    def __init__(self, application: Application, hub_peer_id: str, key: bytes) -> None:
        self._application = application
        self._hub_peer_id = hub_peer_id
        self._key = key
        self._node_nonce = generate_nonce()
        self._transcript: Transcript | None = None

    def request(self, protocol_version: int = PROTOCOL_VERSION) -> JoinRequest:
        """The first message."""
        return JoinRequest(
            cluster_name=self._application.membership.name,
            node_nonce=self._node_nonce,
            key_id=key_id(self._key),
            protocol_version=protocol_version,
        )

    def challenged(self, challenge: JoinChallenge) -> Transcript:
        """The hub has answered: what both sides prove is known."""
        self._transcript = Transcript(
            node_nonce=self._node_nonce,
            hub_nonce=challenge.hub_nonce,
            node_peer_id=self._application.identity.peer_id,
            hub_peer_id=self._hub_peer_id,
            cluster_name=self._application.membership.name,
        )
        return self._transcript

    def registration(self, challenge: JoinChallenge) -> RegisterCluster:
        """The second message, which answers the hub's challenge."""
        application, me = self._application, self._application.membership
        transcript = self.challenged(challenge)
        succession = None
        if application.predecessor is not None:
            succession = Succession(
                previous_peer_id=application.predecessor.peer_id,
                signature=application.predecessor.sign(succession_statement(transcript)),
            )
        return RegisterCluster(
            join_id=challenge.join_id,
            node_proof=node_proof(self._key, transcript),
            endpoints=application.endpoints,
            succession=succession,
            schema_version=application.schema_version,
            institution=me.institution,
            description=me.description,
            contact_email=me.contact_email,
            software=me.software,
        )

    @property
    def transcript(self) -> Transcript:
        """What both sides prove; known from :meth:`challenged` on."""
        if self._transcript is None:
            raise RuntimeError("there is no transcript before the hub's challenge")
        return self._transcript

    def check(self, registered: Registered) -> None:
        """Believe the hub's acceptance only if it proves the secret too.

        Raises:
            JoinRefused: it does not.
        """
        if not verify(registered.hub_proof, hub_proof(self._key, self.transcript)):
            raise JoinRefused(
                "the hub did not prove the federation password",
                hint="Check federation.hub_peer_id and the password with the hub's operator.",
            )


async def join(hub: ActorRef, hub_peer_id: str, key: bytes, application: Application) -> Registered:
    """Join by the messages of libp2p's connection.

    Args:
        hub: answers messages at the pinned hub, and nobody else does: the connection proves it.
        hub_peer_id: its PeerId.
        key: what :class:`FederationSecret` gives for it.
        application: what the node says.

    Raises:
        JoinRefused: the password, the name or the hub's proof is not what it should be.
        SynDBError: the hub could not be asked, or what it answered.
    """
    attempt = Attempt(application, hub_peer_id, key)
    try:
        challenge: JoinChallenge = await hub.ask(attempt.request(), timeout=ASK_SECONDS)
    except InvalidRequest as refused:
        # A hub of the version before refuses to hear of ours.
        try:
            challenge = await hub.ask(attempt.request(PROTOCOL_VERSION - 1), timeout=ASK_SECONDS)
        except InvalidRequest:
            raise refused from None
    registered: Registered = await hub.ask(attempt.registration(challenge), timeout=ASK_SECONDS)
    attempt.check(registered)
    return registered
