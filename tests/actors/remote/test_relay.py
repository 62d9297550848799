"""Circuits between real hosts on loopback: the peer behind the relay is only ever addressed through it."""

import pytest
import trio
import trio.testing
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status
from structlog.testing import capture_logs

from actors.remote import circuits as circuits_module
from actors.remote.circuits import HOP, Circuits, CircuitStream
from actors.remote.discovery.hub import ATTEMPT_SECONDS, find_hub
from actors.remote.discovery.static import configured_peers, through_relays
from actors.remote.frames import StreamEnded
from actors.remote.host import Host, open_host
from actors.remote.identity import Identity
from actors.remote.policy import Policy, Trust
from actors.remote.relay import RelayLimits, RelayService
from actors.remote.rpc import RemoteRef, RpcClient
from actors.remote.rpc_server import RpcServer
from actors.remote.wire import read_message, write_message
from actors.runtime import Actor, ChildSpec, Supervisor, handle, run_tree
from syndb_common.errors import PeerUnavailable
from syndb_common.messages import HealthPing, HealthReport

ECHO = "/syndb-test/echo/1"


async def echo(stream):
    while True:
        await stream.send(await stream.receive(timeout=5), timeout=5)


async def say(host, peer_id, payload=b"hello"):
    stream = await host.open_stream(peer_id, ECHO, timeout=5)
    try:
        await stream.send(payload, timeout=5)
        return await stream.receive(timeout=5)
    finally:
        await stream.reset()


async def settle(condition):
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - what libp2p does in the background has no event
            await trio.sleep(0.05)


class Node(Actor):
    @handle
    async def ping(self, message: HealthPing) -> HealthReport:
        return HealthReport(
            schema_version=1,
            engine="ok",
            load=0,
            catalogue_revision=0,
            clock=message.clock,
            uptime_seconds=0,
            software="test",
        )


async def reserve(nursery, host, relay):
    """``host`` reserves at ``relay``; returns its address through it."""
    circuits = Circuits(host, configured_peers(relay.addresses[:1]))
    nursery.start_soon(circuits.run)
    await settle(lambda: host.circuit_addresses)
    return host.circuit_addresses[0]


async def dialler(hosts):
    host = await hosts()
    Circuits(host)
    return host


async def test_a_hub_that_can_only_dial_out_is_found_and_asked_through_a_relay(hosts, transport, nursery):
    relay, hub, node = await hosts(transport), await hosts(), await dialler(hosts)
    RelayService(relay, lambda peer_id: peer_id == hub.peer_id)
    tree = await nursery.start(run_tree, Supervisor("hub", [ChildSpec("node", Node)]))
    RpcServer(hub, Policy(lambda _peer_id: Trust.HUB), {HealthPing: tree.ref("node")})
    address = await reserve(nursery, hub, relay)
    assert hub.addresses == (address,)
    found = await find_hub(node, [hub.peer_id], [through_relays(relay.addresses, [hub.peer_id])], timeout=10)
    assert found.addresses == (address,)
    ref = RemoteRef(RpcClient(node), found.peer_id, lambda: found.addresses, "syndb-hub")
    assert (await ref.ask(HealthPing(clock=7), timeout=5)).clock == 7
    assert node.observed_hosts(hub.peer_id) == hub.observed_hosts(node.peer_id) == ()


async def test_reserving_begins_when_the_host_runs_and_not_by_failing_before(hosts, nursery):
    relay = await hosts("tcp")
    RelayService(relay, lambda _peer_id: True)
    host = Host(Identity.generate(), [])
    circuits = Circuits(host, configured_peers(relay.addresses))
    with capture_logs() as logged:
        nursery.start_soon(circuits.run)
        await trio.testing.wait_all_tasks_blocked()
        await nursery.start(host.run)
        await settle(lambda: host.circuit_addresses)
    assert [line["event"] for line in logged if line["event"].startswith("relay")] == ["relay_reserved"]


async def test_both_ends_of_a_circuit_ask_each_other_and_large_messages_pass(hosts, nursery):
    relay, hub, node = await hosts("quic"), await hosts(), await dialler(hosts)
    service = RelayService(relay, lambda _peer_id: True)
    for host in (hub, node):
        host.set_handler(ECHO, echo)
    address = await reserve(nursery, hub, relay)
    await node.connect(hub.peer_id, [address], timeout=5)
    payload = bytes(range(256)) * 2000
    assert await say(node, hub.peer_id, payload) == payload
    assert await say(hub, node.peer_id, payload) == payload
    assert service.carried["bytes"] > 4 * len(payload)
    await node.disconnect(hub.peer_id)
    await settle(lambda: not service.circuits and not hub.is_connected(node.peer_id))


async def test_a_relay_cannot_pretend_to_be_the_peer_behind_it(hosts, nursery):
    relay, hub, node = await hosts("tcp"), await hosts(), await dialler(hosts)

    async def answer_oneself(stream):
        await read_message(stream, HopMessage)
        await write_message(stream, HopMessage(type=HopMessage.STATUS, status=Status.OK))
        await relay.accept_circuit(CircuitStream(stream))

    relay.set_raw_handler(HOP, answer_oneself)
    relay.set_handler(ECHO, echo)
    false = f"{relay.addresses[0]}/p2p-circuit/p2p/{hub.peer_id}"
    with pytest.raises(PeerUnavailable, match="cannot prove"):
        await node.connect(hub.peer_id, [false], timeout=5)
    assert not node.is_connected(hub.peer_id)


