"""Proof of the federation password, both ways, without sending it.

The node proves first, and only to the hub whose PeerId it has pinned; the hub answers with its own proof.
Both are HMAC-SHA256 over the same transcript: a label, the role of the prover, both nonces, both PeerIds and
the cluster name, each with its length in front. The role makes the two proofs differ, so neither can be sent
back as the other; the PeerIds bind it to this connection, so it cannot be relayed; the nonces to this attempt.

A secret made by :func:`generate_secret` carries 256 random bits and is the key itself. A password chosen by a
person is stretched by Argon2id first, because a hub that is not ours but pinned by mistake could otherwise try
passwords against one proof at full speed. Blanks and newlines around a password are removed, since they come
from copying and from files that end in a newline.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import trio

from syndb_common.errors import ConfigError

NONCE_BYTES = 32
MAX_PASSWORD_CHARACTERS = 1024

ARGON2_TIME, ARGON2_MEMORY_KIB, ARGON2_LANES = 3, 64 * 1024, 4
"""The second recommended option of RFC 9106: 64 MiB, for machines whose memory is shared. About 0.1 s."""

_SECRET_PREFIX = "syndb1_"  # noqa: S105 - marks generated secrets, is none
_SECRET = re.compile(_SECRET_PREFIX + r"([A-Za-z0-9_-]{43})")
_LABEL = b"syndb federation proof 1"
_SALT_LABEL = b"syndb federation salt 1"
_KEY_ID_LABEL = b"syndb federation key id 1"
_SUCCESSION_LABEL = b"syndb node succession 1"
_HTTP_LABEL = b"syndb registration over http 2"
_STRETCHING = trio.CapacityLimiter(1)


@dataclass(frozen=True)
class Transcript:
    """What one attempt to join is about; both sides must see the same.

    Attributes:
        node_nonce: 32 bytes chosen by the node.
        hub_nonce: 32 bytes chosen by the hub.
        node_peer_id: the node's PeerId, as the connection's handshake proved it.
        hub_peer_id: the hub's PeerId, as pinned by the node.
        cluster_name: the name the node asks for.
    """

    node_nonce: bytes
    hub_nonce: bytes
    node_peer_id: str
    hub_peer_id: str
    cluster_name: str


def generate_nonce() -> bytes:
    """32 random bytes."""
    return secrets.token_bytes(NONCE_BYTES)


def generate_secret() -> str:
    """A federation password of 256 random bits, recognisable as one."""
    return _SECRET_PREFIX + secrets.token_urlsafe(32)


async def derive_key(password: str, hub_peer_id: str) -> bytes:
    """The 32-byte key behind a federation password. A hub derives it once, at its start.

    Args:
        password: a generated secret or a password chosen by a person; blanks around it are removed.
        hub_peer_id: salts the stretching, so that equal passwords of two federations give different keys.

    Raises:
        ConfigError: the password is empty or longer than 1024 characters.
    """
    password = password.strip()
    if not password or len(password) > MAX_PASSWORD_CHARACTERS:
        raise ConfigError("the federation password is empty or longer than 1024 characters")
    if secret := _SECRET.fullmatch(password):
        return base64.urlsafe_b64decode(secret[1] + "=")
    return await trio.to_thread.run_sync(_stretch, password, hub_peer_id, limiter=_STRETCHING)


def node_proof(key: bytes, transcript: Transcript) -> bytes:
    """The node's proof that it knows the password: 32 bytes."""
    return _proof(key, b"node", transcript)


def hub_proof(key: bytes, transcript: Transcript) -> bytes:
    """The hub's proof that it knows the password: 32 bytes."""
    return _proof(key, b"hub", transcript)


def key_id(key: bytes) -> str:
    """A name for a key, 16 hexadecimal digits, which tells the hub which of its secrets a node means."""
    return hashlib.sha256(_KEY_ID_LABEL + key).hexdigest()[:16]


def succession_statement(transcript: Transcript) -> bytes:
    """What the old key of a node signs to hand its name to the new one, the transcript's ``node_peer_id``."""
    return _framed(_SUCCESSION_LABEL, b"node", transcript)


def http_statement(role: bytes, transcript: Transcript, digest: bytes) -> bytes:
    """What node and hub sign with their keys when the node joins over HTTP.

    There no connection proves the PeerIds of the transcript, nor who sent what, so the keys themselves have to.

    Args:
        role: ``b"challenge"`` for the hub's challenge, ``b"node"`` for the registration, ``b"hub"`` for the acceptance.
        transcript: what they are about.
        digest: :func:`body_digest` of the body that carries the signature.
    """
    return _framed(_HTTP_LABEL, role, transcript, digest)


def body_digest(body: Mapping[str, object]) -> bytes:
    """SHA-256 over a JSON object without its ``signature``, as compact ASCII JSON with sorted keys.

    What a newer peer says and this one does not know counts too.

    Raises:
        ValueError: it holds what JSON cannot express, for instance an infinite number.
    """
    signed = {name: value for name, value in body.items() if name != "signature"}
    text = json.dumps(signed, sort_keys=True, separators=(",", ":"), allow_nan=False, default=json_text)
    return hashlib.sha256(text.encode()).digest()


def json_text(value: object) -> str:
    """What JSON has no word for, as text: bytes as base64."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def verify(presented: bytes, expected: bytes) -> bool:
    """Whether a proof that came from outside is the one computed here, in constant time."""
    return hmac.compare_digest(presented, expected)


def _proof(key: bytes, role: bytes, transcript: Transcript) -> bytes:
    return hmac.digest(key, _framed(_LABEL, role, transcript), "sha256")


def _framed(label: bytes, role: bytes, transcript: Transcript, *more: bytes) -> bytes:
    """All that is proved or signed, each part with its length in front."""
    parts = (
        label,
        role,
        transcript.node_nonce,
        transcript.hub_nonce,
        transcript.node_peer_id.encode(),
        transcript.hub_peer_id.encode(),
        transcript.cluster_name.encode(),
        *more,
    )
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _stretch(password: str, hub_peer_id: str) -> bytes:
    from argon2.low_level import Type, hash_secret_raw

    return hash_secret_raw(
        secret=password.encode(),
        salt=hashlib.sha256(_SALT_LABEL + hub_peer_id.encode()).digest()[:16],
        time_cost=ARGON2_TIME,
        memory_cost=ARGON2_MEMORY_KIB,
        parallelism=ARGON2_LANES,
        hash_len=32,
        type=Type.ID,
    )
