from uuid import uuid4

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.remote.envelope import (
    MAX_SECONDS,
    decode_request,
    decode_response,
    encode_error,
    encode_reply,
    encode_request,
)
from syndb_common.errors import InvalidRequest, NotFound, SynDBError
from syndb_common.messages import CancelQuery, JoinChallenge

ID = bytes(range(16))
GOOD = {"id": ID, "type": "HealthPing", "v": 1, "seconds": 5.0, "body": {"clock": 1.0}}


def test_a_request_comes_back_as_it_was_sent():
    query = CancelQuery(query_id=uuid4())
    request = decode_request(encode_request(ID, query, seconds=2.5, trace="job 7"))
    assert (request.id, request.type, request.version, request.seconds, request.trace) == (
        ID,
        "CancelQuery",
        1,
        2.5,
        "job 7",
    )
    assert CancelQuery.model_validate(request.body) == query


def test_a_reply_comes_back_as_it_was_sent():
    challenge = JoinChallenge(join_id=uuid4(), hub_nonce=bytes(32))
    assert JoinChallenge.model_validate(decode_response(encode_reply(ID, challenge), ID)) == challenge


def test_fields_that_are_not_known_are_ignored():
    assert decode_request(msgpack.packb(GOOD | {"later": 1})).id == ID


@pytest.mark.parametrize(
    "change",
    [
        {"id": b"short"},
        {"id": "text"},
        {"type": 7},
        {"type": "x" * 201},
        {"v": "1"},
        {"seconds": 0},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"seconds": "5"},
    ],
)
def test_a_request_with_a_wrong_field_is_refused(change):
    with pytest.raises(InvalidRequest):
        decode_request(msgpack.packb(GOOD | change))


@pytest.mark.parametrize("missing", GOOD)
def test_a_request_that_lacks_a_field_is_refused(missing):
    with pytest.raises(InvalidRequest):
        decode_request(msgpack.packb({key: value for key, value in GOOD.items() if key != missing}))


def test_a_deadline_is_never_longer_than_a_day():
    assert decode_request(msgpack.packb(GOOD | {"seconds": 1e300})).seconds == MAX_SECONDS


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    with pytest.raises(InvalidRequest):
        decode_request(data)
    with pytest.raises(SynDBError):
        decode_response(data, ID)


def test_deep_nesting_is_refused():
    with pytest.raises(InvalidRequest):
        decode_request(b"\x91" * 100_000 + b"\xc0")


def test_an_error_is_rebuilt_at_the_other_side():
    error = NotFound("no such query", hint="list them", query="7")
    with pytest.raises(NotFound, match="no such query") as rebuilt:
        decode_response(encode_error(ID, error), ID)
    assert rebuilt.value.hint == "list them"
    assert rebuilt.value.details == {"query": "7"}


def test_an_error_travels_without_details_that_cannot():
    with pytest.raises(NotFound, match="no such query"):
        decode_response(encode_error(ID, NotFound("no such query", what=object())), ID)


def test_the_answer_to_another_request_is_none():
    with pytest.raises(SynDBError, match="no answer to this request"):
        decode_response(encode_reply(bytes(16), JoinChallenge(join_id=uuid4(), hub_nonce=bytes(32))), ID)
