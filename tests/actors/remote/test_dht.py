"""The DHT between real hosts on loopback."""

import time
from dataclasses import dataclass
from functools import partial

import pytest
import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.pb.kademlia_pb2 import Record as WireRecord
from structlog.testing import capture_logs

from actors.remote.discovery import dht as dht_module
from actors.remote.discovery import kademlia
from actors.remote.discovery.dht import Dht
from actors.remote.discovery.hub import find_hub
from actors.remote.discovery.kademlia import RecordStore, ask, closest, get_value, put_value
from actors.remote.discovery.records import HUB, cluster, key_of, sign
from actors.remote.discovery.static import configured_peers
from actors.remote.host import Host, open_host
from actors.remote.identity import Identity
from actors.remote.multiaddrs import leads_elsewhere, only_loopback
from syndb_common.errors import PeerUnavailable

LOOPBACK = "/ip4/127.0.0.1/udp/0/quic-v1"


async def settle(condition):
    with trio.fail_after(15):
        while not condition():  # noqa: ASYNC110 - what goes on in the background has no event
            await trio.sleep(0.05)


@pytest.fixture
def daemons(nursery):
    """``await daemons(identity, ...)`` is a host with its part in the DHT, which runs, and dials loopback too."""

    async def start(identity=None, *, listen=LOOPBACK, **settings):
        identity = identity or Identity.generate()
        host = Host(identity, [listen])
        await nursery.start(host.run)
        anywhere = {"may_dial": lambda _peer_id, _address: True}
        settings = {"name": None, "trusted": lambda _peer_id: False} | anywhere | settings
        dht = Dht(host, identity, **settings)
        await nursery.start(dht.run)
        return host, dht

    return start


def knows(dht, identity, name=HUB):
    return any(record.key == key_of(name, identity.peer_id) for record in dht.records)


@pytest.mark.slow
async def test_a_hub_that_restarted_elsewhere_is_found_through_another_node(nursery, daemons, tmp_path):
    hub_identity, a_identity = Identity.generate(), Identity.generate()

    def hub_settings():
        return {"name": HUB, "trusted": lambda peer: peer == a_identity.peer_id, "folder": tmp_path}

    a, a_dht = await daemons(a_identity, name=cluster("a"), trusted=lambda peer: peer == hub_identity.peer_id)
    b_host, b_dht = await daemons(bootstrap=configured_peers(a.addresses))
    async with open_host(hub_identity, [LOOPBACK]) as hub, trio.open_nursery() as first_life:
        former = hub.addresses
        await first_life.start(Dht(hub, hub_identity, **hub_settings()).run)
        await a.connect(hub.peer_id, hub.addresses, timeout=5)
        await settle(lambda: knows(a_dht, hub_identity))
        first_life.cancel_scope.cancel()
    hub, hub_dht = await daemons(hub_identity, **hub_settings())
    assert hub.addresses != former
    assert knows(hub_dht, a_identity, cluster("a")), "the hub remembers where its members are"
    found = await find_hub(b_host, [hub.peer_id], [b_dht.hubs([hub.peer_id])], timeout=20)
    assert hub.addresses[0] in found.addresses
    assert b_host.is_connected(hub.peer_id)


async def test_a_record_of_a_stranger_is_not_kept_and_anyone_may_ask_for_one_by_name(daemons):
    hub_identity = Identity.generate()
    node, node_dht = await daemons(trusted=lambda peer: peer == hub_identity.peer_id)
    stranger_identity = Identity.generate()
    stranger, _ = await daemons(stranger_identity)
    await stranger.connect(node.peer_id, node.addresses, timeout=5)
    own = sign(stranger_identity, HUB, stranger.addresses, sequence=1)
    with pytest.raises(PeerUnavailable):
        await ask(stranger, node.peer_id, put_value(own), timeout=5)
    hubs = sign(hub_identity, HUB, [], sequence=7)
    await ask(stranger, node.peer_id, put_value(hubs), timeout=5)
    assert [record.peer_id for record in node_dht.records] == [hub_identity.peer_id]
    answer = await ask(stranger, node.peer_id, get_value(hubs.key), timeout=5)
    assert answer.record.value == hubs.encoded
    assert not answer.closerPeers, "where members are is not told to strangers"


