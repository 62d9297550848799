"""Where the hub dials a node, whatever the node announces."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors import addresses
from actors.addresses import Address, Approval, Dialled, approved, is_own, look_up, machine_addresses, names
from syndb_common.errors import InvalidRequest
from syndb_common.messages import Endpoints

PEER = "12D3KooWBhvxmvKYi1v5RcXC3N3SCMCmdQyPFxZHjbxjKKF7v9rW"
OTHER = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo"
SEEN = "192.0.2.7"
RELAY = f"/ip4/203.0.113.1/udp/4001/quic-v1/p2p/{OTHER}"


def dialled(
    *multiaddrs: str,
    flight: str = "",
    observed: Collection[str] = (SEEN,),
    hosts: Collection[str] = (),
    own: Collection[str] = (),
    relays: Collection[str] = (),
    resolved: Mapping[str, Collection[str]] | None = None,
) -> Dialled:
    """What becomes of announced addresses."""
    approval = Approval.of(hosts, relays).observed(observed, [ip_address(text) for text in own])
    return approved(
        Endpoints(multiaddrs=multiaddrs, flight=flight, flight_certificate="pem"),
        approval,
        peer_id=PEER,
        resolved={name: [ip_address(text) for text in found] for name, found in (resolved or {}).items()},
    )


def test_a_node_is_dialled_where_its_connection_comes_from_on_any_port() -> None:
    found = dialled(f"/ip4/{SEEN}/udp/4001/quic-v1/p2p/{PEER}", f"/ip4/{SEEN}/tcp/7", flight=f"grpc+tls://{SEEN}:50052")
    assert found.endpoints.multiaddrs == (f"/ip4/{SEEN}/udp/4001/quic-v1/p2p/{PEER}", f"/ip4/{SEEN}/tcp/7")
    assert (found.endpoints.flight, found.endpoints.flight_certificate) == (f"grpc+tls://{SEEN}:50052", "pem")
    assert found.refused == ()


def test_what_points_elsewhere_is_refused_with_the_reason() -> None:
    found = dialled(f"/ip4/{SEEN}/tcp/1", "/ip4/10.0.0.1/tcp/22", flight="grpc+tls://10.0.0.2:5432")
    assert found.endpoints.multiaddrs == (f"/ip4/{SEEN}/tcp/1",)
    assert (found.endpoints.flight, found.endpoints.flight_certificate) == ("", "")
    assert [text.split(": ")[0] for text in found.refused] == ["/ip4/10.0.0.1/tcp/22", "grpc+tls://10.0.0.2:5432"]
    assert all("neither where its connection comes from nor approved" in text for text in found.refused)


@pytest.mark.parametrize(
    ("hosts", "address", "accepted"),
    [
        (["10.0.0.1"], "/ip4/10.0.0.1/tcp/1", True),
        (["10.0.0.1"], "/ip4/10.0.0.2/tcp/1", False),
        (["10.0.0.0/24"], "/ip4/10.0.0.200/tcp/1", True),
        (["10.0.0.0/24"], "/ip4/10.0.1.0/tcp/1", False),
        (["2001:db8::/64"], "/ip6/2001:db8::5/tcp/1", True),
        (["2001:DB8:0:0::5"], "/ip6/2001:db8::5/tcp/1", True),
        (["2001:db8::/64"], "/ip6/2001:db8:0:1::5/tcp/1", False),
        (["0.0.0.0/0"], "/ip4/10.1.2.3/tcp/1", True),
        (["0.0.0.0/0"], "/ip4/127.0.0.1/tcp/1", False),
        (["0.0.0.0/0"], "/ip4/169.254.169.254/tcp/80", False),
        (["::/0"], "/ip6/::1/tcp/1", False),
        (["::/0"], "/ip6/fe80::1/tcp/1", False),
        (["127.0.0.0/8"], "/ip4/127.0.0.1/tcp/1", True),
        (["0.0.0.0/0"], "/ip4/0.0.0.0/tcp/1", False),
        (["0.0.0.0/0"], "/ip4/224.0.0.251/udp/5353/quic-v1", False),
        (["0.0.0.0/0"], "/ip4/255.255.255.255/tcp/1", False),
        (["::/0"], "/ip6/::/tcp/1", False),
        (["node.example"], "/ip4/10.0.0.1/tcp/1", False),
    ],
)
def test_the_operator_approves_addresses_and_networks(hosts: list[str], address: str, accepted: bool) -> None:
    assert dialled(address, hosts=hosts).endpoints.multiaddrs == ((address,) if accepted else ())


@pytest.mark.parametrize(("seen", "own"), [("127.0.0.1", []), ("::1", []), ("198.51.100.4", ["198.51.100.4"])])
def test_a_node_on_the_hubs_own_machine_is_dialled_at_all_its_addresses(seen: str, own: list[str]) -> None:
    found = dialled(
        "/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", flight="grpc+tls://localhost:50052", observed=[seen], own=own
    )
    assert found.endpoints.multiaddrs == ("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1")
    assert found.endpoints.flight == "grpc+tls://127.0.0.1:50052"
    for address in own:
        assert dialled(f"/ip4/{address}/tcp/1", observed=["127.0.0.1"], own=own).refused == ()


OWN = ["198.51.100.4", "2001:db8:1::4"]


@pytest.mark.parametrize("address", ["/ip4/198.51.100.4/tcp/22", "/ip6/2001:db8:1::4/tcp/22"])
def test_the_hubs_own_addresses_are_approved_one_by_one_or_not_at_all(address: str) -> None:
    wide = ["0.0.0.0/0", "::/0", "198.51.100.0/24", "198.51.100.4/31", "2001:db8:1::/64"]
    assert dialled(address, own=OWN, hosts=wide).endpoints.multiaddrs == ()
    assert "hub's own machine" in dialled(address, own=OWN, hosts=wide).refused[0]
    assert dialled(address, own=OWN, hosts=[*wide, *OWN]).endpoints.multiaddrs == (address,)
    assert dialled(address, own=OWN, observed=["127.0.0.1"]).endpoints.multiaddrs == (address,)
    assert dialled(address, own=[], hosts=wide).endpoints.multiaddrs == (address,)


@pytest.mark.parametrize("found", [*OWN, "64:ff9b::198.51.100.4", "2002:c633:6404::1", "::198.51.100.4"])
def test_a_name_the_operator_approved_does_not_lead_to_the_hubs_own_addresses(found: str) -> None:
    known: dict[str, Any] = {"hosts": ["node.example", "::/0", "0.0.0.0/0"], "resolved": {"node.example": [found]}}
    announced = "grpc+tls://node.example:22"
    assert dialled(flight=announced, own=OWN, **known).endpoints.flight == ""
    assert dialled(flight=announced, own=[], **known).endpoints.flight != ""


@pytest.mark.parametrize(
    "address",
    [
        "64:ff9b::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b::0.0.0.0",
        "64:ff9b:1::127.0.0.1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "::127.0.0.1",
        "2001:0:7f00:1::",
        "64:ff9b::224.0.0.251",
    ],
)
def test_an_ipv4_address_within_another_is_judged_too(address: str) -> None:
    assert dialled(f"/ip6/{address}/tcp/1", hosts=["::/0"]).endpoints.multiaddrs == ()


def unmapped(address: Address) -> Address:
    """As interfaces spell it."""
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def within(address: IPv4Address) -> st.SearchStrategy[Address]:
    """The address, or one of IPv6 that a gateway sends to it."""
    number = int(address)
    return st.one_of(
        st.just(address),
        st.just(IPv6Address(0xFFFF << 32 | number)),
        st.just(IPv6Address(0x64FF9B << 96 | number)),
        st.integers(0, 2**80 - 1).map(lambda rest: IPv6Address(0x2002 << 112 | number << 80 | rest)),
    )


@given(
    own=st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).map(unmapped)), min_size=1, max_size=3),
    lengths=st.lists(st.integers(0, 127), max_size=4),
    named=st.booleans(),
    data=st.data(),
)
def test_no_network_however_wide_and_no_name_leads_to_the_hubs_machine(
    own: list[Address], lengths: list[int], named: bool, data: st.DataObject
) -> None:
    target = data.draw(st.sampled_from(own))
    spelt = data.draw(within(target)) if isinstance(target, IPv4Address) else target
    plain = unmapped(spelt)
    wide = [str(ip_network((plain, min(length, plain.max_prefixlen - 1)), strict=False)) for length in lengths]
    found = dialled(
        f"/ip{spelt.version}/{spelt}/tcp/22",
        f"/dns{plain.version}/node.example/tcp/22",
        own=[str(address) for address in own],
        observed=[],
        hosts=[*(text for text in wide if not ip_network(text).is_loopback and not ip_network(text).is_link_local)]
        + ["node.example"] * named,
        resolved={"node.example": [str(plain)]},
    )
    assert found.endpoints.multiaddrs == ()


def test_localhost_is_this_machine_and_nobody_elses() -> None:
    for text in ("localhost", "LOCALHOST", "localhost."):
        assert dialled(f"/dns4/{text}/tcp/1", observed=["127.0.0.1"]).endpoints.multiaddrs == ("/ip4/127.0.0.1/tcp/1",)
        assert dialled(f"/dns6/{text}/tcp/1", observed=["127.0.0.1"]).endpoints.multiaddrs == ("/ip6/::1/tcp/1",)
        assert dialled(f"/dns4/{text}/tcp/1").endpoints.multiaddrs == ()
    # A name server has no say in it.
    found = dialled("/dns4/localhost/tcp/1", resolved={"localhost": [SEEN]})
    assert found.endpoints.multiaddrs == ()


@pytest.mark.parametrize(
    "address",
    [
        "/ip6/::ffff:127.0.0.1/tcp/1",
        "/ip6/::ffff:7f00:1/tcp/1",
        "/ip4/127.1/tcp/1",
        "/ip4/0177.0.0.1/tcp/1",
        "/ip4/127.000.000.001/tcp/1",
        "/ip4/2130706433/tcp/1",
        "/ip4/0x7f000001/tcp/1",
        "/dns4/127.0.0.1/tcp/1",
        "/dns4/127.1/tcp/1",
        "/dns4/2130706433/tcp/1",
        "/dns4/0x7f000001/tcp/1",
        "/ip6/fe80::1%eth0/tcp/1",
        "/ip6/127.0.0.1/tcp/1",
        "/ip4/::1/tcp/1",
    ],
)
def test_odd_spellings_of_the_hubs_machine_are_refused(address: str) -> None:
    assert dialled(address, resolved={"127.1": ["127.0.0.1"]}).endpoints.multiaddrs == ()


def test_an_ipv4_address_in_ipv6_form_is_dialled_as_what_it_is() -> None:
    assert dialled(f"/ip6/::ffff:{SEEN}/tcp/1").endpoints.multiaddrs == (f"/ip4/{SEEN}/tcp/1",)
    assert dialled(f"/ip4/{SEEN}/tcp/1", observed=[f"::ffff:{SEEN}"]).endpoints.multiaddrs == (f"/ip4/{SEEN}/tcp/1",)
    assert dialled(flight=f"grpc+tls://[::ffff:{SEEN}]:1").endpoints.flight == f"grpc+tls://{SEEN}:1"


@pytest.mark.parametrize("port", ["0", "65536", "99999", "-1", "080", "+1", "1 ", "", "٣", "1e3"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    assert dialled(f"/ip4/{SEEN}/tcp/{port}").endpoints.multiaddrs == ()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/",
        "nonsense",
        f"/ip4/{SEEN}",
        f"/ip4/{SEEN}/tcp/1/",
        f"/ip4/{SEEN}/tcp/1/ws",
        f"/ip4/{SEEN}/udp/1",
        f"/ip4/{SEEN}/udp/1/quic",
        f"/ip4/{SEEN}/tcp/1/quic-v1",
        f" /ip4/{SEEN}/tcp/1",
        f"/ip4/{SEEN}/tcp/1\n",
        f"/ip4/{SEEN}/tcp/1/ip4/10.0.0.1/tcp/22",
        f"/ip4/{SEEN}/tcp/1/p2p/{PEER}/ip4/10.0.0.1/tcp/22",
        "/unix/tmp/socket",
        "/dnsaddr/node.example",
        f"/ip4/{SEEN}/tcp/1/p2p/{OTHER}",
    ],
)
def test_what_cannot_be_read_with_certainty_is_refused(address: str) -> None:
    found = dialled(address)
    assert (found.endpoints.multiaddrs, len(found.refused)) == ((), 1)


def test_a_name_is_dialled_by_address_if_every_address_of_it_is_approved() -> None:
    announced = "/dns4/node.example/tcp/1"
    assert names(Endpoints(multiaddrs=(announced,), flight="", flight_certificate="")) == {"node.example"}
    assert dialled(announced, resolved={"node.example": [SEEN]}).endpoints.multiaddrs == (f"/ip4/{SEEN}/tcp/1",)
    assert dialled(announced, resolved={"node.example": [SEEN, "10.0.0.1"]}).endpoints.multiaddrs == ()
    assert dialled(announced, resolved={"node.example": [SEEN, "2001:db8::1"]}).endpoints.multiaddrs == ()
    assert dialled(announced, resolved={"node.example": []}).endpoints.multiaddrs == ()
    assert dialled(announced).endpoints.multiaddrs == ()


def test_a_name_the_operator_approved_may_lead_anywhere_but_to_the_hubs_own_machine() -> None:
    announced = {"flight": "grpc+tls://Node.Example.:50052", "hosts": ["node.example"]}
    assert dialled(**announced, resolved={"node.example": ["10.0.0.9"]}).endpoints.flight == "grpc+tls://10.0.0.9:50052"
    for local in ("127.0.0.1", "::1", "169.254.169.254", "0.0.0.0"):
        assert dialled(**announced, resolved={"node.example": [local]}).endpoints.flight == ""
    # Approving the name approves none of its addresses by itself.
    assert (
        dialled("/ip4/10.0.0.9/tcp/1", **announced, resolved={"node.example": ["10.0.0.9"]}).endpoints.multiaddrs == ()
    )


def test_a_name_of_both_kinds_is_dialled_by_the_kind_that_was_announced() -> None:
    known = {"hosts": ["node.example"], "resolved": {"node.example": ["2001:db8::1", SEEN]}}
    assert dialled("/dns4/node.example/tcp/1", **known).endpoints.multiaddrs == (f"/ip4/{SEEN}/tcp/1",)
    assert dialled("/dns6/node.example/tcp/1", **known).endpoints.multiaddrs == ("/ip6/2001:db8::1/tcp/1",)
    assert len(dialled("/dns/node.example/tcp/1", **known).endpoints.multiaddrs) == 2
    assert dialled(flight="grpc+tls://node.example:1", **known).endpoints.flight == f"grpc+tls://{SEEN}:1"


def test_a_relay_is_used_if_it_is_configured_and_at_the_address_configured() -> None:
    through = f"{RELAY}/p2p-circuit/p2p/{PEER}"
    assert dialled(through).endpoints.multiaddrs == ()
    assert dialled(through, relays=[RELAY]).endpoints.multiaddrs == (through,)
    elsewhere = f"/ip4/10.0.0.1/tcp/22/p2p/{OTHER}/p2p-circuit/p2p/{PEER}"
    assert dialled(elsewhere, relays=[RELAY]).endpoints.multiaddrs == (through,)
    assert dialled(f"{RELAY}/p2p-circuit", relays=[RELAY]).endpoints.multiaddrs == (through,)
    for wrong in (f"{RELAY}/p2p-circuit/p2p/{OTHER}", f"/ip4/{SEEN}/tcp/1/p2p-circuit", "/p2p-circuit", "/p2p/"):
        assert dialled(wrong, relays=[RELAY]).endpoints.multiaddrs == ()


def test_a_name_with_many_addresses_is_dialled_at_no_more_than_a_node_may_announce() -> None:
    many = [f"10.0.0.{number}" for number in range(100)]
    found = dialled("/dns4/node.example/tcp/1", hosts=["10.0.0.0/8"], resolved={"node.example": many})
    assert len(found.endpoints.multiaddrs) == addresses.MAX_DIALLED


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1/24", "10.0.0.256", "node example", "http://node", "a..b", "-", "127.1", "fe80::1%eth0"]
)
def test_an_approval_that_is_no_address_network_or_name_is_said(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no IP address, network or host name"):
        Approval.of([text])


ipv4 = st.ip_addresses(v=4)
ipv6 = st.ip_addresses(v=6)
any_address = st.one_of(ipv4, ipv6, st.sampled_from([ip_address("127.0.0.1"), ip_address("::1"), ip_address(SEEN)]))
spelt = any_address.flatmap(
    lambda address: st.sampled_from(
        [
            f"/ip{address.version}/{address}/tcp/1",
            f"/ip{address.version}/{address.exploded}/udp/4001/quic-v1",
            f"/ip6/::ffff:{address}/tcp/1" if address.version == 4 else f"/ip6/{address}/tcp/1",
        ]
    )
)
fragments = st.lists(
    st.sampled_from(
        [
            "/",
            "ip4",
            "ip6",
            "dns4",
            "dnsaddr",
            "tcp",
            "udp",
            "quic-v1",
            "p2p",
            "p2p-circuit",
            "1",
            SEEN,
            "10.0.0.1",
            "127.0.0.1",
            "::1",
            "localhost",
            "node.example",
            PEER,
            OTHER,
            "%",
            "\n",
            " ",
        ]
    ),
    max_size=12,
).map("/".join)
anything = st.one_of(spelt, fragments, fragments.map("/".__add__), st.text(max_size=60))


@given(st.lists(anything, max_size=16), st.lists(any_address, max_size=3), st.lists(any_address, max_size=2))
@example(["/dns4/node.example/tcp/1"], [], [IPv4Address("127.0.0.1")])
def test_nothing_is_dialled_but_approved_addresses_however_they_are_announced(
    announced: list[str], seen: list[Address], found: list[Address]
) -> None:
    network = IPv4Network("203.0.113.0/24")
    result = dialled(
        *announced,
        observed=[str(address) for address in seen],
        hosts=[str(network)],
        resolved={"node.example": [str(address) for address in found]},
    )
    plain = {address.ipv4_mapped or address if isinstance(address, IPv6Address) else address for address in seen}
    local = any(address.is_loopback for address in plain)
    for text in result.endpoints.multiaddrs:
        _, family, host, *_ = text.split("/")
        address = ip_address(host)
        assert family == f"ip{address.version}"
        assert address in plain or address in network or (local and address.is_loopback)
        assert not (address.is_multicast)
        assert not (address.is_unspecified)


hosts = st.one_of(
    any_address.map(lambda address: f"[{address}]" if address.version == 6 else str(address)),
    st.sampled_from(["node.example", "localhost", "127.1", "0x7f.1", "2130706433", "node_1.example", "-"]),
    st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True),
)


@given(hosts, st.integers(0, 70_000), st.lists(any_address, max_size=2))
def test_a_flight_location_leads_to_an_approved_address_or_nowhere(host: str, port: int, found: list[Address]) -> None:
    try:
        announced = Endpoints(multiaddrs=(), flight=f"grpc+tls://{host}:{port}", flight_certificate="pem")
    except ValueError:
        return  # refused before it comes here
    approval = Approval.of([SEEN])
    # A resolver that is as lenient as any: every name leads to what it found.
    result = approved(announced, approval, peer_id=PEER, resolved=dict.fromkeys(names(announced), found))
    assert result.endpoints.flight in ("", f"grpc+tls://{SEEN}:{port}")
    assert bool(result.endpoints.flight) is not bool(result.refused)


@given(st.lists(anything, max_size=16))
def test_every_announced_address_is_dialled_or_refused(announced: list[str]) -> None:
    result = dialled(*announced, hosts=["0.0.0.0/0", "::/0"], relays=[RELAY], resolved={"node.example": [SEEN]})
    assert bool(announced) <= bool(result.endpoints.multiaddrs or result.refused)
    assert all(": " in text for text in result.refused)


@given(st.lists(spelt, max_size=8))
def test_what_is_dialled_is_approved_when_it_is_announced_again(announced: list[str]) -> None:
    known: dict[str, Any] = {"hosts": ["0.0.0.0/0", "::/0"]}
    once = dialled(*announced, **known).endpoints.multiaddrs
    assert dialled(*once, **known).endpoints.multiaddrs == once


async def test_a_name_is_looked_up_beside_the_loop_and_one_that_is_none_has_no_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(name: str, port: object, **kind: object) -> list[tuple[object, ...]]:
        if name != "node.example":
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, 1, 6, "", (SEEN, 0)), (socket.AF_INET6, 1, 6, "", ("2001:db8::1", 0, 0, 0))] * 2

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert await look_up("node.example") == (ip_address(SEEN), ip_address("2001:db8::1"))
    assert await look_up("nobody.example") == ()


async def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    answer = threading.Event()
    monkeypatch.setattr(addresses, "LOOK_UP_SECONDS", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kind: answer.wait(10) and [])
    try:
        assert await look_up("node.example") == ()
    finally:
        answer.set()


async def test_an_address_with_a_zone_makes_its_name_useless(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET6, 1, 6, "", ("fe80::1%eth0", 0, 0, 2)), (socket.AF_INET, 1, 6, "", (SEEN, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kind: found)
    assert await look_up("node.example") == ()


def test_the_machine_knows_its_own_addresses() -> None:
    assert is_own("127.0.0.1", ())
    assert is_own("::ffff:127.0.0.5", ())
    assert all(is_own(str(address), machine_addresses()) for address in machine_addresses())
    assert not is_own("203.0.113.200", machine_addresses())
    assert not is_own("nonsense", machine_addresses())
