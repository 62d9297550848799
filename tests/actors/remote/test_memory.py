import math

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from actors.remote.frames import MAX_FRAME_BYTES, FrameTooLarge, StreamEnded
from actors.remote.memory import MAX_STREAMS_PER_PEER, open_network
from actors.remote.memory_stream import WINDOW
from syndb_common.errors import InvalidRequest, PeerUnavailable

ECHO = "/echo/1"


@pytest.fixture
async def network():
    async with open_network() as network:
        yield network


@pytest.fixture
def pair(network):
    """A host that echoes, and one that dials it."""
    server, client = network.host(), network.host()
    server.set_handler(ECHO, echo)
    return server, client


async def echo(stream):
    while True:
        await stream.send(await stream.receive(timeout=100), timeout=100)


async def never_read(stream):
    await trio.sleep_forever()


async def stream_to(server, client):
    await client.connect(server.peer_id, server.addresses, timeout=5)
    return await client.open_stream(server.peer_id, ECHO, timeout=5)


async def say(stream, payload=b"hello", seconds=5):
    await stream.send(payload, timeout=seconds)
    return await stream.receive(timeout=seconds)


async def test_a_peer_answers_in_both_directions_over_one_connection(pair):
    server, client = pair
    client.set_handler(ECHO, echo)
    assert await say(await stream_to(server, client)) == b"hello"
    assert await say(await server.open_stream(client.peer_id, ECHO, timeout=1), b"back") == b"back"
    assert server.observed_hosts(client.peer_id) == (client.addresses[0].split("/")[2],)


async def test_frames_arrive_whole_and_in_order(pair):
    server, client = pair
    stream = await stream_to(server, client)
    for number in range(100):
        assert await say(stream, b"%d" % number) == b"%d" % number
    assert await say(stream, bytes(MAX_FRAME_BYTES)) == bytes(MAX_FRAME_BYTES)
    with pytest.raises(FrameTooLarge):
        await stream.send(bytes(MAX_FRAME_BYTES + 1), timeout=1)


async def test_a_closed_stream_ends_after_what_was_sent(network, pair):
    server, client = pair

    async def answer_twice(stream):
        await stream.send(b"one", timeout=1)
        await stream.send(b"two", timeout=1)

    server.set_handler(ECHO, answer_twice)
    stream = await stream_to(server, client)
    assert [await stream.receive(timeout=1) for _ in range(2)] == [b"one", b"two"]
    with pytest.raises(StreamEnded):
        await stream.receive(timeout=1)
    assert stream.over


@pytest.mark.parametrize("end", ["reset", "disconnect", "close", "raise"])
async def test_every_end_of_a_stream_wakes_who_waits_on_it(pair, end, autojump_clock):
    server, client = pair
    ended = trio.Event()

    async def answer(stream):
        await stream.receive(timeout=1)
        if end == "reset":
            await stream.reset()
        elif end == "disconnect":
            await server.disconnect(client.peer_id)
        elif end == "close":
            server.close()
        else:
            raise RuntimeError("a fault of the handler")
        ended.set()

    server.set_handler(ECHO, answer)
    stream = await stream_to(server, client)
    with pytest.raises(StreamEnded):
        await say(stream, seconds=50)
    assert trio.current_time() < 50
    assert client.is_connected(server.peer_id) == (end in ("reset", "raise"))
    assert server.counters["handler_failures"] == (end == "raise")


async def test_a_missed_deadline_or_a_cancellation_ends_the_stream(pair, autojump_clock):
    server, client = pair
    server.set_handler(ECHO, never_read)
    stream = await stream_to(server, client)
    with pytest.raises(trio.TooSlowError):
        await stream.receive(timeout=3)
    with pytest.raises(StreamEnded):
        await stream.send(b"x", timeout=1)
    other = await client.open_stream(server.peer_id, ECHO, timeout=1)
    with trio.move_on_after(1):
        await other.receive(timeout=3)
    assert other.over


async def test_who_sends_more_than_the_other_reads_waits(pair, autojump_clock):
    server, client = pair
    server.set_handler(ECHO, never_read)
    stream = await stream_to(server, client)
    for _ in range(WINDOW):
        await stream.send(b"x", timeout=1)
    with pytest.raises(trio.TooSlowError):
        await stream.send(b"x", timeout=1)


async def test_streams_of_one_peer_are_bounded(pair, autojump_clock):
    server, client = pair
    streams = [await stream_to(server, client) for _ in range(MAX_STREAMS_PER_PEER)]
    with pytest.raises(PeerUnavailable, match="too many"):
        await client.open_stream(server.peer_id, ECHO, timeout=1)
    await streams[0].reset()
    await trio.sleep(1)
    assert await say(await client.open_stream(server.peer_id, ECHO, timeout=1))