@pytest.mark.parametrize("wrong", ["forged", "older", "expired", "other key"])
async def test_a_record_that_does_not_count_replaces_none(daemons, wrong):
    hub_identity, other = Identity.generate(), Identity.generate()
    node, node_dht = await daemons(trusted=lambda peer: peer in (hub_identity.peer_id, other.peer_id))
    asking, _ = await daemons()
    await asking.connect(node.peer_id, node.addresses, timeout=5)
    good = sign(hub_identity, HUB, [], sequence=7)
    await ask(asking, node.peer_id, put_value(good), timeout=5)
    key, value = {
        "forged": (good.key, bytes([*good.encoded[:-1], good.encoded[-1] ^ 1])),
        "older": (good.key, sign(hub_identity, HUB, [], sequence=6).encoded),
        "expired": (good.key, sign(hub_identity, HUB, [], sequence=8, now=time.time() - 100_000).encoded),
        "other key": (good.key, sign(other, HUB, [], sequence=9).encoded),
    }[wrong]
    put = Message(type=Message.PUT_VALUE, key=key.encode(), record=WireRecord(key=key.encode(), value=value))
    with pytest.raises(PeerUnavailable):
        await ask(asking, node.peer_id, put, timeout=5)
    assert [record.encoded for record in node_dht.records] == [good.encoded]


async def test_a_liar_among_the_members_is_outvoted_by_the_newest_signature(daemons):
    hub_identity = Identity.generate()
    trusted = {"trusted": lambda peer: peer == hub_identity.peer_id}
    stale, fresh = await daemons(**trusted), await daemons(**trusted)
    old = sign(hub_identity, HUB, [], sequence=1)
    new = sign(hub_identity, HUB, [f"/ip4/192.0.2.1/tcp/1/p2p/{hub_identity.peer_id}"], sequence=2)
    stale[1]._keep(old)
    fresh[1]._keep(new)
    _, asking = await daemons(bootstrap=configured_peers([*stale[0].addresses, *fresh[0].addresses]), **trusted)
    asking._keep(old)
    seen = []
    assert await asking.lookup(HUB, hub_identity.peer_id, found=seen.append) == new
    assert seen[0] == old
    assert seen[-1] == new
    assert [record.encoded for record in asking.records] == [new.encoded]


async def test_members_that_are_gone_do_not_hold_up_a_lookup(daemons, free_port):
    hub_identity = Identity.generate()
    trusted = {"trusted": lambda peer: peer == hub_identity.peer_id}
    member, member_dht = await daemons(**trusted)
    wanted, seen = sign(hub_identity, HUB, [], sequence=1), []
    member_dht._keep(wanted)
    gone = [f"/ip4/127.0.0.1/udp/{free_port}/quic-v1/p2p/{Identity.generate().peer_id}" for _ in range(3)]
    _, asking = await daemons(bootstrap=configured_peers([*gone, *member.addresses]), **trusted)
    with trio.move_on_after(3) as looking:

        def found(record):
            seen.append(record)
            looking.cancel()

        await asking.lookup(HUB, hub_identity.peer_id, found=found)
    assert seen == [wanted]


async def test_only_addresses_that_may_be_dialled_are_dialled_and_not_too_often(daemons, monkeypatch):
    hub_identity, members = Identity.generate(), [Identity.generate() for _ in range(4)]
    traps = [await daemons(identity) for identity in members]
    asked = []

    def may_dial(peer_id, address):
        asked.append(address)
        return peer_id != members[0].peer_id

    monkeypatch.setattr(dht_module, "DIALS_A_MINUTE", 2)
    hub, hub_dht = await daemons(
        hub_identity, trusted=lambda peer: peer in {member.peer_id for member in members}, may_dial=may_dial
    )
    for identity, (host, _) in zip(members, traps, strict=True):
        hub_dht._keep(sign(identity, cluster("m"), host.addresses, sequence=1))
    await hub_dht.lookup(HUB, Identity.generate().peer_id, timeout=5)
    assert set(asked) >= set(traps[0][0].addresses)
    assert not hub.is_connected(members[0].peer_id)
    assert sum(hub.is_connected(member.peer_id) for member in members) == 2


@dataclass
class Door:
    """A service that no member has any business with; it counts who comes."""

    port: int = 0
    visits: int = 0

    async def count(self, stream):
        self.visits += 1
        await stream.aclose()

    def address(self, peer):
        return f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{peer.peer_id}"


@pytest.fixture
async def door(nursery):
    found = Door()
    listeners = await nursery.start(partial(trio.serve_tcp, found.count, 0, host="127.0.0.1"))
    found.port = listeners[0].socket.getsockname()[1]
    return found


