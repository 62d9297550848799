import time

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.remote.discovery import records
from actors.remote.discovery.records import (
    LIFETIME_SECONDS,
    MAX_ADDRESSES,
    MAX_RECORD_BYTES,
    RecordRefused,
    SequenceNumbers,
    check,
    cluster,
    key_of,
    newest,
    sign,
)
from actors.remote.identity import Identity

US = Identity.generate()
OTHER = Identity.generate()
NOW = 1_700_000_000
NAMES = st.just(records.HUB) | st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True).map(cluster)
PLACES = st.builds("/ip4/192.0.2.{}/tcp/{}".format, st.integers(0, 255), st.integers(1, 65535))


def address(place="/ip4/192.0.2.7/udp/4001/quic-v1", identity=US):
    return f"{place}/p2p/{identity.peer_id}"


def signed(identity=US, name=records.HUB, **changes):
    """A record as somebody would write it who has the key but not our rules."""
    fields = {
        "name": name,
        "peer_id": identity.peer_id,
        "addresses": [address(identity=identity)],
        "sequence": 1,
        "issued": NOW,
        "expires": NOW + 3600,
    }
    fields = {key: value for key, value in (fields | changes).items() if value is not ...}
    payload = msgpack.packb(fields)
    return msgpack.packb([payload, identity.sign(b"syndb-record-1\n" + payload)])


KEY = key_of(records.HUB, US.peer_id)


@given(NAMES, st.lists(PLACES, max_size=40, unique=True), st.integers(0, 2**63 - 1))
def test_a_record_is_read_as_it_was_signed(name, places, sequence):
    addresses = [address(place) for place in places]
    record = sign(US, name, addresses, sequence=sequence, now=NOW)
    assert check(key_of(name, US.peer_id), record.encoded, now=NOW) == record
    assert record.addresses == tuple(addresses)[: len(record.addresses)]
    assert len(record.addresses) == min(len(addresses), MAX_ADDRESSES)
    assert (record.name, record.peer_id, record.sequence) == (name, US.peer_id, sequence)


def test_long_addresses_are_left_out_until_the_record_fits():
    long = [address(f"/dns4/{'x' * 300}{number}.example.org/tcp/1") for number in range(16)]
    record = sign(US, records.HUB, long, sequence=1, now=NOW)
    assert 5 < len(record.addresses) < 16
    assert len(record.encoded) <= MAX_RECORD_BYTES


def test_the_layout_is_the_documented_one():
    assert check(KEY, signed(), now=NOW).addresses == (address(),)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_record_with_any_byte_changed_is_refused(position, change):
    encoded = bytearray(sign(US, records.HUB, [address()], sequence=5, now=NOW).encoded)
    encoded[position % len(encoded)] ^= change
    with pytest.raises(RecordRefused):
        check(KEY, bytes(encoded), now=NOW)


@given(st.binary(max_size=2 * MAX_RECORD_BYTES))
def test_any_bytes_are_refused_and_nothing_else_happens(noise):
    with pytest.raises(RecordRefused):
        check(KEY, noise, now=NOW)


DEEP = msgpack.packb(0)
for _ in range(2000):
    DEEP = b"\x91" + DEEP


@pytest.mark.parametrize(
    "encoded",
    [
        signed(name="syndb-cluster:UPPER"),
        signed(name="another-name"),
        signed(name=7),
        signed(peer_id=OTHER.peer_id),
        signed(peer_id="nobody"),
        signed(addresses="/ip4/192.0.2.7/tcp/1"),
        signed(addresses=[7]),
        signed(addresses=["/ip4/192.0.2.7/tcp/1"]),
        signed(addresses=[address(identity=OTHER)]),
        signed(addresses=[address()] * (MAX_ADDRESSES + 1)),
        signed(sequence=-1),
        signed(sequence=2**63),
        signed(sequence=True),
        signed(sequence=1.5),
        signed(sequence=...),
        signed(further="field"),
        signed(issued=NOW + 3600, expires=NOW + 7200),
        signed(expires=NOW + 10 * 86_400),
        signed(expires=NOW),
        signed(issued=NOW - 7200, expires=NOW - 1),
        msgpack.packb([b"", b"0" * 64]),
        msgpack.packb([b"", b""]),
        msgpack.packb({}),
        msgpack.packb([1, 2]),
        DEEP,
        b"",
    ],
)
def test_what_is_no_valid_record_is_refused_even_when_it_is_signed(encoded):
    with pytest.raises(RecordRefused):
        check(KEY, encoded, now=NOW)


def test_a_record_of_another_key_is_refused_under_ours():
    forged = signed(OTHER)
    assert check(key_of(records.HUB, OTHER.peer_id), forged, now=NOW)
    with pytest.raises(RecordRefused, match="not those of its key"):
        check(KEY, forged, now=NOW)
    payload, _ = msgpack.unpackb(signed())
    with pytest.raises(RecordRefused, match="not signed"):
        check(KEY, msgpack.packb([payload, OTHER.sign(b"syndb-record-1\n" + payload)]), now=NOW)
    with pytest.raises(RecordRefused, match="not signed"):
        check(KEY, msgpack.packb([payload, US.sign(payload)]), now=NOW)


@given(st.integers(NOW - 300, NOW + LIFETIME_SECONDS - 1))
def test_a_record_counts_until_it_expires(moment):
    encoded = sign(US, records.HUB, [address()], sequence=5, now=NOW).encoded
    assert check(KEY, encoded, now=moment)
    with pytest.raises(RecordRefused, match="expired"):
        check(KEY, encoded, now=NOW + LIFETIME_SECONDS)


@given(st.permutations(range(5)))
def test_the_highest_sequence_counts(order):
    assert newest(sign(US, records.HUB, [], sequence=sequence, now=NOW) for sequence in order).sequence == 4
    assert newest([]) is None


def test_sequences_grow_over_restarts_and_when_the_clock_is_set_back(tmp_path, monkeypatch):
    path = tmp_path / "sequence"
    first = [SequenceNumbers(path).next() for _ in range(3)]
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    second = [SequenceNumbers(path).next() for _ in range(3)]
    assert first + second == sorted(set(first + second))


@pytest.mark.parametrize("content", ["", "nonsense", "٣", "9" * 40, "-7"])
def test_a_damaged_sequence_file_is_started_anew(tmp_path, content):
    path = tmp_path / "sequence"
    path.write_text(content, encoding="utf-8")
    assert SequenceNumbers(path).next() >= 1_700_000_000_000
