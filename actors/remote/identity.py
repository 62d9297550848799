"""A daemon's identity: one Ed25519 key in one file, and the PeerId that follows from it.

The PeerId is the daemon's name everywhere: it is pinned by nodes, stored by the hub, and proved by every
connection's handshake. Losing the file means joining anew; whoever reads it can speak as the daemon, so it is
created with mode 0600 and refused when group or others may read it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from syndb_common.errors import ConfigError
from syndb_common.settings import write_private

if TYPE_CHECKING:
    from libp2p.crypto.keys import KeyPair

MAX_KEY_FILE_BYTES = 4096

_PEER_ID_PREFIX = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
"""Identity multihash of 36 bytes, holding a protobuf with key type Ed25519 and 32 bytes of key."""

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


_PEER_ID = re.compile(rf"[{_BASE58}]{{46,64}}")


def is_peer_id(text: str) -> bool:
    """Whether ``text`` has the form of a PeerId."""
    return _PEER_ID.fullmatch(text) is not None


def is_signed_by(peer_id: str, signature: bytes, statement: bytes) -> bool:
    """Whether the key behind a PeerId has signed the statement."""
    public = _unbase58(peer_id)
    if not public.startswith(_PEER_ID_PREFIX) or len(public) != len(_PEER_ID_PREFIX) + 32:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public[len(_PEER_ID_PREFIX) :]).verify(signature, statement)
    except InvalidSignature:
        return False
    return True


def made_up_peer_id(number: int) -> str:
    """A PeerId that nobody holds the key of, for simulations; the same for the same number."""
    return _base58(_PEER_ID_PREFIX + hashlib.sha256(f"syndb simulated peer {number}".encode()).digest())


class Identity:
    """An Ed25519 key with its PeerId. The secret appears in no ``repr``, error or log."""

    __slots__ = ("_key", "peer_id")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.peer_id = _base58(_PEER_ID_PREFIX + public)

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    @classmethod
    def generate(cls) -> Identity:
        """A new identity that exists in memory only."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """Load the key at ``path``; create it there, mode 0600, when there is none.

        Of two processes that start at once, both end up with the key of the one that was first.

        Raises:
            ConfigError: the file is not a private Ed25519 key, others may read it, or it cannot be written.
        """
        if not path.exists():
            pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_private(path, pem, replace=False)
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Load the key at ``path``.

        Raises:
            ConfigError: there is no such file, others may read it, or it is not a private Ed25519 key.
        """
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o077:
                    raise ConfigError(
                        f"the key file {path} can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}"
                    )
                pem = file.read(MAX_KEY_FILE_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"cannot read the key file {path}: {error.strerror}") from error
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(
                f"{path} is not an Ed25519 private key",
                hint="restore it from a backup; a new key means a new PeerId, and joining again",
            ) from None
        return cls(key)

    def sign(self, statement: bytes) -> bytes:
        """An Ed25519 signature of 64 bytes."""
        return self._key.sign(statement)

    @property
    def key_pair(self) -> KeyPair:
        """The key as libp2p wants it."""
        from libp2p.crypto.ed25519 import create_new_key_pair

        return create_new_key_pair(self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))


def _base58(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    leading_zeros = len(data) - len(data.lstrip(b"\0"))
    return _BASE58[0] * leading_zeros + "".join(reversed(digits))


def _unbase58(text: str) -> bytes:
    """The bytes behind base58 text; nothing for text that is none."""
    if not is_peer_id(text):
        return b""
    number = 0
    for letter in text:
        number = number * 58 + _BASE58.index(letter)
    leading_zeros = len(text) - len(text.lstrip(_BASE58[0]))
    return b"\0" * leading_zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