def leading_to(door, peer, name):
    return sign(peer, cluster(name), [door.address(peer)], sequence=1)


async def naming_strangers(daemons, door, count=10):
    """A member whose answers name peers that it has made up, all of them behind the door."""
    identity = Identity.generate()
    host, dht = await daemons(identity, trusted=lambda _peer_id: True)
    for number in range(count):
        dht._keep(leading_to(door, Identity.generate(), f"f{number}"))
    return host, dht, sign(identity, cluster("liar"), host.addresses, sequence=2**40)


async def test_a_member_that_the_hub_made_known_leads_nobody_to_peers_of_its_own_making(daemons, door):
    hub_identity = Identity.generate()
    is_hub = {
        "trusted": lambda peer: peer == hub_identity.peer_id,
        "vouches": lambda peer: peer == hub_identity.peer_id,
    }
    _, liar_dht, record = await naming_strangers(daemons, door)
    _, node_dht = await daemons(**is_hub)
    node_dht._keep(record)
    wanted = sign(hub_identity, HUB, [], sequence=1)
    liar_dht._keep(wanted)
    assert await node_dht.lookup(HUB, hub_identity.peer_id) == wanted, "what it says of the hub is heard"
    assert not door.visits


async def test_a_member_that_the_operator_named_may_name_others_and_these_may_not(daemons, door):
    hub_identity, friend_identity = Identity.generate(), Identity.generate()
    *_, liars = await naming_strangers(daemons, door)
    named, named_dht = await daemons(trusted=lambda _peer_id: True)
    friend, friend_dht = await daemons(friend_identity, trusted=lambda _peer_id: True)
    wanted = sign(hub_identity, HUB, [], sequence=1)
    friend_dht._keep(wanted)
    named_dht._keep(sign(friend_identity, cluster("friend"), friend.addresses, sequence=1))
    named_dht._keep(liars)
    _, asking = await daemons(bootstrap=configured_peers(named.addresses))
    assert await asking.lookup(HUB, hub_identity.peer_id) == wanted
    assert not door.visits


async def test_no_record_leads_to_this_machine_itself(daemons, door):
    named, named_dht = await daemons(trusted=lambda _peer_id: True)
    stranger, hub_identity, kept = Identity.generate(), Identity.generate(), Identity.generate()
    named_dht._keep(leading_to(door, stranger, "stranger"))
    named_dht._keep(sign(hub_identity, HUB, [door.address(hub_identity)], sequence=1))
    host = Host(Identity.generate(), [LOOPBACK])
    asking = Dht(
        host,
        Identity.generate(),
        name=None,
        trusted=lambda peer: peer == hub_identity.peer_id,
        bootstrap=configured_peers(named.addresses),
    )
    asking._keep(leading_to(door, kept, "kept"))
    async with trio.open_nursery() as running:
        await running.start(host.run)
        assert await asking.lookup(HUB, hub_identity.peer_id) is not None
        with pytest.raises(PeerUnavailable):
            await find_hub(host, [hub_identity.peer_id], [asking.hubs([hub_identity.peer_id])], timeout=3)
        running.cancel_scope.cancel()
    assert not door.visits


RELAYED = "p2p/12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5/p2p-circuit"


@pytest.mark.parametrize(
    ("address", "elsewhere"),
    [
        ("/ip4/192.0.2.7/udp/4001/quic-v1", True),
        ("/ip4/10.1.2.3/tcp/4001", True),
        ("/ip6/2001:db8::1/tcp/4001", True),
        (f"/ip4/192.0.2.7/tcp/4001/{RELAYED}", True),
        ("/ip4/127.8.0.1/tcp/4001", False),
        ("/ip6/::1/udp/4001/quic-v1", False),
        ("/ip6/::ffff:127.0.0.1/tcp/4001", False),
        (f"/ip4/127.0.0.1/tcp/4001/{RELAYED}", False),
        ("/ip4/169.254.169.254/tcp/80", False),
        ("/ip6/fe80::1/tcp/4001", False),
        ("/ip4/0.0.0.0/tcp/4001", False),
        ("/ip6/::/tcp/4001", False),
        ("/ip4/224.0.0.251/udp/5353/quic-v1", False),
        ("/ip6/ff02::fb/udp/5353/quic-v1", False),
        ("/ip4/255.255.255.255/udp/4001/quic-v1", False),
        ("/dns4/localhost/tcp/4001", False),
        ("/dns4/inside.example/tcp/4001", False),
        ("/ip4/192.0.2.7/tcp/4001/ip4/127.0.0.1/tcp/22", False),
        ("/ip4/127.1/tcp/4001", False),
        ("", False),
    ],
)
def test_an_address_that_others_tell_leads_to_another_machine_or_is_not_dialled(address, elsewhere):
    peer_id = Identity.generate().peer_id
    assert leads_elsewhere(f"{address}/p2p/{peer_id}") == leads_elsewhere(address) == elsewhere


