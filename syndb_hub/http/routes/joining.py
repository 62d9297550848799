"""Joining in two requests, for nodes whose libp2p cannot reach the hub.

The same challenge and proof as over libp2p, with bytes as base64, and signatures in place of the connection's
handshake: see docs/protocol.md.
"""

from __future__ import annotations

import base64
from functools import partial
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    RootModel,
    Tag,
    model_validator,
)
from pydantic import WithJsonSchema as JsonSchema

from actors.remote.proof import body_digest
from syndb_common.messages import ClusterName, Endpoints, JoinRequest, RegisterCluster, Succession
from syndb_hub.http.operation import Call, Operations

operations = Operations("federation")

BODY_BYTES = 64 * 1024
"""Sixteen of the longest addresses, the longest certificate, and room: what anybody may have parsed."""


def _decode(length: int, value: Any) -> bytes:
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True) if len(value) <= 100 else b""
        except ValueError:
            value = b""
    if not isinstance(value, bytes) or len(value) != length:
        raise ValueError(f"write {length} bytes as base64")
    return value


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()


_text = (PlainSerializer(_encode, return_type=str), JsonSchema({"type": "string", "contentEncoding": "base64"}))
Bytes32 = Annotated[bytes, PlainValidator(partial(_decode, 32)), *_text]
Bytes64 = Annotated[bytes, PlainValidator(partial(_decode, 64)), *_text]
PeerId = Field(max_length=64, pattern=r"^[1-9A-HJ-NP-Za-km-z]{46,64}$")


class _Step(BaseModel):
    """Unknown fields are left alone, as in every message between hub and node: a newer node may send some."""

    model_config = ConfigDict(extra="ignore")


class JoinStep(_Step):
    """First request: the node asks for a challenge."""

    peer_id: str = PeerId
    cluster_name: str = ClusterName
    node_nonce: Bytes32
    key_id: str = Field(default="", pattern=r"^([0-9a-f]{16})?$")
    protocol_version: int = 1


class SuccessionStep(_Step):
    """The old key hands the name over."""

    previous_peer_id: str = PeerId
    signature: Bytes64


class RegisterStep(_Step):
    """Second request: the proof. The node's key signs all of it, also what this hub does not know."""

    _digest: bytes = PrivateAttr(default=b"")

    peer_id: str = PeerId
    join_id: UUID
    node_proof: Bytes32
    signature: Bytes64
    endpoints: Endpoints
    succession: SuccessionStep | None = None
    schema_version: int = Field(ge=0)
    institution: str = Field(default="", max_length=300)
    description: str = Field(default="", max_length=2000)
    contact_email: str = Field(default="", max_length=300)
    software: str = Field(default="", max_length=100)

    @model_validator(mode="wrap")
    @classmethod
    def _digested(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        step = handler(value)
        if isinstance(value, dict):
            step._digest = body_digest(value)
        return step

    @property
    def digest(self) -> bytes:
        """What the signature covers (:func:`actors.remote.proof.body_digest`)."""
        return self._digest


def _step(value: Any) -> str:
    proves = isinstance(value, RegisterStep) or (isinstance(value, dict) and "join_id" in value)
    return "second" if proves else "first"


First = Annotated[JoinStep, Tag("first")]
Second = Annotated[RegisterStep, Tag("second")]


class RegisterBody(RootModel[Annotated[First | Second, Discriminator(_step)]]):
    """One of the two requests; the second names the ``join_id`` that the first was answered with."""


class ChallengeAnswer(BaseModel):
    """Answer to the first request, signed by the hub."""

    join_id: UUID
    hub_nonce: Bytes32
    signature: Bytes64


class RegisteredAnswer(BaseModel):
    """Answer to the second request: the hub has accepted the node and proves itself."""

    cluster_id: UUID
    hub_proof: Bytes32
    schema_version: int
    standing: str
    ping_seconds: float | None
    next_hub_peer_id: str
    signature: Bytes64


class RegisterAnswer(RootModel[ChallengeAnswer | RegisteredAnswer]):
    """Answer to either request."""


@operations.post("/v1/federation/register", right=None, body_bytes=BODY_BYTES)
async def register_cluster(call: Call, body: RegisterBody) -> RegisterAnswer:
    """Join the federation in two requests; no token is needed, since the federation password is proved."""
    client = call.request.state.client
    joining = call.services.joining
    if isinstance(body.root, JoinStep):
        request = JoinRequest(**{name: getattr(body.root, name) for name in JoinRequest.model_fields})
        challenge, signature = await joining.challenge(body.root.peer_id, request, client=client)
        return RegisterAnswer(ChallengeAnswer(**challenge.model_dump(), signature=signature))
    step = body.root
    succession = None
    if step.succession is not None:
        given = step.succession
        succession = Succession(previous_peer_id=given.previous_peer_id, signature=given.signature)
    shared = {name: getattr(step, name) for name in RegisterCluster.model_fields if name != "succession"}
    registration = RegisterCluster(**shared, succession=succession)
    accepted, signature = await joining.register(step.peer_id, registration, step.signature, step.digest, client=client)
    return RegisterAnswer(RegisteredAnswer(**accepted.model_dump(), signature=signature))
