import contextlib
import os
import socket
import subprocess
import sys
from functools import partial, partialmethod

import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.transport.quic.security import CertificateGenerator
from multiaddr import Multiaddr
from structlog.testing import capture_logs

from actors.remote import host as host_module
from actors.remote.frames import StreamEnded
from actors.remote.host import Host, open_host
from actors.remote.identity import Identity
from syndb_common.errors import ConfigError, InvalidRequest, PeerUnavailable

ECHO = "/syndb-test/echo/1"


async def echo(stream):
    while True:
        await stream.send(await stream.receive(timeout=5), timeout=5)


async def say(host, peer_id, payload=b"hello", protocol=ECHO):
    stream = await host.open_stream(peer_id, protocol, timeout=5)
    try:
        await stream.send(payload, timeout=5)
        return await stream.receive(timeout=5)
    finally:
        await stream.reset()


async def settle(condition):
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - what libp2p does in the background has no event
            await trio.sleep(0.05)


def test_importing_the_packages_does_not_import_libp2p():
    code = "import sys, actors, actors.remote, actors.remote.discovery; sys.exit('libp2p' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_one_host_listens_on_both_transports_under_one_peer_id(hosts):
    server, client = await hosts("tcp", "quic"), await hosts()
    assert [address.split("/")[3] for address in server.addresses] == ["udp", "tcp"]
    server.set_handler(ECHO, echo)
    for address in server.addresses:
        assert address.endswith(f"/p2p/{server.peer_id}")
        await client.connect(server.peer_id, [address], timeout=5)
        assert await say(client, server.peer_id) == b"hello"
        await client.disconnect(server.peer_id)
        assert not client.is_connected(server.peer_id)


async def test_a_host_that_is_starting_dials_once_it_runs(hosts, nursery):
    server, client = await hosts("tcp"), Host(Identity.generate(), [])
    with pytest.raises(PeerUnavailable, match="own network is not up yet"):
        await client.connect(server.peer_id, server.addresses, timeout=0.1)
    async with trio.open_nursery() as early:
        early.start_soon(partial(client.connect, server.peer_id, server.addresses, timeout=10))
        await trio.testing.wait_all_tasks_blocked(0.05)
        await nursery.start(client.run)
    assert client.is_connected(server.peer_id)


def tasks():
    """How many tasks there are."""
    found, pending = 0, [trio.lowlevel.current_root_task()]
    while pending:
        task = pending.pop()
        found += 1
        pending.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
    return found


async def test_a_closed_connection_leaves_no_task_behind(hosts, transport):
    server, client = await hosts(transport), await hosts()
    sizes = []
    for _ in range(4):
        await client.connect(server.peer_id, server.addresses, timeout=5)
        await settle(lambda: server.is_connected(client.peer_id))
        await server.disconnect(client.peer_id)
        await settle(lambda: not client.is_connected(server.peer_id))
        await trio.sleep(0.5)
        sizes.append(tasks())
    assert sizes[-1] <= sizes[0], sizes


async def test_who_closes_a_dead_connection_leaves_a_newer_one_alone(hosts, transport):
    server, client = await hosts(transport), await hosts()
    server.set_handler(ECHO, echo)
    assert client.connection(server.peer_id) is None
    await client.connect(server.peer_id, server.addresses, timeout=5)
    dead = client.connection(server.peer_id)
    await client.disconnect(server.peer_id, up_to=dead)
    assert client.connection(server.peer_id) is None
    await client.connect(server.peer_id, server.addresses, timeout=5)
    mended = client.connection(server.peer_id)
    assert mended is not dead
    await client.disconnect(server.peer_id, up_to=dead)
    assert client.connection(server.peer_id) is mended
    assert await say(client, server.peer_id) == b"hello"


async def test_all_interfaces_are_announced_as_real_addresses():
    async with open_host(Identity.generate(), ["/ip4/0.0.0.0/tcp/0"]) as host:
        assert host.addresses
        for address in host.addresses:
            assert "0.0.0.0" not in address
            assert "/tcp/0" not in address


async def test_a_peer_answers_on_the_connection_it_opened(hosts, transport):
    server, client = await hosts(transport), await hosts()
    client.set_handler(ECHO, echo)
    await client.connect(server.peer_id, server.addresses, timeout=5)
    await settle(lambda: server.is_connected(client.peer_id))
    assert await say(server, client.peer_id) == b"hello"