def test_only_loopback_is_let_through_where_all_are_on_one_machine():
    assert leads_elsewhere("/ip4/127.0.0.1/tcp/4001", local_too=True)
    assert not leads_elsewhere("/ip4/169.254.169.254/tcp/80", local_too=True)
    assert only_loopback(["/ip4/127.0.0.1/udp/4001/quic-v1", "/ip6/::1/tcp/4001"])
    assert not only_loopback(["/ip4/127.0.0.1/tcp/4001", "/ip4/192.0.2.7/tcp/4001"])
    assert not only_loopback(["/ip4/127.0.0.1/tcp/4001", "/ip4/0.0.0.0/tcp/4001"])
    assert not only_loopback([])


async def test_members_that_lead_nowhere_do_not_use_up_the_dials_of_those_that_are_named(daemons, door, monkeypatch):
    monkeypatch.setattr(dht_module, "DIALS_A_MINUTE", 3)
    monkeypatch.setattr(dht_module, "DIALS_OF_OTHERS", 2)
    hub_identity = Identity.generate()
    member, member_dht = await daemons(trusted=lambda peer: peer == hub_identity.peer_id)
    node, node_dht = await daemons(bootstrap=configured_peers(member.addresses))
    for number in range(10):
        node_dht._store.put(leading_to(door, Identity.generate(), f"f{number}"))
    await node_dht.lookup(HUB, hub_identity.peer_id)
    assert door.visits == 1
    wanted = sign(hub_identity, HUB, [], sequence=1)
    member_dht._keep(wanted)
    assert not node.is_connected(member.peer_id), "it has to be dialled once more"
    assert await node_dht.lookup(HUB, hub_identity.peer_id) == wanted


@pytest.mark.slow
async def test_a_node_is_found_under_its_name_and_a_new_address_is_told_at_once(daemons):
    node_identity, hub_identity = Identity.generate(), Identity.generate()
    node, _ = await daemons(node_identity, name=cluster("berlin"), trusted=lambda peer: peer == hub_identity.peer_id)
    hub, hub_dht = await daemons(hub_identity, name=HUB, trusted=lambda peer: peer == node_identity.peer_id)
    await node.connect(hub.peer_id, hub.addresses, timeout=5)
    await settle(lambda: knows(hub_dht, node_identity, cluster("berlin")))
    first = await hub_dht.lookup(cluster("berlin"), node.peer_id)
    assert first.addresses == node.addresses
    node.circuit_addresses = (f"/ip4/192.0.2.1/tcp/1/p2p/{Identity.generate().peer_id}/p2p-circuit/p2p/{node.peer_id}",)
    await settle(lambda: hub_dht._store.get(first.key).addresses == node.addresses)
    assert hub_dht._store.get(first.key).sequence > first.sequence


@pytest.mark.slow
async def test_a_hub_hands_the_records_of_its_members_on_to_each_other(daemons):
    members, hub_identity = [Identity.generate(), Identity.generate()], Identity.generate()
    is_hub = {
        "trusted": lambda peer: peer == hub_identity.peer_id,
        "vouches": lambda peer: peer == hub_identity.peer_id,
    }
    hub, _ = await daemons(hub_identity, name=HUB, trusted=lambda peer: peer in {m.peer_id for m in members})
    nodes = [await daemons(identity, name=cluster(f"n{n}"), **is_hub) for n, identity in enumerate(members)]
    for host, _ in nodes:
        await host.connect(hub.peer_id, hub.addresses, timeout=5)
    await settle(
        lambda: knows(nodes[0][1], members[1], cluster("n1")) and knows(nodes[1][1], members[0], cluster("n0"))
    )
    key = key_of(cluster("n1"), members[1].peer_id)
    assert nodes[0][1]._store.get(key).addresses == nodes[1][0].addresses