async def test_a_relay_serves_only_whom_its_daemon_trusts(hosts, nursery):
    relay, stranger, node = await hosts("tcp"), await hosts(), await dialler(hosts)
    service = RelayService(relay, lambda _peer_id: False)
    circuits = Circuits(stranger, configured_peers(relay.addresses))
    nursery.start_soon(circuits.run)
    await settle(lambda: service.carried["refused"])
    assert stranger.circuit_addresses == ()
    with pytest.raises(PeerUnavailable, match="NO_RESERVATION"):
        await node.connect(stranger.peer_id, [f"{relay.addresses[0]}/p2p-circuit/p2p/{stranger.peer_id}"], timeout=5)


async def test_a_peer_that_is_not_trusted_any_more_is_not_reached_any_more(hosts, nursery):
    relay, hub, node = await hosts("tcp"), await hosts(), await dialler(hosts)
    trusted = {hub.peer_id}
    RelayService(relay, trusted.__contains__)
    address = await reserve(nursery, hub, relay)
    trusted.clear()
    with pytest.raises(PeerUnavailable, match="PERMISSION_DENIED"):
        await node.connect(hub.peer_id, [address], timeout=5)


async def test_a_relay_carries_what_its_limits_allow(hosts, nursery):
    relay, hub = await hosts("quic"), await hosts()
    RelayService(relay, lambda _peer_id: True, RelayLimits(circuits=2, bytes=100_000))
    hub.set_handler(ECHO, echo)
    address = await reserve(nursery, hub, relay)
    first, second, third = [await dialler(hosts) for _ in range(3)]
    await first.connect(hub.peer_id, [address], timeout=5)
    await second.connect(hub.peer_id, [address], timeout=5)
    with pytest.raises(PeerUnavailable, match="RESOURCE_LIMIT_EXCEEDED"):
        await third.connect(hub.peer_id, [address], timeout=5)
    with pytest.raises(StreamEnded):
        await say(first, hub.peer_id, b"x" * 60_000)
    await settle(lambda: not first.is_connected(hub.peer_id))
    assert await say(second, hub.peer_id) == b"hello"
    await third.connect(hub.peer_id, [address], timeout=5)


async def test_a_reservation_is_made_again_when_the_relay_restarts(nursery, free_port, hosts):
    identity, hub = Identity.generate(), await hosts()
    place = f"/ip4/127.0.0.1/tcp/{free_port}"
    async with open_host(identity, [place]) as relay:
        RelayService(relay, lambda _peer_id: True)
        address = await reserve(nursery, hub, relay)
    await settle(lambda: not hub.circuit_addresses)
    hub.set_handler(ECHO, echo)
    async with open_host(identity, [place]) as relay:
        RelayService(relay, lambda _peer_id: True)
        await settle(lambda: hub.circuit_addresses)
        node = await dialler(hosts)
        await node.connect(hub.peer_id, [address], timeout=5)
        assert await say(node, hub.peer_id) == b"hello"


async def test_a_connection_to_the_relay_that_leads_nowhere_any_more_is_dialled_afresh(nursery, hosts, monkeypatch):
    relay, hub, node = await hosts("quic"), await hosts(), await dialler(hosts)
    RelayService(relay, lambda _peer_id: True)
    hub.set_handler(ECHO, echo)
    address = await reserve(nursery, hub, relay)
    await node.connect(relay.peer_id, relay.addresses, timeout=5)
    dead = node._connection(ID.from_base58(relay.peer_id)).muxed_conn
    monkeypatch.setattr(dead, "_transmit", trio.lowlevel.checkpoint)
    await node.connect(hub.peer_id, [address], timeout=ATTEMPT_SECONDS)
    assert await say(node, hub.peer_id) == b"hello"


async def test_a_reservation_is_renewed_before_it_ends(nursery, hosts, monkeypatch):
    monkeypatch.setattr(circuits_module, "RENEW_SHARE", 0.0001)
    relay, hub, asked = await hosts("quic"), await hosts(), []
    RelayService(relay, lambda peer_id: not asked.append(peer_id))
    nursery.start_soon(Circuits(hub, configured_peers(relay.addresses)).run)
    await settle(lambda: len(asked) >= 3)
    assert hub.circuit_addresses


async def test_what_is_carried_ends_when_the_relay_does(nursery, hosts, listen):
    hub, node = await hosts(), await dialler(hosts)
    async with open_host(Identity.generate(), [listen]) as relay:
        RelayService(relay, lambda _peer_id: True)
        await node.connect(hub.peer_id, [await reserve(nursery, hub, relay)], timeout=5)
        await settle(lambda: hub.is_connected(node.peer_id))
        assert node.is_connected(hub.peer_id)
    await settle(lambda: not node.is_connected(hub.peer_id) and not hub.is_connected(node.peer_id))


@pytest.mark.parametrize("address", ["{relay}/p2p-circuit/p2p-circuit/p2p/{hub}", "{relay}/p2p-circuit/p2p/{relay_id}"])
async def test_circuits_within_circuits_and_back_to_the_relay_are_not_dialled(hosts, address):
    relay, hub, node = await hosts("tcp"), Identity.generate(), await dialler(hosts)
    text = address.format(relay=relay.addresses[0], hub=hub.peer_id, relay_id=relay.peer_id)
    target = relay.peer_id if "relay_id" in address else hub.peer_id
    with pytest.raises(PeerUnavailable):
        await node.connect(target, [text], timeout=5)
    assert not node.is_connected(relay.peer_id)
