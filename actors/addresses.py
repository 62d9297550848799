"""Which of the addresses a node announces the hub may dial.

A node says where it can be reached, and could as well name a machine in the hub's own network. So the hub dials only

- IP addresses from which the node's own connection came when it joined; if that is one of the hub's machine, all
  addresses of this machine, loopback included;
- IP addresses and networks the operator approved, for all nodes or for this one; but of the hub's own machine only
  addresses approved one by one, since a network is meant for machines elsewhere;
- host names the operator approved for this node, and those of which every address is approved as above.

Everything else is refused, and so is what cannot be read with certainty. Names are looked up before
(:func:`look_up`) and what is dialled is the address found, so that a name cannot be pointed elsewhere afterwards.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import ifaddr
import trio

from syndb_common.errors import InvalidRequest
from syndb_common.messages import Endpoints

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str], Awaitable[tuple[Address, ...]]]

LOOK_UP_SECONDS = 5.0
"""A name server that answers at all answers within two; the node is dialled elsewhere, or not, until then."""
MAX_DIALLED = 16
"""Addresses dialled of one node, as many as it may announce: a name with many addresses adds no more."""

LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

_PORT = re.compile(r"[1-9][0-9]{0,4}")
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*")
_NUMERIC = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
"""Names that some resolvers take for IPv4 addresses in odd spellings: ``127.1``, ``0x7f000001``."""
_FLIGHT = re.compile(r"grpc\+tls://(\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]/]*)):(?P<port>[0-9]+)")
_LOOKING_UP = trio.Semaphore(8)
_THREADS = trio.CapacityLimiter(64)
"""A look-up that missed its deadline keeps its thread until the system gives up."""


@dataclass(frozen=True, slots=True)
class Approval:
    """What the hub may dial: one node's, or with :meth:`of` what is approved for all.

    Attributes:
        networks: of IP addresses, single ones as networks of one.
        names: host names, in lower case.
        relays: multiaddrs of relays ending in ``/p2p/`` and a PeerId; nodes may be reached through these.
        own: addresses of the hub's machine.
    """

    networks: tuple[Network, ...] = ()
    names: frozenset[str] = frozenset()
    relays: tuple[str, ...] = ()
    own: frozenset[Address] = frozenset()

    @classmethod
    def of(cls, hosts: Iterable[str], relays: Iterable[str] = ()) -> Approval:
        """Read IP addresses, networks (CIDR) and host names as an operator writes them.

        Raises:
            InvalidRequest: one of them is none of these.
        """
        networks: list[Network] = []
        names: list[str] = []
        for text in hosts:
            network, name = _network(text.strip()), _name(text.strip())
            if network is not None:
                networks.append(network)
            elif name is not None:
                names.append(name)
            else:
                raise InvalidRequest(
                    f"{text[:300]!r} is no IP address, network or host name",
                    hint="for instance 192.0.2.7, 192.0.2.0/24, 2001:db8::/64 or node.lab.example",
                )
        return cls(tuple(networks), frozenset(names), tuple(relays))

    def observed(self, hosts: Iterable[str], own: Collection[Address]) -> Approval:
        """And what follows from the addresses a node's connection comes from; ``own`` are those of this machine."""
        networks: list[Network] = []
        for host in hosts:
            if (address := _address(host)) is not None:
                networks.append(_single(address))
                if is_own(host, own):
                    networks += [*LOOPBACK, *map(_single, own)]
        return replace(self, networks=(*self.networks, *networks), own=self.own | frozenset(own))

    def __or__(self, other: Approval) -> Approval:
        return Approval(
            (*self.networks, *other.networks),
            self.names | other.names,
            (*self.relays, *other.relays),
            self.own | other.own,
        )

    def objection(self, address: Address) -> str:
        """Why this address may not be dialled; empty if it may."""
        if any(place.is_unspecified or place.is_multicast or place == _BROADCAST for place in _meant(address)):
            return f"{address} is no address of one machine"
        local = self.is_local(address)
        covering = [network for network in self.networks if address in network]
        # A wide network is meant for machines elsewhere: what is local has to be named.
        if any(not local or _is_local(network) or network.num_addresses == 1 for network in covering):
            return ""
        if covering:
            return f"{address} may be of the hub's own machine, and is not approved by itself"
        return f"{address} is neither where its connection comes from nor approved"

    def is_local(self, address: Address) -> bool:
        """Whether it means the hub's machine, or another one on each line."""
        return any(_is_local(place) or place in self.own for place in _meant(address))