async def test_a_host_sees_the_address_a_peer_comes_from(hosts, transport):
    server, client, other = await hosts(transport), await hosts(), await hosts()
    assert server.observed_hosts(client.peer_id) == ()
    await client.connect(server.peer_id, server.addresses, timeout=5)
    await settle(lambda: server.is_connected(client.peer_id))
    assert server.observed_hosts(client.peer_id) == client.observed_hosts(server.peer_id) == ("127.0.0.1",)
    assert server.observed_hosts(other.peer_id) == ()
    await client.disconnect(server.peer_id)
    await settle(lambda: not server.is_connected(client.peer_id))
    assert server.observed_hosts(client.peer_id) == ()


async def test_an_ipv6_address_is_seen_as_well():
    server_identity = Identity.generate()
    async with open_host(server_identity, ["/ip6/::1/tcp/0"]) as server, open_host(Identity.generate(), []) as client:
        await client.connect(server.peer_id, server.addresses, timeout=5)
        await settle(lambda: server.is_connected(client.peer_id))
        assert server.observed_hosts(client.peer_id) == ("::1",)


async def test_quic_is_tried_first_and_tcp_when_it_fails(hosts, free_port):
    server, client = await hosts("tcp"), await hosts()
    server.set_handler(ECHO, echo)
    dead = f"/ip4/127.0.0.1/udp/{free_port}/quic-v1"
    await client.connect(server.peer_id, [*server.addresses, dead], timeout=2)
    assert await say(client, server.peer_id) == b"hello"


async def test_another_peer_at_the_address_is_refused(hosts, transport):
    server, client = await hosts(transport), await hosts()
    expected = Identity.generate().peer_id
    places = [address.partition("/p2p/")[0] for address in server.addresses]
    with pytest.raises(PeerUnavailable, match="another daemon answers there") as refused:
        await client.connect(expected, places, timeout=5)
    assert "trust no other" in refused.value.hint
    assert not client.is_connected(expected)
    assert not client.is_connected(server.peer_id)
    await client.connect(server.peer_id, places, timeout=5)


async def test_a_certificate_out_of_date_is_refused_and_accuses_nobody(hosts, monkeypatch):
    """As clocks that differ make it: the key is the right one."""
    expired = partialmethod(CertificateGenerator.generate_certificate, validity_days=0)
    with monkeypatch.context() as patched:
        patched.setattr(CertificateGenerator, "generate_certificate", expired)
        server = await hosts("quic")
    client = await hosts()
    with pytest.raises(PeerUnavailable, match="Certificate has expired") as refused:
        await client.connect(server.peer_id, server.addresses, timeout=5)
    assert "another daemon" not in refused.value.message
    assert "trust no other" not in refused.value.hint
    assert not client.is_connected(server.peer_id)


async def test_an_address_that_names_another_peer_is_not_dialled(hosts):
    server, client = await hosts("tcp"), await hosts()
    with pytest.raises(PeerUnavailable):
        await client.connect(Identity.generate().peer_id, server.addresses, timeout=5)
    assert not server.counters["refused_connections"]


async def test_dead_addresses_do_not_delay_the_one_that_answers(hosts, transport):
    server, client = await hosts(transport), await hosts()
    dead = [f"/ip4/192.0.2.{number}/{kind}" for number in range(1, 5) for kind in ("udp/4001/quic-v1", "tcp/4001")]
    await client.connect(server.peer_id, [*dead, *server.addresses], timeout=10)
    assert client.observed_hosts(server.peer_id) == ("127.0.0.1",)


async def test_a_failed_dial_does_not_block_the_next(hosts, transport, free_port):
    identity, client = Identity.generate(), await hosts()
    listen = f"/ip4/127.0.0.1/udp/{free_port}/quic-v1" if transport == "quic" else f"/ip4/127.0.0.1/tcp/{free_port}"
    with pytest.raises(PeerUnavailable):
        await client.connect(identity.peer_id, [listen], timeout=0.5)
    async with open_host(identity, [listen]) as server:
        await client.connect(server.peer_id, [listen], timeout=5)
        assert client.is_connected(server.peer_id)


async def test_concurrent_connects_dial_once(hosts, transport):
    server, client = await hosts(transport), await hosts()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(lambda: client.connect(server.peer_id, server.addresses, timeout=5))
    assert len(client._swarm.get_connections()) == 1


