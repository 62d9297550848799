"""What both ends of our Flight streams agree on: errors with their codes, and the end record.

A stream is complete only with its end record: the application metadata of a last, empty batch, JSON
``{"end": true, "rows": n, "scanned_rows": r, "scanned_bytes": b}``; what was read for it is 0 where it is not known.
Errors travel as an error body (:class:`~syndb_common.errors.ErrorBody`) in the ``extra_info`` of Flight's own error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import flight
from pydantic import BaseModel

from syndb_common.engine.interface import Scan
from syndb_common.errors import (
    Cancelled,
    DeadlineExceeded,
    ErrorBody,
    Forbidden,
    IncompleteResult,
    PeerUnavailable,
    SynDBError,
    Unauthenticated,
    Unavailable,
)

PART = b'{"part": true}'
"""Descriptor of a delivery to a hub; the bearer token is its ticket."""


UNKNOWN = Scan()
"""What was read, where nobody says it."""


MAX_RECORD_BYTES = 256 * 1024
"""What a peer may say beside a batch: room for the longest error."""


@dataclass(frozen=True, slots=True)
class End:
    """What the end record of a complete stream says: its rows, and what was read for them."""

    rows: int
    scan: Scan = UNKNOWN


def end_record(rows: int, scan: Scan = UNKNOWN) -> bytes:
    """The metadata of the last batch of a complete stream."""
    said = {"end": True, "rows": rows, "scanned_rows": scan.rows, "scanned_bytes": scan.bytes}
    return json.dumps(said).encode()


def end_of(metadata: pa.Buffer | None) -> End | None:
    """What the end record says when this is one, else None."""
    record = _record(metadata)
    if record.get("end") is not True or not isinstance(record.get("rows"), int):
        return None
    return End(record["rows"], Scan(_count(record.get("scanned_rows")), _count(record.get("scanned_bytes"))))


def _count(said: object) -> int:
    """A number of rows or bytes as a peer says it; 0 for what is none."""
    return said if type(said) is int and 0 <= said < 2**63 else 0


def error_record(error: SynDBError) -> bytes:
    """The metadata of the last batch of a stream that ends because of an error."""
    return json.dumps({"error": error.to_body().model_dump(mode="json")}).encode()


def error_in(metadata: pa.Buffer | None) -> SynDBError | None:
    """The error that ended a stream when this is its record, else None."""
    record = _record(metadata)
    if "error" not in record:
        return None
    try:
        return SynDBError.from_body(ErrorBody.model_validate(record["error"]))
    except ValueError:
        return None


def _record(metadata: pa.Buffer | None) -> dict[str, Any]:
    """What a peer says beside a batch; nothing where that is no record of ours."""
    if metadata is None or metadata.size > MAX_RECORD_BYTES:
        return {}
    try:
        record = json.loads(metadata.to_pybytes())
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


_KINDS = (
    (Unauthenticated, flight.FlightUnauthenticatedError),
    (Forbidden, flight.FlightUnauthorizedError),
    (Cancelled, flight.FlightCancelledError),
    (DeadlineExceeded, flight.FlightTimedOutError),
    (Unavailable, flight.FlightUnavailableError),
)


def to_flight(error: SynDBError) -> flight.FlightError:
    """Our error as Flight carries it: the nearest of Flight's own, whose text has our hint and code too."""
    kind = next((theirs for ours, theirs in _KINDS if isinstance(error, ours)), flight.FlightServerError)
    hint = f" ({error.hint})" if error.hint else ""
    return kind(f"{error.message}{hint} [{error.code}]", error.to_body().model_dump_json().encode())


def to_json(answer: BaseModel | dict[str, Any]) -> bytes:
    """An answer of ours as it goes over the wire."""
    return answer.model_dump_json().encode() if isinstance(answer, BaseModel) else json.dumps(answer).encode()


def from_flight(error: pa.ArrowException) -> SynDBError:
    """The error behind what a Flight client raised."""
    extra = getattr(error, "extra_info", b"")
    if extra:
        try:
            return SynDBError.from_body(ErrorBody.model_validate_json(extra))
        except ValueError:
            pass  # not an error of ours: say what Flight says
    text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    if isinstance(error, flight.FlightTimedOutError):
        return DeadlineExceeded("the Flight server did not answer in time")
    if isinstance(error, flight.FlightUnavailableError):
        return PeerUnavailable(f"the Flight server cannot be reached: {text}")
    if isinstance(error, flight.FlightUnauthenticatedError):
        return Unauthenticated(f"the Flight server refused the token: {text}")
    return IncompleteResult(f"the stream broke off: {text}", hint="repeat the query")
