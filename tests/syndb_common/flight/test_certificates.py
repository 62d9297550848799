"""The certificate of a Flight server: made on first start, or the operator's own; pinned by whoever connects."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pyarrow import flight

from syndb_common.errors import ConfigError, InvalidRequest, NotFound, PeerUnavailable
from syndb_common.flight.client import read_table
from syndb_common.flight.settings import FlightServerSettings, FlightSettings
from syndb_common.flight.tls import certificate_of, ensure_certificate, fingerprint, server_name
from syndb_common.settings import validate
from tests.syndb_common.flight.served import served


def _signed(
    name: str, names: list[x509.GeneralName], issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        certificate = certificate.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return certificate.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _own(folder: Path, names: list[x509.GeneralName]) -> tuple[Path, Path, str]:
    """A certificate of an authority, as an operator has one: with its chain. Returns its leaf as well."""
    authority = _signed("An Authority", [], None)
    leaf, key = _signed("node", names, authority)
    folder.mkdir(exist_ok=True)
    certificate_file, key_file = folder / "own.crt", folder / "own.key"
    certificate_file.write_bytes(_pem(leaf) + _pem(authority[0]))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file, _pem(leaf).decode()


def test_the_operators_own_certificate_is_served_and_pinned_without_its_issuer(tmp_path: Path) -> None:
    certificate, key, leaf = _own(tmp_path / "own", [x509.DNSName("*.example.org")])
    with served(tmp_path / "engine", certificate=certificate, key=key) as server:
        assert server.certificate == leaf
        with server.client() as client:
            assert dict(client.list_actions(server.options()))
        other, _, _ = _own(tmp_path / "other", [x509.DNSName("*.example.org")])
        with pytest.raises(PeerUnavailable):
            read_table(_Place(server.location, other.read_text()), seconds=5)
        with pytest.raises(NotFound):
            read_table(_Place(server.location, leaf), seconds=5)
    assert not (tmp_path / "engine" / "flight").exists()


class _Listener(flight.FlightServerBase):  # type: ignore[misc]
    """A Flight server without TLS that notes what it hears."""

    def __init__(self) -> None:
        super().__init__("grpc+tcp://127.0.0.1:0")
        self.heard: list[str] = []

    def do_get(self, context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.RecordBatchStream:
        self.heard.append(f"ticket {ticket.ticket!r}")
        return flight.RecordBatchStream(pa.table({"n": [1]}))


@pytest.mark.parametrize("scheme", ["grpc", "grpc+tcp", "http", "grpc+unix"])
def test_no_client_of_ours_speaks_in_clear_text_whatever_certificate_comes_with_the_address(
    tmp_path: Path, scheme: str
) -> None:
    certificate = ensure_certificate(tmp_path).certificate
    with _Listener() as listener:
        with pytest.raises(InvalidRequest, match="no Flight location"):
            read_table(_Place(f"{scheme}://127.0.0.1:{listener.port}", certificate), seconds=5)
        assert listener.heard == []


class _Place:
    ticket = bytes(32)

    def __init__(self, location: str, certificate: str) -> None:
        self.location = location
        self.certificate = certificate


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ([x509.DNSName("node.example.org"), x509.DNSName("other")], "node.example.org"),
        ([x509.DNSName("*.example.org")], "syndb.example.org"),
        ([x509.DNSName("other"), x509.DNSName("syndb")], "syndb"),
        ([x509.IPAddress(ip_address("192.0.2.1"))], "192.0.2.1"),
        ([], "syndb"),
    ],
)
def test_a_pinned_certificate_is_checked_by_a_name_it_has(names: list[x509.GeneralName], name: str) -> None:
    assert server_name(_pem(_signed("any", names, None)[0]).decode()) == name


def test_what_is_no_certificate_is_said_to_be_none() -> None:
    with pytest.raises(ConfigError):
        server_name("-----BEGIN NONSENSE-----")


def test_the_certificate_that_is_made_is_valid_for_where_the_server_is_reached(tmp_path: Path) -> None:
    settings = FlightSettings("0.0.0.0", 0, tmp_path, advertise="node.example.org:50052")
    made = certificate_of(settings)
    names = x509.load_pem_x509_certificate(made.certificate.encode()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert {"syndb", "localhost", "node.example.org"} <= set(names.value.get_values_for_type(x509.DNSName))
    assert certificate_of(settings) == made
    assert len(fingerprint(made.certificate)) == 64


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    certificate, key, _ = _own(tmp_path, [])
    other_key = _own(tmp_path / "other", [])[1]
    damaged = tmp_path / "damaged"
    damaged.write_text("nothing")
    for first, second, message in (
        (certificate, other_key, "not the key of"),
        (certificate, tmp_path / "missing", "missing"),
        (damaged, key, "flight.certificate"),
        (certificate, damaged, "flight.certificate"),
    ):
        with pytest.raises(ConfigError, match=message):
            certificate_of(FlightSettings("127.0.0.1", 0, tmp_path / "made", certificate=first, key=second))


def test_certificate_and_key_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        validate(FlightServerSettings, {"certificate": "/etc/own.crt"}, "node.toml")


def test_another_client_than_ours_may_check_the_name(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        location = server.location.replace("127.0.0.1", "localhost")
        with flight.connect(location, tls_root_certs=server.certificate) as client:
            assert dict(client.list_actions(server.options()))
        assert ensure_certificate(tmp_path / "flight").pinned == server.certificate
