"""Addresses as daemons write them: which are worth dialling, and where a daemon that listens everywhere can be reached.

``/ip4/192.0.2.7/udp/4001/quic-v1/p2p/<peer>`` leads straight to a peer, and
``/ip4/192.0.2.9/tcp/4001/p2p/<relay>/p2p-circuit/p2p/<peer>`` through a relay.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence

import ifaddr
import structlog
from multiaddr import Multiaddr

from syndb_common.errors import ConfigError

MAX_ADDRESSES_PER_PEER = 32
"""Addresses of one peer that are dialled; more are not looked at."""

MAX_ADDRESS_CHARACTERS = 512
"""One with two PeerIds and a long host name has about 450."""

CIRCUIT = "/p2p-circuit"

log = structlog.get_logger()


def split_peer(address: str) -> tuple[str, str]:
    """A multiaddr without the PeerId at its end, and that PeerId, empty where none is named."""
    place, separator, peer_id = address.rpartition("/p2p/")
    return (place, peer_id) if separator and "/" not in peer_id else (address, "")


def is_circuit(address: str) -> bool:
    """Whether an address leads through a relay."""
    return CIRCUIT in address


def leads_elsewhere(address: str, *, local_too: bool = False) -> bool:
    """Whether an address that others tell us may be dialled: of another machine, directly or through a relay.

    Loopback, link-local, multicast and reserved addresses are places only whoever is here already can name. So can
    host names be: whoever owns one leads it anywhere.

    Args:
        address: ends in ``/p2p/`` and a PeerId, or does not.
        local_too: loopback is where the others are, as for daemons that are all on one machine.
    """
    match split_peer(address.partition(CIRCUIT)[0])[0].split("/"):
        case ["", "ip4" | "ip6", host, "udp", _, "quic-v1"] | ["", "ip4" | "ip6", host, "tcp", _]:
            try:
                ip = ipaddress.ip_address(host)
            except ValueError:
                return False
            ip = getattr(ip, "ipv4_mapped", None) or ip
            if ip.is_loopback:
                return local_too
            return not (ip.is_link_local or ip.is_unspecified or ip.is_multicast or ip.is_reserved)
    return False


def only_loopback(addresses: Iterable[str]) -> bool:
    """Whether there are addresses, and all are of this machine's loopback."""
    known = tuple(addresses)
    return bool(known) and all(leads_elsewhere(each, local_too=True) and not leads_elsewhere(each) for each in known)


def transport_order(address: str) -> int:
    """QUIC before TCP before relays: the order in which addresses are tried and announced."""
    if is_circuit(address):
        return 2
    return 0 if "/quic-v1" in address else 1


def candidates(peer_id: str, addresses: Sequence[str]) -> list[Multiaddr]:
    """Usable addresses of a peer in the order to try; those that name another peer, or make no sense, are left out."""
    found = []
    for text in sorted(dict.fromkeys(addresses), key=transport_order)[:MAX_ADDRESSES_PER_PEER]:
        place, named = split_peer(text)
        if named in ("", peer_id) and len(text) <= MAX_ADDRESS_CHARACTERS:
            try:
                found.append(Multiaddr(f"{place}/p2p/{peer_id}"))
            except Exception as error:
                log.debug("address_ignored", address=text[:200], why=str(error))
    return found


def parse_listen(text: str) -> Multiaddr:
    """An address to listen on.

    Raises:
        ConfigError: it is no multiaddr.
    """
    try:
        return Multiaddr(text)
    except Exception as error:
        raise ConfigError(
            f"{text[:200]!r} is not a multiaddr", hint="for instance /ip4/0.0.0.0/udp/4001/quic-v1"
        ) from error


def on_real_interfaces(address: str) -> list[str]:
    """``0.0.0.0`` and ``::`` are places to listen, not to dial: one address for each interface instead.

    Loopback stands in only where there is nothing else.
    """
    _, family, host, rest = address.split("/", 3)
    if not ipaddress.ip_address(host).is_unspecified:
        return [address]
    ips = [ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4 == (family == "ip4")]
    real = {ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0]) for ip in ips}
    usable = sorted(str(ip) for ip in real if not (ip.is_link_local or ip.is_loopback))
    loopback = sorted(str(ip) for ip in real if ip.is_loopback)
    return [f"/{family}/{ip}/{rest}" for ip in usable or loopback]


def check_port_is_free(address: Multiaddr) -> None:
    """Fail where another process listens: libp2p would share the port, and two daemons each get half of the packets.

    Raises:
        ConfigError: the port is taken, or the address is none to listen on.
    """
    parts = str(address).split("/")
    if len(parts) < 5 or parts[1] not in ("ip4", "ip6") or parts[3] not in ("udp", "tcp"):
        raise ConfigError(f"cannot listen on {address}", hint="for instance /ip4/0.0.0.0/udp/4001/quic-v1")
    family = socket.AF_INET if parts[1] == "ip4" else socket.AF_INET6
    kind = socket.SOCK_DGRAM if parts[3] == "udp" else socket.SOCK_STREAM
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((parts[2], int(parts[4])))
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {address}: {error}",
                hint="Another daemon may have the port: choose another in federation.listen (FEDERATION_LISTEN_ADDR; "
                "--listen-addr of syndb federation init).",
            ) from error
