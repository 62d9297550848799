"""The certificate of a Flight server: self-signed, made on first start, pinned by whoever connects."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from syndb_common.errors import ConfigError
from syndb_common.flight.settings import TLS_NAME
from syndb_common.settings import write_private

VALID_DAYS = 3650
"""Pinned and exchanged by join messages, it is replaced with the node's key, not by the calendar."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Certificate and key, both PEM. The key never shows."""

    certificate: str
    key: str = field(repr=False)


def ensure_certificate(folder: Path) -> Certificate:
    """The certificate in ``folder``; made there first when there is none.

    Raises:
        ConfigError: only one of the two files is there, or they cannot be read.
    """
    certificate, key = folder / "flight.crt", folder / "flight.key"
    try:
        if not certificate.exists() and not key.exists():
            _make(folder)
        return Certificate(certificate.read_text(encoding="ascii"), key.read_text(encoding="ascii"))
    except OSError as error:
        raise ConfigError(
            f"the Flight certificate in {folder} cannot be used: {error.strerror}",
            hint="flight.crt and flight.key belong together; remove both to have new ones made",
        ) from None


def _make(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, TLS_NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(TLS_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(folder / "flight.key", pem)
    write_private(folder / "flight.crt", certificate.public_bytes(serialization.Encoding.PEM))