async def test_malformed_requests_cost_their_own_stream(daemons):
    node, _ = await daemons()
    asking, _ = await daemons()
    await asking.connect(node.peer_id, node.addresses, timeout=5)
    for question in (
        Message(type=Message.PUT_VALUE),
        Message(type=Message.PUT_VALUE, key=b"\xff" * 100, record=WireRecord(value=b"\x00" * 100)),
        Message(type=Message.ADD_PROVIDER, key=b"k"),
        Message(type=Message.GET_PROVIDERS, key=b"k"),
        Message(type=Message.GET_VALUE, key=b"k" * 10_000),
    ):
        with pytest.raises(PeerUnavailable):
            await ask(asking, node.peer_id, question, timeout=5)
    stream = await asking.open_raw_stream(node.peer_id, kademlia.PROTOCOL, timeout=5)
    await stream.write(b"\xff" * 100)
    assert (await ask(asking, node.peer_id, Message(type=Message.PING), timeout=5)).type == Message.PING
    assert not node.counters["handler_failures"]


def test_a_store_is_bounded_in_all_and_per_peer(monkeypatch):
    monkeypatch.setattr(kademlia, "MAX_RECORDS", 10)
    store, one = RecordStore(), Identity.generate()
    for number in range(30):
        assert store.put(sign(one, cluster(f"n{number}"), [], sequence=number))
    assert sorted(record.sequence for record in store.all()) == [26, 27, 28, 29]
    kept = [store.put(sign(Identity.generate(), HUB, [], sequence=1)) for _ in range(30)]
    assert sum(kept) == 6
    assert len(store) == 10
    assert store.put(sign(one, cluster("n29"), [], sequence=99)), "a known key is renewed also when the store is full"


def test_an_expired_record_is_as_good_as_absent():
    now = [time.time()]
    store, record = RecordStore(lambda: now[0]), sign(Identity.generate(), HUB, [], sequence=1)
    store.put(record)
    assert store.get(record.key) == record
    now[0] += 25 * 3600
    assert store.get(record.key) is None
    assert not store.all()


def test_the_closest_are_those_of_the_smallest_exclusive_or():
    peers = [Identity.generate().peer_id for _ in range(50)]
    near = closest(b"key", [*peers, *peers], 10)
    assert len(near) == len(set(near)) == 10
    rest = [kademlia.distance(b"key", peer) for peer in peers if peer not in near]
    assert max(kademlia.distance(b"key", peer) for peer in near) < min(rest)


async def test_damaged_files_of_a_former_life_are_left_behind(daemons, tmp_path):
    tmp_path.joinpath("records").write_bytes(b"\xc1nonsense")
    _, dht = await daemons(folder=tmp_path)
    assert not dht.records


async def test_a_daemon_whose_folder_cannot_be_used_answers_and_asks_all_the_same(daemons, tmp_path):
    hub_identity = Identity.generate()
    for name in ("sequence", "records"):
        tmp_path.joinpath(name).mkdir()
    is_hub = {"trusted": lambda peer: peer == hub_identity.peer_id}
    with capture_logs() as logs:
        member, member_dht = await daemons(name=cluster("a"), folder=tmp_path, **is_hub)
        _, asking = await daemons(bootstrap=configured_peers(member.addresses))
        wanted = sign(hub_identity, HUB, [], sequence=1)
        member_dht._keep(wanted)
        assert await asking.lookup(HUB, hub_identity.peer_id) == wanted
        await settle(lambda: {"records_not_read", "nothing_published"} <= {line["event"] for line in logs})


@pytest.mark.parametrize("way", ["in between", "when it stops"])
async def test_records_that_could_not_be_saved_are_saved_later(nursery, tmp_path, monkeypatch, way):
    monkeypatch.setattr(dht_module, "SAVE_SECONDS", 0.1)
    folder, identity = tmp_path / "dht", Identity.generate()
    folder.write_text("in the way")

    def a_life():
        host = Host(identity, [LOOPBACK])
        return Dht(host, identity, name=None, trusted=lambda _peer_id: False, folder=folder)

    first = a_life()
    with capture_logs() as logs:
        async with trio.open_nursery() as running:
            await running.start(first.run)
            first._keep(sign(Identity.generate(), HUB, [], sequence=1))
            await settle(lambda: any(line["event"] == "records_not_saved" for line in logs))
            if way == "when it stops":
                monkeypatch.setattr(dht_module, "SAVE_SECONDS", 3600)
                await trio.sleep(0.3)
            folder.unlink()
            if way == "in between":
                await settle(folder.joinpath("records").exists)
            running.cancel_scope.cancel()
    second = a_life()
    await nursery.start(second.run)
    assert second.records == first.records
