"""What peers say beside their batches: ours are read as they were written, and what is none of ours is nothing."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syndb_common.engine.interface import Scan
from syndb_common.errors import ErrorBody, NotFound
from syndb_common.flight.wire import MAX_RECORD_BYTES, End, end_of, end_record, error_in, error_record

counts = st.integers(0, 2**63 - 1)


@given(counts, counts, counts)
def test_an_end_record_says_what_was_written(rows: int, scanned: int, size: int) -> None:
    assert end_of(pa.py_buffer(end_record(rows, Scan(scanned, size)))) == End(rows, Scan(scanned, size))


def test_an_error_record_is_the_error_and_no_end() -> None:
    record = pa.py_buffer(error_record(NotFound("no such version", hint="list them")))
    error = error_in(record)
    assert isinstance(error, NotFound)
    assert (error.message, error.hint) == ("no such version", "list them")
    assert end_of(record) is None


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff",
        b"[" * 60_000,
        b"7",
        b'{"end": true}',
        b'{"end": true, "rows": "7"}',
        b'{"error": 7}',
        b'{"end": true, "rows": 1, "more": "' + b"x" * MAX_RECORD_BYTES + b'"}',
    ],
    ids=["nothing", "no text", "depth", "a number", "no rows", "rows as text", "no error", "too long"],
)
def test_what_is_no_record_is_nothing(said: bytes) -> None:
    assert end_of(pa.py_buffer(said)) is None
    assert error_in(pa.py_buffer(said)) is None


def test_the_longest_error_is_no_longer_than_a_record() -> None:
    body = ErrorBody(code="not_found", error="é" * 8192, hint="é" * 4096)
    assert len(json.dumps({"error": body.model_dump(mode="json")})) < MAX_RECORD_BYTES
