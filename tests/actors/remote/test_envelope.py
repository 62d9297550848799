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
from syndb_common.messages import PROTOCOL_VERSION, CancelQuery, JoinChallenge
from syndb_common.tracing import Work

ID = bytes(range(16))
GOOD = {"id": ID, "type": "HealthPing", "v": 1, "seconds": 5.0, "body": {"clock": 1.0}}


def test_a_request_comes_back_as_it_was_sent():
    query = CancelQuery(query_id=uuid4())
    work = Work("job 7", f"00-{'a' * 32}-{'b' * 16}-01")
    request = decode_request(encode_request(ID, query, seconds=2.5, work=work))
    assert (request.id, request.type, request.version, request.seconds) == (ID, "CancelQuery", PROTOCOL_VERSION, 2.5)
    assert request.work == work
    assert CancelQuery.model_validate(request.body) == query


def test_a_reply_comes_back_as_it_was_sent():
    challenge = JoinChallenge(join_id=uuid4(), hub_nonce=bytes(32))
    response = decode_response(encode_reply(ID, challenge))
    assert (response.id, response.error) == (ID, None)
    assert JoinChallenge.model_validate(response.body) == challenge


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


@pytest.mark.parametrize(
    ("added", "work"),
    [
        ({}, None),
        ({"trace": ""}, None),
        ({"trace": 7}, None),
        ({"trace": "two\nlines"}, None),
        ({"trace": "x" * 1000}, Work("x" * 200)),
        ({"trace": "job", "headers": None}, Work("job")),
        ({"trace": "job", "headers": {"traceparent": 1}}, Work("job")),
        ({"trace": "job", "headers": {"traceparent": "nonsense"}}, Work("job")),
        ({"headers": {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}}, None),
    ],
)
def test_nonsense_about_the_work_is_left_out(added, work):
    assert decode_request(msgpack.packb(GOOD | added)).work == work


@given(st.recursive(st.none() | st.text() | st.integers() | st.binary(), lambda x: st.dictionaries(st.text(), x)))
def test_whatever_is_said_about_the_work_the_request_is_read(value):
    try:
        payload = msgpack.packb(GOOD | {"trace": value, "headers": {"traceparent": value, "more": value}})
    except (OverflowError, UnicodeEncodeError):
        return
    work = decode_request(payload).work
    assert work is None or (0 < len(work.request_id) <= 200 and work.traceparent == "")


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
        decode_response(data)


def test_deep_nesting_is_refused():
    with pytest.raises(InvalidRequest):
        decode_request(b"\x91" * 100_000 + b"\xc0")


def test_an_error_is_rebuilt_at_the_other_side():
    response = decode_response(encode_error(ID, NotFound("no such query", hint="list them", query="7")))
    assert response.id == ID
    assert type(response.error) is NotFound
    assert (response.error.message, response.error.hint) == ("no such query", "list them")
    assert response.error.details == {"query": "7"}


def test_an_error_travels_without_details_that_cannot():
    response = decode_response(encode_error(ID, NotFound("no such query", what=object())))
    assert type(response.error) is NotFound
    assert response.error.details == {}


@pytest.mark.parametrize("error", [None, {}, {"error": 1}, "text"])
def test_an_error_that_cannot_be_read_is_no_answer(error):
    with pytest.raises(SynDBError, match="no answer"):
        decode_response(msgpack.packb({"id": ID, "error": error}))
