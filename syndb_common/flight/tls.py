"""The certificate of a Flight server: self-signed, made on first start, pinned by whoever connects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from syndb_common.errors import ConfigError
from syndb_common.flight.settings import TLS_NAME, FlightSettings
from syndb_common.settings import write_private

VALID_DAYS = 3650
"""Pinned and exchanged by join messages, it is replaced with the node's key, not by the calendar."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Certificate and key, both PEM. The key never shows."""

    certificate: str
    key: str = field(repr=False)

    @property
    def pinned(self) -> str:
        """The certificate without those of its issuers, which nobody has to trust who knows itself."""
        read = x509.load_pem_x509_certificate(self.certificate.encode())
        return read.public_bytes(serialization.Encoding.PEM).decode("ascii")


def certificate_of(settings: FlightSettings) -> Certificate:
    """The operator's own certificate, or the one that is made on first start.

    Raises:
        ConfigError: it cannot be read, or certificate and key do not belong together.
    """
    if settings.certificate is None or settings.key is None:
        return ensure_certificate(settings.certificate_folder, names=[settings.advertise])
    try:
        certificate, key = (path.read_text(encoding="ascii") for path in (settings.certificate, settings.key))
        public = x509.load_pem_x509_certificate(certificate.encode()).public_key()
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except OSError as error:
        raise ConfigError(f"flight.certificate: {error.filename}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"flight.certificate: {str(error)[:200]}", hint="both files are PEM; the key has no password"
        ) from None
    if _public(public) != _public(private.public_key()):
        raise ConfigError("flight.key is not the key of flight.certificate")
    return Certificate(certificate, key)


def server_name(certificate: str) -> str:
    """A name that a pinned certificate is valid for. Pinning is what counts: any of its names will do.

    Raises:
        ConfigError: it is no certificate.
    """
    try:
        read = x509.load_pem_x509_certificate(certificate.encode())
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except ValueError:
        raise ConfigError("this is not a certificate in PEM") from None
    except x509.ExtensionNotFound:
        return TLS_NAME
    texts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return TLS_NAME if TLS_NAME in texts or not texts else texts[0].replace("*", TLS_NAME, 1)


def fingerprint(certificate: str) -> str:
    """SHA-256 of a certificate, hexadecimal, as browsers and openssl show it, without colons."""
    return x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256()).hex()


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def ensure_certificate(folder: Path, *, names: Sequence[str] = ()) -> Certificate:
    """The certificate in ``folder``; made there first when there is none, valid for ``names`` and this machine too.

    Raises:
        ConfigError: only one of the two files is there, or they cannot be read.
    """
    certificate, key = folder / "flight.crt", folder / "flight.key"
    try:
        if not certificate.exists() and not key.exists():
            _make(folder, names)
        return Certificate(certificate.read_text(encoding="ascii"), key.read_text(encoding="ascii"))
    except OSError as error:
        raise ConfigError(
            f"the Flight certificate in {folder} cannot be used: {error.strerror}",
            hint="flight.crt and flight.key belong together; remove both to have new ones made",
        ) from None


def _make(folder: Path, names: Sequence[str]) -> None:
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
        .add_extension(x509.SubjectAlternativeName(list(_names(names))), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(folder / "flight.key", pem)
    write_private(folder / "flight.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _names(advertised: Sequence[str]) -> Iterator[x509.GeneralName]:
    """Names that other clients than ours may check: they know the server by its address."""
    yield x509.DNSName(TLS_NAME)
    hosts = {urlsplit(f"//{each}").hostname or "" for each in advertised}
    for host in sorted({"localhost", "127.0.0.1", "::1", *hosts} - {"", TLS_NAME}):
        try:
            yield x509.IPAddress(ip_address(host))
        except ValueError:
            yield x509.DNSName(host)
