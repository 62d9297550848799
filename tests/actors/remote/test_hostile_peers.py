"""What strangers may take of a host, and what is kept for those that it knows."""

import contextlib

import pytest
import trio

from actors.remote import inbound
from actors.remote.frames import StreamEnded
from actors.remote.host import open_host
from actors.remote.identity import Identity
from syndb_common.errors import PeerUnavailable

ECHO = "/syndb-test/echo/1"


def framed(payload):
    return len(payload).to_bytes(4, "big") + payload


async def test_one_byte_at_a_time_does_not_stretch_a_deadline(hosts, transport):
    server, hostile, over, late = await hosts(transport), await hosts(), trio.Event(), []

    async def receive(stream):
        try:
            await stream.receive(timeout=1)
        except trio.TooSlowError as error:
            late.append(error)
        finally:
            over.set()

    server.set_handler(ECHO, receive)
    await hostile.connect(server.peer_id, server.addresses, timeout=5)
    stream = await hostile.open_raw_stream(server.peer_id, ECHO, timeout=5)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def trickle():
                with contextlib.suppress(Exception):
                    for byte in framed(b"x" * 1000):
                        await stream.write(bytes([byte]))
                        await trio.sleep(0.1)

            nursery.start_soon(trickle)
            await over.wait()
            nursery.cancel_scope.cancel()
    assert late


async def test_strangers_of_one_address_hold_few_places_and_members_all_they_need(listen, monkeypatch):
    monkeypatch.setattr(inbound, "MAX_STRANGERS_PER_HOST", 2)
    members = [Identity.generate() for _ in range(4)]
    known = {member.peer_id for member in members}
    in_use = trio.Event()

    async def hold(stream):
        await stream.receive(timeout=60)
        in_use.set()
        await trio.sleep_forever()

    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(open_host(Identity.generate(), [listen], known=known.__contains__))
        server.set_handler(ECHO, hold)

        async def come(identity):
            host = await stack.enter_async_context(open_host(identity, []))
            await host.connect(server.peer_id, server.addresses, timeout=5)
            stream = await host.open_stream(server.peer_id, ECHO, timeout=5)
            await stream.send(b"busy", timeout=5)

        for _ in range(2):
            await come(Identity.generate())
        await in_use.wait()
        with pytest.raises((PeerUnavailable, StreamEnded, trio.TooSlowError)):
            await come(Identity.generate())
        for member in members:
            await come(member)
        assert all(server.is_connected(member.peer_id) for member in members)


async def test_an_idle_stranger_gives_way_to_the_next_one(listen, monkeypatch):
    monkeypatch.setattr(inbound, "MAX_STRANGERS_PER_HOST", 2)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(open_host(Identity.generate(), [listen]))
        for _ in range(5):
            host = await stack.enter_async_context(open_host(Identity.generate(), []))
            await host.connect(server.peer_id, server.addresses, timeout=5)
            with trio.fail_after(5):
                while not server.is_connected(host.peer_id):  # noqa: ASYNC110 - libp2p has no event for it
                    await trio.sleep(0.02)
        await trio.sleep(0.3)
        assert len(server.connected_peers) == 2


async def test_no_stranger_pushes_out_a_member_however_idle_that_is(hosts, transport):
    members: set[str] = set()
    server = await hosts(transport, known=members.__contains__, max_connections=3)

    async def come():
        host = await hosts()
        await host.connect(server.peer_id, server.addresses, timeout=5)
        return host

    for _ in range(2):
        members.add((await come()).peer_id)
    places_left_to_strangers = 1
    for _ in range(3):
        await come()
        await trio.sleep(0.3)
        assert members <= set(server.connected_peers)
        assert len(server.connected_peers) == len(members) + places_left_to_strangers
    members.update(server.connected_peers)
    with contextlib.suppress(PeerUnavailable):
        await come()
    with trio.fail_after(5):
        while not server.counters["refused_connections"]:  # noqa: ASYNC110 - libp2p has no event for it
            await trio.sleep(0.02)
    assert set(server.connected_peers) == members


async def test_frames_of_strangers_are_small_until_they_are_known(hosts):
    known = set()
    server, client = await hosts("tcp", known=known.__contains__), await hosts()

    async def echo(stream):
        await stream.send(await stream.receive(timeout=5), timeout=5)

    server.set_handler(ECHO, echo)
    await client.connect(server.peer_id, server.addresses, timeout=5)

    async def say(size):
        stream = await client.open_stream(server.peer_id, ECHO, timeout=5)
        await stream.send(b"x" * size, timeout=5)
        return len(await stream.receive(timeout=5))

    assert await say(64 * 1024) == 64 * 1024
    with pytest.raises(StreamEnded):
        await say(64 * 1024 + 1)
    known.add(client.peer_id)
    assert await say(512 * 1024) == 512 * 1024


def test_an_address_is_an_ipv4_address_or_64_bits_of_ipv6():
    assert inbound.host_group("192.0.2.7") == "192.0.2.7"
    assert inbound.host_group("2001:db8::1") == inbound.host_group("2001:db8::ffff:1") == "2001:db8::/64"
    assert inbound.host_group("2001:db8:0:1::1") != inbound.host_group("2001:db8::1")
    assert inbound.host_group("") == ""