@dataclass(frozen=True, slots=True)
class Dialled:
    """Of the announced endpoints those to dial, and each refused one with the reason after a colon.

    ``unresolved`` are those of ``refused`` whose host name has no address: approving something does not help there.
    """

    endpoints: Endpoints
    refused: tuple[str, ...] = ()
    unresolved: tuple[str, ...] = ()


class _Refused(Exception):
    """Why an address is not dialled."""


class _Unresolved(_Refused):
    """Its host name has no address."""


def names(endpoints: Endpoints) -> frozenset[str]:
    """The host names to look up before :func:`approved` can judge these endpoints."""
    found = set()
    for text in endpoints.multiaddrs:
        parts = text.split("/")
        if len(parts) > 2 and parts[1] in _NAMED and "p2p-circuit" not in parts:
            found.add(_name(parts[2]))
    if (location := _FLIGHT.fullmatch(endpoints.flight)) is not None and location["host"] is not None:
        found.add(_name(location["host"]))
    return frozenset(name for name in found if name is not None and name != "localhost")


def approved(
    endpoints: Endpoints, approval: Approval, *, peer_id: str, resolved: Mapping[str, Collection[Address]]
) -> Dialled:
    """Which of a node's endpoints to dial.

    Args:
        endpoints: as the node announced them.
        approval: what may be dialled of this node.
        peer_id: the node's; a multiaddr that names another peer is refused.
        resolved: the addresses of every name of :func:`names`; one without addresses is refused.
    """
    multiaddrs: dict[str, None] = {}
    refused: dict[str, _Refused] = {}
    for text in endpoints.multiaddrs:
        try:
            multiaddrs |= dict.fromkeys(_multiaddr(text, approval, peer_id, resolved))
        except _Refused as why:
            refused[f"{text}: {why}"] = why
    flight = ""
    if endpoints.flight:
        try:
            flight = _location(endpoints.flight, approval, resolved)
        except _Refused as why:
            refused[f"{endpoints.flight}: {why}"] = why
    dialled = Endpoints(
        multiaddrs=tuple(multiaddrs)[:MAX_DIALLED],
        flight=flight,
        flight_certificate=endpoints.flight_certificate if flight else "",
    )
    unresolved = tuple(text for text, why in refused.items() if isinstance(why, _Unresolved))
    return Dialled(dialled, tuple(refused), unresolved)


async def look_up(name: str) -> tuple[Address, ...]:
    """Every address of a host name; none when it has none or the name server does not answer in time."""
    ask = partial(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)
    async with _LOOKING_UP:
        with trio.move_on_after(LOOK_UP_SECONDS):
            try:
                found = await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=_THREADS)
            except (OSError, UnicodeError):
                return ()
            addresses = [_address(str(place[0])) for *_, place in found]
            # One that cannot be read is one that is not approved: then none of the name is.
            return () if None in addresses else tuple(dict.fromkeys(a for a in addresses if a is not None))
    return ()


def is_own(host: str, own: Collection[Address]) -> bool:
    """Whether an IP address is one of this machine, whose interfaces have the addresses ``own``."""
    address = _address(host)
    return address is not None and (address.is_loopback or address in own)