async def test_nonsense_is_refused(hosts):
    client = await hosts()
    with pytest.raises(InvalidRequest):
        await client.connect("nobody", [], timeout=1)
    with pytest.raises(PeerUnavailable):
        await client.connect(Identity.generate().peer_id, ["/nonsense", "", "/ip4/1.2.3.4"], timeout=1)
    with pytest.raises(PeerUnavailable):
        await client.open_stream(Identity.generate().peer_id, ECHO, timeout=1)
    with pytest.raises(ConfigError):
        Host(Identity.generate(), ["nonsense"])


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
async def test_a_taken_port_is_a_clear_error_before_anything_starts(kind):
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        listen = f"/ip4/127.0.0.1/udp/{port}/quic-v1" if kind == socket.SOCK_DGRAM else f"/ip4/127.0.0.1/tcp/{port}"
        with pytest.raises(ConfigError, match="cannot listen") as raised:
            await Host(Identity.generate(), [listen]).run()
    assert "federation.listen" in raised.value.hint


async def test_a_stopped_host_frees_its_ports_and_tells_its_peers(hosts, transport):
    client, identity = await hosts(), Identity.generate()
    listen = "/ip4/127.0.0.1/udp/0/quic-v1" if transport == "quic" else "/ip4/127.0.0.1/tcp/0"
    async with open_host(identity, [listen]) as server:
        addresses = server.addresses
        await client.connect(server.peer_id, addresses, timeout=5)
    await settle(lambda: not client.is_connected(identity.peer_id))
    async with open_host(identity, [addresses[0].partition("/p2p/")[0]]) as server:
        assert server.addresses == addresses
        await client.connect(server.peer_id, addresses, timeout=5)


async def test_the_end_of_a_connection_is_told_at_once(hosts, listen):
    client, identity = await hosts(), Identity.generate()
    with trio.fail_after(5):
        await client.lost(identity.peer_id)
    async with open_host(identity, [listen]) as server, trio.open_nursery() as nursery:
        await client.connect(server.peer_id, server.addresses, timeout=5)
        told = trio.Event()

        async def watch():
            await client.lost(server.peer_id)
            told.set()

        nursery.start_soon(watch)
        await trio.sleep(1.5)
        assert not told.is_set()
        assert not client.counters["silent_connections"]
        await server.disconnect(client.peer_id)
        with trio.fail_after(1):
            await told.wait()


@pytest.mark.parametrize("fault", [RuntimeError("boom"), ExceptionGroup("boom", [ValueError()]), StopIteration()])
async def test_a_handler_that_raises_costs_its_own_stream_only(hosts, transport, fault):
    async def boom(stream):
        await stream.receive(timeout=5)
        raise fault

    server, client = await hosts(transport), await hosts()
    server.set_handler(ECHO, echo)
    server.set_handler("/syndb-test/boom/1", boom)
    await client.connect(server.peer_id, server.addresses, timeout=5)
    with pytest.raises(StreamEnded):
        await say(client, server.peer_id, protocol="/syndb-test/boom/1")
    assert server.counters["handler_failures"] == 1
    assert await say(client, server.peer_id) == b"hello"


async def test_an_unknown_protocol_is_refused(hosts, transport):
    server, client = await hosts(transport), await hosts()
    server.set_handler(ECHO, echo)
    await client.connect(server.peer_id, server.addresses, timeout=5)
    with pytest.raises(PeerUnavailable):
        await client.open_stream(server.peer_id, "/syndb-test/unknown/1", timeout=5)
    assert await say(client, server.peer_id) == b"hello"


async def test_streams_of_one_peer_are_bounded(hosts, transport, monkeypatch):
    monkeypatch.setattr(host_module, "MAX_STREAMS_PER_PEER", 3)
    server, client, other = await hosts(transport), await hosts(), await hosts()
    server.set_handler(ECHO, echo)
    await client.connect(server.peer_id, server.addresses, timeout=5)
    await other.connect(server.peer_id, server.addresses, timeout=5)
    streams = [await client.open_stream(server.peer_id, ECHO, timeout=5) for _ in range(3)]
    with pytest.raises(PeerUnavailable):
        await client.open_stream(server.peer_id, ECHO, timeout=5)
    assert await say(other, server.peer_id) == b"hello"
    await streams.pop().reset()
    with trio.fail_after(5):
        while True:
            with contextlib.suppress(PeerUnavailable):
                assert await say(client, server.peer_id) == b"hello"
                break
            await trio.sleep(0.05)


