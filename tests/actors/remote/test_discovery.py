import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import ServiceBrowser, ServiceStateChange

from actors.remote.discovery import PeerAddresses, mdns
from actors.remote.discovery.hub import find_hub
from actors.remote.discovery.mdns import MAX_TXT_STRING, _read, _service_info, open_mdns
from actors.remote.discovery.static import configured, configured_peers, through_relays
from actors.remote.identity import Identity
from syndb_common.errors import ConfigError, PeerUnavailable

PEER = Identity.generate().peer_id
LOOPBACK = ("127.0.0.1",)


def test_configured_addresses_are_grouped_by_the_peer_they_name():
    other = Identity.generate().peer_id
    quic, tcp = f"/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{PEER}", f"/dns4/hub.example.org/tcp/4001/p2p/{PEER}"
    elsewhere = f"/ip4/192.0.2.2/tcp/4001/p2p/{other}"
    assert configured_peers([quic, elsewhere, tcp]) == (
        PeerAddresses(PEER, (quic, tcp), "static"),
        PeerAddresses(other, (elsewhere,), "static"),
    )


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "/ip4/192.0.2.1/tcp/4001", "/ip4/300.0.0.1/tcp/1/p2p/" + PEER],
    ids=["nothing", "nonsense", "no peer", "no host"],
)
def test_a_configured_address_that_names_no_peer_is_refused(text):
    with pytest.raises(ConfigError, match="not the multiaddr of a peer"):
        configured_peers([text])


def test_an_announcement_is_read_as_it_was_made():
    addresses = tuple(f"/ip4/192.0.2.{number}/udp/4001/quic-v1/p2p/{PEER}" for number in range(1, 7))
    info = _service_info(PEER, addresses, "hub")
    assert _read(info.properties, "hub") == PeerAddresses(PEER, addresses, "mdns")
    assert _read(info.properties, "node") is None


def test_an_announcement_fits_into_a_packet_whatever_the_addresses():
    addresses = [f"/dns4/{'x' * 300}.example.org/tcp/1/p2p/{PEER}"]
    addresses += [f"/ip4/192.0.2.{number}/tcp/4001/p2p/{PEER}" for number in range(50)]
    info = _service_info(PEER, addresses, "hub")
    assert all(len(key) + len(value) + 1 <= MAX_TXT_STRING for key, value in info.properties.items())
    assert len(info.text) <= 1300
    assert _read(info.properties, "hub").addresses[0].startswith("/ip4/192.0.2.0/")


@given(
    st.dictionaries(
        st.sampled_from([b"p2p", b"role", b"a0", b"a1"]) | st.binary(max_size=20),
        st.none() | st.binary(max_size=60) | st.sampled_from([PEER.encode(), b"hub", b"/ip4/192.0.2.1/tcp/1"]),
    )
)
def test_any_announcement_is_read_or_ignored(properties):
    found = _read(properties, "hub")
    assert found is None or all(address.endswith(f"/p2p/{found.peer_id}") for address in found.addresses)


async def test_the_hub_is_found_on_the_local_network(hosts):
    hub, impostor, node = await hosts("quic", "tcp"), await hosts("tcp"), await hosts()
    async with open_mdns(interfaces=LOOPBACK) as at_hub, open_mdns(interfaces=LOOPBACK) as at_node:
        await at_hub.announce(impostor.peer_id, impostor.addresses, role="hub")
        await at_hub.announce(hub.peer_id, hub.addresses, role="hub")
        found = await find_hub(node, [hub.peer_id], [at_node.heard("hub")], timeout=10)
        assert found.peer_id == hub.peer_id
        assert set(found.addresses) == set(hub.addresses)
    assert node.is_connected(hub.peer_id)
    assert not node.is_connected(impostor.peer_id)


async def test_a_hub_that_has_moved_is_announced_anew(hosts):
    hub = await hosts("tcp")
    former = [address.replace("127.0.0.1", "192.0.2.1") for address in hub.addresses]
    async with open_mdns(interfaces=LOOPBACK) as at_hub, open_mdns(interfaces=LOOPBACK) as at_node:
        await at_hub.announce(hub.peer_id, former, role="hub")
        async with at_node.peers(role="hub") as findings:
            with trio.fail_after(20):
                assert set((await findings.receive()).addresses) == set(former)
                await at_hub.announce(hub.peer_id, hub.addresses, role="hub")
                while set((await findings.receive()).addresses) != set(hub.addresses):
                    pass