def machine_addresses() -> frozenset[Address]:
    """The addresses of this machine's interfaces."""
    found = (ip.ip if isinstance(ip.ip, str) else ip.ip[0] for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    return frozenset(address for text in found if (address := _address(text)) is not None)


_BROADCAST = IPv4Address("255.255.255.255")
_NAMED = {"dns": (4, 6), "dns4": (4,), "dns6": (6,)}
_LITERAL = {"ip4": 4, "ip6": 6}


def _multiaddr(text: str, approval: Approval, peer_id: str, resolved: Mapping[str, Collection[Address]]) -> list[str]:
    """What to dial for one announced multiaddr: itself, or one for each address of its name."""
    head, circuit, tail = text.partition("/p2p-circuit")
    if circuit:
        return _through_relay(head, tail, approval, peer_id)
    place, named, peer = text.partition("/p2p/")
    if named and peer != peer_id:
        raise _Refused("it names another peer")
    match place.split("/"):
        case ["", family, host, "udp" as transport, port, "quic-v1"]:
            rest = f"/{transport}/{_port(port)}/quic-v1{named}{peer}"
        case ["", family, host, "tcp" as transport, port]:
            rest = f"/{transport}/{_port(port)}{named}{peer}"
        case ["", "dnsaddr", *_]:
            raise _Refused("dnsaddr is not dialled; announce dns4 or dns6")
        case _:
            raise _Refused("only QUIC and TCP on an IP address or a host name are dialled")
    if family in _LITERAL:
        address = _address(host)
        # An IPv4 address in IPv6 form is what it is in IPv4.
        if address is None or (family == "ip4" and ":" in host) or (family == "ip6" and ":" not in host):
            raise _Refused(f"{host!r} is no IP address")
        return [f"{_judged(address, approval)}{rest}"]
    if family in _NAMED:
        found = [a for a in _addresses(host, approval, resolved) if a.version in _NAMED[family]]
        if not found:
            raise _Refused(f"{host} has no address of that kind")
        return [f"{_prefix(address)}{rest}" for address in found]
    raise _Refused("only QUIC and TCP on an IP address or a host name are dialled")


def _through_relay(head: str, tail: str, approval: Approval, peer_id: str) -> list[str]:
    """The ways through a relay, if the operator configured it: over the addresses configured, not those announced."""
    if tail not in ("", f"/p2p/{peer_id}"):
        raise _Refused("it names another peer")
    relay = head.rpartition("/p2p/")[2]
    found = [f"{text}/p2p-circuit/p2p/{peer_id}" for text in approval.relays if text.endswith(f"/p2p/{relay}")]
    if not found:
        raise _Refused("this relay is not configured")
    return found


def _location(text: str, approval: Approval, resolved: Mapping[str, Collection[Address]]) -> str:
    location = _FLIGHT.fullmatch(text)
    if location is None:
        raise _Refused("a Flight location is grpc+tls://host:port")
    port = _port(location["port"])
    literal = _address(location["v6"] if location["v6"] is not None else location["host"])
    if literal is not None:
        _judged(literal, approval)
    elif location["v6"] is not None:
        raise _Refused(f"{location['v6']!r} is no IP address")
    else:
        # Servers listen on IPv4 unless told otherwise, so that comes first.
        literal = min(_addresses(location["host"], approval, resolved), key=lambda address: address.version)
    return f"grpc+tls://[{literal}]:{port}" if literal.version == 6 else f"grpc+tls://{literal}:{port}"


def _addresses(host: str, approval: Approval, resolved: Mapping[str, Collection[Address]]) -> Collection[Address]:
    """All addresses of a name, if all may be dialled."""
    name = _name(host)
    if name is None:
        raise _Refused(f"{host!r} is no host name")
    found = _LOCALHOST if name == "localhost" else resolved.get(name, ())
    if not found:
        raise _Unresolved(f"{name} is not resolved: the hub's name server gives no address")
    if name in approval.names:
        # Whoever manages the name must not lead the hub to the hub's own machine with it.
        elsewhere = tuple(_single(address) for address in found if not approval.is_local(address))
        approval = replace(approval, networks=(*approval.networks, *elsewhere))
    for address in found:
        _judged(address, approval)
    return found


_LOCALHOST = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


def _judged(address: Address, approval: Approval) -> str:
    if objection := approval.objection(address):
        raise _Refused(objection)
    return _prefix(address)


def _is_local(place: Address | Network) -> bool:
    return place.is_loopback or place.is_link_local


def _meant(address: Address) -> tuple[Address, ...]:
    """The address, and the IPv4 addresses in it to which a gateway (NAT64, 6to4, Teredo) may send what is for it."""
    if address.version == 4:
        return (address,)
    found: list[Address] = [address]
    if any(address in network for network in _TRANSLATED) and int(address) > 1:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found += address.teredo
    return tuple(found)


_TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))
"""Prefixes before an IPv4 address: of NAT64, of NAT64 within a site, and of IPv4-compatible addresses."""


def _prefix(address: Address) -> str:
    return f"/ip{address.version}/{address}"


def _port(text: str) -> int:
    if _PORT.fullmatch(text) is None or int(text) > 65535:
        raise _Refused("a port is a number from 1 to 65535")
    return int(text)


def _address(text: str) -> Address | None:
    """An IP address in its plain spelling; IPv4 in IPv6 form is IPv4. None for zones, padding and all else."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return None if address.scope_id else address.ipv4_mapped or address
    return address


def _network(text: str) -> Network | None:
    if (address := _address(text)) is not None:
        return _single(address)
    try:
        return None if "%" in text else ip_network(text)
    except ValueError:
        return None


def _single(address: Address) -> Network:
    return ip_network((address, address.max_prefixlen))


def _name(text: str) -> str | None:
    """A host name in lower case, without the dot at its end; None for what is none."""
    name = text.lower().removesuffix(".")
    if _NAME.fullmatch(name) is None or _NUMERIC.fullmatch(name) is not None:
        return None
    return name