@pytest.mark.parametrize("who", ["client", "server"])
async def test_one_connection_carries_any_number_of_streams_that_are_reset(hosts, transport, who):
    async def answer(stream):
        await stream.send(await stream.receive(timeout=5), timeout=5)
        if who == "server":
            await stream.reset()
        else:
            await stream.receive(timeout=5)

    server, client = await hosts(transport), await hosts()
    server.set_handler(ECHO, answer)
    await client.connect(server.peer_id, server.addresses, timeout=5)
    connections = client._swarm.get_connections()
    for _ in range(300):
        stream = await client.open_stream(server.peer_id, ECHO, timeout=5)
        await stream.send(b"x", timeout=5)
        with contextlib.suppress(StreamEnded):
            await stream.receive(timeout=5)
        await stream.reset()
    assert client._swarm.get_connections() == connections


async def test_places_of_ended_connections_are_given_back(hosts, transport):
    server = await hosts(transport, max_connections=2)
    server.set_handler(ECHO, echo)
    for _ in range(5):
        async with open_host(Identity.generate(), []) as client:
            await client.connect(server.peer_id, server.addresses, timeout=5)
            assert await say(client, server.peer_id) == b"hello"


@pytest.mark.slow
async def test_one_line_in_the_log_says_that_all_places_are_taken_until_there_is_room_again(hosts):
    server = await hosts("tcp", max_connections=12)
    server.set_handler(ECHO, echo)

    async def fill(count):
        async with contextlib.AsyncExitStack() as clients:
            for _ in range(count):
                client = await clients.enter_async_context(open_host(Identity.generate(), []))
                await client.connect(server.peer_id, server.addresses, timeout=5)
                assert await say(client, server.peer_id) == b"hello"
        with trio.fail_after(5):
            while server.connected_peers:  # noqa: ASYNC110 - libp2p has no event for it
                await trio.sleep(0.02)

    with capture_logs() as logs:
        await fill(12)
        assert not [line for line in logs if line["log_level"] == "warning"]
        await fill(15)
        await fill(15)
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert [(line["event"], line["most"]) for line in warnings] == [("connections_full", 12)] * 2


async def test_a_connection_in_plain_text_is_not_accepted(hosts):
    from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport

    server, pair = await hosts("tcp"), create_new_key_pair()
    stranger = new_host(key_pair=pair, sec_opt={PLAINTEXT_PROTOCOL_ID: InsecureTransport(pair)})
    async with stranger.run(listen_addrs=[]):
        with pytest.raises(Exception, match=r"unable to connect"):
            await stranger.connect(info_from_p2p_addr(Multiaddr(server.addresses[0])))
    assert server.counters["refused_connections"]


async def test_libp2p_of_default_make_can_ping(hosts, transport):
    """Another implementation sees a plain libp2p peer: identify and ping answer."""
    from libp2p.host.ping import PingService

    server = await hosts(transport)
    stranger = new_host(
        listen_addrs=[Multiaddr(server.addresses[0]).decapsulate("/p2p")], enable_quic=transport == "quic"
    )
    info = info_from_p2p_addr(Multiaddr(server.addresses[0]))
    async with stranger.run(listen_addrs=[]):
        await stranger.connect(info)
        assert await PingService(stranger).ping(info.peer_id)


async def test_random_bytes_leave_the_host_answering(hosts, transport):
    server, client = await hosts(transport), await hosts()
    server.set_handler(ECHO, echo)
    address = server.addresses[0].split("/")
    place = (address[2], int(address[4]))
    noise = [
        b"\0" * 10,
        b"GET / HTTP/1.0\r\n\r\n",
        os.urandom(1300),
        b"\x13/multistream/1.0.0\n\x07/noise\n" + os.urandom(500),
    ]
    for data in noise:
        if transport == "tcp":
            with socket.create_connection(place) as sock:
                sock.sendall(data)
                await trio.sleep(0.02)
        else:
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.sendto(data, place)
                sock.sendto(b"\xc3\x00\x00\x00\x01\x08" + os.urandom(1250), place)
    await trio.sleep(0.2)
    await client.connect(server.peer_id, server.addresses, timeout=5)
    assert await say(client, server.peer_id) == b"hello"
