import struct
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from actors.remote.frames import MAX_FRAME_BYTES, FrameStream, FrameTooLarge, StreamEnded


class Bytes:
    """A byte stream that gives what was written in the chunks it is told, then ends as it is told."""

    def __init__(self, chunks=(), end=b""):
        self.chunks = list(chunks)
        self.end = end
        self.written = []
        self.finished = []

    async def read(self, n=None):
        await trio.lowlevel.checkpoint()
        if self.chunks:
            return self.chunks.pop(0)
        if isinstance(self.end, Exception):
            raise self.end
        if self.end is None:
            await trio.sleep_forever()
        return self.end

    async def write(self, data):
        self.written.append(data)

    async def close(self):
        self.finished.append("close")

    async def reset(self):
        self.finished.append("reset")


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


@given(st.lists(st.binary(max_size=300), max_size=5), st.lists(st.integers(min_value=0), max_size=10))
def test_frames_survive_any_cutting_of_the_stream(payloads, places):
    async def read_all():
        stream = FrameStream(Bytes(cut(b"".join(map(frame, payloads)), places)), "peer")
        received = [await stream.receive(timeout=1) for _ in payloads]
        with pytest.raises(StreamEnded):
            await stream.receive(timeout=1)
        return received

    assert trio.run(read_all, clock=trio.testing.MockClock()) == payloads


async def test_length_and_payload_go_in_one_write():
    wire = Bytes()
    await FrameStream(wire, "peer").send(b"hello", timeout=1)
    assert wire.written == [b"\x00\x00\x00\x05hello"]


@pytest.mark.parametrize("end", [b"", EOFError(), OSError("gone"), ValueError("unknown stream")])
@pytest.mark.parametrize("received", [b"", b"\x00\x00", b"\x00\x00\x00\x09half"])
async def test_every_end_is_the_same_end(end, received):
    stream = FrameStream(Bytes([received] if received else [], end), "peer")
    with pytest.raises(StreamEnded):
        await stream.receive(timeout=1)
    assert stream.over


async def test_a_frame_above_the_cap_is_refused_from_its_length_alone():
    stream = FrameStream(Bytes([struct.pack(">I", MAX_FRAME_BYTES + 1)], None), "peer")
    with pytest.raises(FrameTooLarge):
        await stream.receive(timeout=1)
    assert stream.over


async def test_a_payload_above_the_cap_is_not_sent():
    wire = Bytes()
    stream = FrameStream(wire, "peer")
    with pytest.raises(FrameTooLarge):
        await stream.send(bytes(MAX_FRAME_BYTES + 1), timeout=1)
    assert not wire.written
    assert not stream.over


async def test_a_missed_deadline_ends_the_stream(autojump_clock):
    stream = FrameStream(Bytes([b"\x00"], None), "peer")
    with pytest.raises(trio.TooSlowError):
        await stream.receive(timeout=5)
    with pytest.raises(StreamEnded):
        await stream.send(b"x", timeout=5)


async def test_a_reader_is_woken_when_its_connection_ends(autojump_clock):
    stream = FrameStream(Bytes([], None), "peer")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_and_end, stream)
        with pytest.raises(StreamEnded):
            await stream.receive(timeout=60)
    assert trio.current_time() < 10


async def wait_and_end(stream):
    await trio.sleep(1)
    stream.end()


async def test_a_cancelled_reader_leaves_a_stream_that_is_not_used_again(autojump_clock):
    stream = FrameStream(Bytes([b"\x00"], None), "peer")
    with trio.move_on_after(1):
        await stream.receive(timeout=60)
    assert stream.over


async def test_whoever_made_the_stream_hears_of_its_end_once():
    over = []
    wire = Bytes()
    stream = FrameStream(wire, "peer", on_over=over.append)
    await stream.reset()
    assert over == [stream]
    assert wire.finished == ["reset"]