async def test_what_cannot_be_reached_says_why(network, pair, autojump_clock):
    server, client = pair
    elsewhere = server.addresses[0].partition("/p2p/")[0]
    for addresses, why in [
        ([], "cannot reach"),
        (["/ip4/10.9.9.9/udp/1/quic-v1"], "nobody listens there"),
        ([elsewhere], "another daemon"),
    ]:
        with pytest.raises(PeerUnavailable, match=why):
            await client.connect(network.host().peer_id, addresses, timeout=1)
    with pytest.raises(InvalidRequest):
        await client.connect("nonsense", [elsewhere], timeout=1)
    with pytest.raises(PeerUnavailable, match="not connected"):
        await client.open_stream(server.peer_id, ECHO, timeout=1)
    await client.connect(server.peer_id, server.addresses, timeout=1)
    with pytest.raises(PeerUnavailable, match="does not speak"):
        await client.open_stream(server.peer_id, "/other/1", timeout=1)


async def test_a_killed_host_is_not_missed_until_somebody_waits_for_it(network, pair, autojump_clock):
    server, client = pair
    stream = await stream_to(server, client)
    began = trio.current_time()
    server.kill()
    assert client.is_connected(server.peer_id)
    assert not stream.over
    with pytest.raises(trio.TooSlowError):
        await say(stream, seconds=2)
    with pytest.raises(PeerUnavailable, match="did not answer"):
        await client.open_stream(server.peer_id, ECHO, timeout=2)
    await client.disconnect(server.peer_id)
    with pytest.raises(PeerUnavailable, match="no answer"):
        await client.connect(server.peer_id, server.addresses, timeout=2)
    assert trio.current_time() - began == pytest.approx(6)

    again = network.host(server.peer_id)
    again.set_handler(ECHO, echo)
    assert again.addresses == server.addresses
    assert await say(await stream_to(again, client)) == b"hello"


@pytest.mark.parametrize("how", ["close", "kill", "partition"])
async def test_who_waits_for_the_loss_of_a_peer_learns_of_it_within_seconds(network, pair, how, autojump_clock):
    server, client = pair
    await client.lost(server.peer_id)  # not connected yet
    await client.connect(server.peer_id, server.addresses, timeout=1)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.lost, server.peer_id)
        await trio.sleep(30)
        assert client.is_connected(server.peer_id)
        {"close": server.close, "kill": server.kill, "partition": lambda: network.partition(server)}[how]()
    assert 30 <= trio.current_time() - began < 34
    assert not client.is_connected(server.peer_id)


async def test_two_hosts_of_one_peer_id_cannot_run(network, pair):
    with pytest.raises(ValueError, match="already listens"):
        network.host(pair[0].peer_id)


async def test_a_partition_holds_back_what_is_sent_until_it_heals(network, pair, autojump_clock):
    server, client = pair
    stream = await stream_to(server, client)
    network.partition(server)
    await stream.send(b"late", timeout=1)
    with trio.move_on_after(30):
        await trio.sleep_forever()
    with pytest.raises(PeerUnavailable, match="did not answer"):
        await client.open_stream(server.peer_id, ECHO, timeout=1)
    network.heal()
    assert await stream.receive(timeout=1) == b"late"


async def test_a_partition_between_two_groups_leaves_the_others_alone(network, pair, autojump_clock):
    server, client = pair
    third = network.host()
    network.partition(server, others=[client])
    with pytest.raises(PeerUnavailable):
        await client.connect(server.peer_id, server.addresses, timeout=1)
    assert await say(await stream_to(server, third)) == b"hello"


async def test_delays_are_those_of_each_direction(network, pair, autojump_clock):
    server, client = pair
    stream = await stream_to(server, client)
    network.link(client, server).delay = (1.0, 1.0)
    network.link(server, client).delay = (0.25, 0.25)
    began = trio.current_time()
    await say(stream)
    assert trio.current_time() - began == pytest.approx(1.25)
    with pytest.raises(PeerUnavailable, match="did not answer"):
        await client.open_stream(server.peer_id, ECHO, timeout=1)


async def test_the_next_frame_can_be_lost_or_come_twice(network, pair, autojump_clock):
    server, client = pair
    stream = await stream_to(server, client)
    network.link(client, server).duplicate_next = 1
    assert [await say(stream, b"twice"), await stream.receive(timeout=1)] == [b"twice"] * 2
    network.link(server, client).drop_next = 1
    with pytest.raises(trio.TooSlowError):
        await say(stream)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.booleans(), st.floats(0, 0.5), st.floats(0, 0.5))
def test_the_same_seed_brings_the_same_faults(seed, reorder, drop, duplicate):
    async def receive():
        received = []

        async def keep(stream):
            while True:
                received.append(await stream.receive(timeout=math.inf))

        async with open_network(seed=seed) as network:
            server, client = network.host(), network.host()
            server.set_handler(ECHO, keep)
            stream = await stream_to(server, client)
            link = network.link(client, server)
            link.delay, link.reorder, link.drop, link.duplicate = (0.0, 5.0), reorder, drop, duplicate
            for number in range(30):
                await stream.send(bytes([number]), timeout=100)
            await trio.sleep(100)
        return received

    first, second = (trio.run(receive, clock=MockClock(autojump_threshold=0)) for _ in range(2))
    assert first == second
    if not reorder:
        assert first == sorted(first), "a stream is ordered"
    if not drop:
        assert set(first) == {bytes([number]) for number in range(30)}
    if not duplicate:
        assert len(first) == len(set(first))
