"""Where a daemon says it can be reached: a record under a name, signed with the key behind its PeerId.

Anybody can claim a name. A record is therefore found by name *and* PeerId, and one that the key behind that PeerId has
not signed is none::

    key     /syndb/<name>/<PeerId>, for instance /syndb/syndb-hub/12D3KooW...
    value   msgpack [payload, signature]
    payload msgpack {name, peer_id, addresses, sequence, issued, expires}

The signature is Ed25519 over ``syndb-record-1``, a line feed and the payload as it stands, so that nobody has to agree
on how msgpack is written. Of several records the one with the highest sequence counts. A sequence is the time in
milliseconds, and never goes back, whatever the clock does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgpack

from actors.remote.identity import Identity, is_peer_id, is_signed_by
from actors.remote.multiaddrs import MAX_ADDRESS_CHARACTERS, split_peer
from syndb_common.settings import write_private

HUB = "syndb-hub"
MAX_RECORD_BYTES = 4096
MAX_ADDRESSES = 16
LIFETIME_SECONDS = 24 * 3600
"""From one publication; it is repeated long before."""

MAX_LIFETIME_SECONDS = 48 * 3600
MAX_CLOCK_SKEW_SECONDS = 300
"""How far in the future a record may have been issued."""

_DOMAIN = b"syndb-record-1\n"
_NAME = re.compile(r"syndb-hub|syndb-cluster:[a-z0-9][a-z0-9-]{0,62}")
_FIELDS = {"name", "peer_id", "addresses", "sequence", "issued", "expires"}
_SIGNATURE_BYTES = 64


class RecordRefused(ValueError):
    """The record is malformed, too large, expired, from the future, not signed by its PeerId, or under a false key."""


def cluster(name: str) -> str:
    """The name under which a node of the federation is found."""
    return f"syndb-cluster:{name}"


def key_of(name: str, peer_id: str) -> str:
    """The key under which a record is kept."""
    return f"/syndb/{name}/{peer_id}"


@dataclass(frozen=True, slots=True)
class Record:
    """A checked record.

    Attributes:
        issued: seconds since 1970, as are ``expires``.
        encoded: what travels.
    """

    name: str
    peer_id: str
    addresses: tuple[str, ...]
    sequence: int
    issued: int
    expires: int
    encoded: bytes

    @property
    def key(self) -> str:
        """The key under which it is kept."""
        return key_of(self.name, self.peer_id)


def sign(identity: Identity, name: str, addresses: Sequence[str], *, sequence: int, now: float | None = None) -> Record:
    """A record of our own. Of many addresses the first count, as far as they fit.

    Raises:
        RecordRefused: the name is none.
    """
    issued = int(time.time() if now is None else now)
    kept = [address for address in addresses if _leads_to(address, identity.peer_id)][:MAX_ADDRESSES]
    while True:
        payload = msgpack.packb(
            {
                "name": name,
                "peer_id": identity.peer_id,
                "addresses": kept,
                "sequence": sequence,
                "issued": issued,
                "expires": issued + LIFETIME_SECONDS,
            }
        )
        encoded = msgpack.packb([payload, identity.sign(_DOMAIN + payload)])
        if len(encoded) <= MAX_RECORD_BYTES or not kept:
            return read(encoded, now=issued)
        kept.pop()


def check(key: str, encoded: bytes, *, now: float | None = None) -> Record:
    """Read a record that came under ``key``, from whomever.

    Raises:
        RecordRefused: it does not count; says why.
    """
    record = read(encoded, now=now)
    if record.key != key:
        raise RecordRefused("its name and PeerId are not those of its key")
    return record


def read(encoded: bytes, *, now: float | None = None) -> Record:
    """Read a record that says itself what its key is.

    Raises:
        RecordRefused: it does not count; says why.
    """
    moment = time.time() if now is None else now
    if len(encoded) > MAX_RECORD_BYTES:
        raise RecordRefused(f"{len(encoded)} bytes, at most {MAX_RECORD_BYTES}")
    payload, signature = _pair(encoded)
    fields = _unpack(payload)
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
        raise RecordRefused("other fields than a record has")
    record = Record(
        name=_text(fields["name"]),
        peer_id=_text(fields["peer_id"]),
        addresses=_addresses(fields["addresses"]),
        sequence=_number(fields["sequence"]),
        issued=_number(fields["issued"]),
        expires=_number(fields["expires"]),
        encoded=encoded,
    )
    if not _NAME.fullmatch(record.name) or not is_peer_id(record.peer_id):
        raise RecordRefused("no name, or no PeerId")
    if not all(_leads_to(address, record.peer_id) for address in record.addresses):
        raise RecordRefused("an address does not lead to its PeerId")
    if record.issued > moment + MAX_CLOCK_SKEW_SECONDS or record.expires - record.issued > MAX_LIFETIME_SECONDS:
        raise RecordRefused("issued in the future, or valid for too long")
    if record.expires <= moment:
        raise RecordRefused("expired")
    if not is_signed_by(record.peer_id, signature, _DOMAIN + payload):
        raise RecordRefused("not signed by its PeerId")
    return record


def newest(records: Iterable[Record]) -> Record | None:
    """The one that counts."""
    return max(records, key=lambda record: record.sequence, default=None)


class SequenceNumbers:
    """Numbers that grow, also over restarts and when the clock is set back.

    Args:
        path: where the last one is kept; None forgets it with the process.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._last: int | None = None

    def next(self) -> int:
        """The next number, on the disk before it is used. Blocks for the disk.

        Raises:
            OSError: the last one cannot be read.
            ConfigError: this one cannot be written.
        """
        if self._last is None:
            self._last = self._read()
        self._last = max(int(time.time() * 1000), self._last + 1)
        if self._path is not None:
            write_private(self._path, f"{self._last}\n")
        return self._last

    def _read(self) -> int:
        try:
            text = "" if self._path is None else self._path.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return 0
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


def _pair(encoded: bytes) -> tuple[bytes, bytes]:
    parts = _unpack(encoded)
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, bytes) for part in parts):
        raise RecordRefused("not a payload and a signature")
    if len(parts[1]) != _SIGNATURE_BYTES:
        raise RecordRefused("a signature has 64 bytes")
    return parts[0], parts[1]


def _unpack(data: bytes) -> object:
    try:
        # The whole is small, so that its parts are; nesting is bounded by msgpack itself.
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except Exception as error:
        raise RecordRefused("not msgpack") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise RecordRefused("text expected")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise RecordRefused("a number of 63 bits expected")
    return value


def _addresses(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_ADDRESSES:
        raise RecordRefused(f"a list of at most {MAX_ADDRESSES} addresses expected")
    return tuple(_text(address) for address in value)


def _leads_to(address: str, peer_id: str) -> bool:
    return len(address) <= MAX_ADDRESS_CHARACTERS and address.startswith("/") and split_peer(address)[1] == peer_id