async def test_an_announcement_that_comes_while_the_daemon_ends_is_dropped(monkeypatch):
    browsers = []

    def browse(zeroconf, service, handlers):
        browsers.append((zeroconf, service, handlers[0]))
        return ServiceBrowser(zeroconf, service, handlers=handlers)

    monkeypatch.setattr(mdns, "ServiceBrowser", browse)
    async with open_mdns(interfaces=LOOPBACK) as ending, ending.peers(role="hub"):
        pass
    [(zeroconf, service, on_change)] = browsers
    assert zeroconf.done, "asking it what was announced raises"
    await trio.to_thread.run_sync(on_change, zeroconf, service, f"late.{service}", ServiceStateChange.Added)


async def test_a_configured_address_is_enough_where_there_is_no_multicast(hosts):
    hub, node = await hosts("quic"), await hosts()
    async with open_mdns(interfaces=["203.0.113.9"]) as unavailable:
        await unavailable.announce(node.peer_id, node.addresses, role="node")
        sources = [configured(hub.addresses), unavailable.heard("hub")]
        found = await find_hub(node, [hub.peer_id], sources, timeout=10)
    assert found.addresses == hub.addresses
    assert node.is_connected(hub.peer_id)


async def test_a_false_announcement_does_not_keep_the_hub_from_being_found(hosts):
    hub, impostor, node = await hosts("quic"), await hosts("quic"), await hosts()
    false = [address.replace(impostor.peer_id, hub.peer_id) for address in impostor.addresses]
    async with open_mdns(interfaces=LOOPBACK) as liar, open_mdns(interfaces=LOOPBACK) as at_node:
        await liar.announce(hub.peer_id, false, role="hub")
        sources = [at_node.heard("hub"), configured(hub.addresses)]
        found = await find_hub(node, [hub.peer_id], sources, timeout=10)
    assert hub.addresses[0] in found.addresses
    assert not node.is_connected(impostor.peer_id)


async def test_a_hub_that_starts_later_is_found(hosts, free_port, nursery, monkeypatch):
    from actors.remote.host import Host

    identity, node = Identity.generate(), await hosts()
    place = f"/ip4/127.0.0.1/tcp/{free_port}"

    async def start_later():
        await trio.sleep(0.5)
        await nursery.start(Host(identity, [place]).run)

    nursery.start_soon(start_later)
    await find_hub(node, [identity.peer_id], [configured([f"{place}/p2p/{identity.peer_id}"])], timeout=10)
    assert node.is_connected(identity.peer_id)


async def test_a_hub_that_is_nowhere_is_an_error_that_says_why(hosts, free_port):
    node = await hosts()
    with pytest.raises(PeerUnavailable, match="was not found within"):
        await find_hub(node, [PEER], [configured([f"/ip4/127.0.0.1/tcp/{free_port}/p2p/{PEER}"])], timeout=0.5)
    with pytest.raises(PeerUnavailable, match="nobody named an address"):
        await find_hub(node, [PEER], [], timeout=0.1)


async def test_the_next_hub_is_as_good_as_the_current_one(hosts, free_port):
    following, node = await hosts("tcp"), await hosts()
    gone = f"/ip4/127.0.0.1/tcp/{free_port}/p2p/{PEER}"
    found = await find_hub(node, [PEER, following.peer_id], [configured([gone, *following.addresses])], timeout=10)
    assert found.peer_id == following.peer_id
    assert found.addresses == following.addresses


async def test_a_source_that_fails_leaves_the_others_searching(hosts):
    hub, node = await hosts("tcp"), await hosts()

    async def broken(claim):
        await trio.lowlevel.checkpoint()
        raise OSError("no such network")

    found = await find_hub(node, [hub.peer_id], [broken, configured(hub.addresses)], timeout=10)
    assert found.peer_id == hub.peer_id


async def test_a_flood_of_false_claims_does_not_push_out_what_is_configured(hosts, free_port):
    hub, node = await hosts("tcp"), await hosts()

    async def liar(claim):
        for port in range(20_000, 21_000):
            claim(PeerAddresses(hub.peer_id, (f"/ip4/127.0.0.1/tcp/{port}/p2p/{hub.peer_id}",), "mdns"))

    found = await find_hub(node, [hub.peer_id], [liar, configured(hub.addresses)], timeout=10)
    assert set(hub.addresses) <= set(found.addresses)
    assert len(found.addresses) <= 16


def test_relays_are_claimed_as_ways_to_each_pinned_hub():
    relay, following, claims = Identity.generate().peer_id, Identity.generate().peer_id, []
    place = f"/ip4/192.0.2.1/tcp/4001/p2p/{relay}"
    trio.run(through_relays([place], [PEER, following]), claims.append)
    assert claims == [PeerAddresses(hub, (f"{place}/p2p-circuit/p2p/{hub}",), "relay") for hub in (PEER, following)]
    with pytest.raises(ConfigError):
        through_relays(["/ip4/192.0.2.1/tcp/4001"], [PEER])
