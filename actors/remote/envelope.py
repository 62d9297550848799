"""Requests and responses as they stand in a frame: msgpack maps that other languages can read and write.

::

    request   {id: 16 bytes, type: "HealthPing", v: 2, seconds: 5.0, body: {...},
               trace: "...", headers: {traceparent: "00-..."}}       both optional
    response  {id, ok: {...}}  or  {id, error: {error, code, hint, details}}

``seconds`` is what remains of the asker's deadline, since clocks differ. ``trace`` names the work the request belongs
to, ``headers`` are what tracing adds to it; nonsense in either is left out, never refused. A request that cannot be
read at all is answered with an empty id.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import msgpack
from pydantic import BaseModel, ValidationError

from syndb_common.errors import ErrorBody, InvalidRequest, SynDBError
from syndb_common.messages import PROTOCOL_VERSION, Message, wire_value
from syndb_common.tracing import Work, traceparent

ID_BYTES = 16
MAX_SECONDS = 86_400.0
MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Request:
    """One request, its body not yet looked at.

    Attributes:
        id: 16 bytes chosen by the asker, the same when it repeats the request.
        type: the message's class name.
        version: of the vocabulary the asker speaks.
        seconds: how long the asker still waits, above 0.
        work: what the asker does it for, if it said so.
        body: what should become the message.
    """

    id: bytes
    type: str
    version: int
    seconds: float
    work: Work | None
    body: Any


@dataclass(frozen=True, slots=True)
class Response:
    """One response.

    Attributes:
        id: of the request it answers; empty when that could not be read.
        body: what should become the reply.
        error: what the other side answered instead.
    """

    id: bytes
    body: Any = None
    error: SynDBError | None = None


def encode_request(
    request_id: bytes,
    message: Message,
    *,
    seconds: float,
    work: Work | None = None,
    version: int = PROTOCOL_VERSION,
) -> bytes:
    """The payload of a request frame. What versions added to messages is ignored by peers of an older one."""
    request: dict[str, Any] = {
        "id": request_id,
        "type": type(message).__name__,
        "v": version,
        "seconds": seconds,
        "body": message.model_dump(),
    }
    if work is not None:
        request["trace"] = work.request_id
        if work.traceparent:
            request["headers"] = {"traceparent": work.traceparent}
    return _pack(request)


def decode_request(payload: bytes) -> Request:
    """Read a request frame's payload.

    Raises:
        InvalidRequest: it is not a request in this form.
    """
    fields = _unpack(payload)
    if isinstance(fields, dict):
        id_, type_, version, seconds = (fields.get(name) for name in ("id", "type", "v", "seconds"))
        if (
            isinstance(id_, bytes)
            and len(id_) == ID_BYTES
            and isinstance(type_, str)
            and len(type_) <= MAX_NAME_CHARACTERS
            and isinstance(version, int)
            and isinstance(seconds, int | float)
            and 0 < seconds < math.inf
            and "body" in fields
        ):
            return Request(id_, type_, version, min(float(seconds), MAX_SECONDS), _work(fields), fields["body"])
    raise InvalidRequest("this is not a request", hint="a msgpack map of id, type, v, seconds and body is expected")


def encode_reply(request_id: bytes, reply: BaseModel) -> bytes:
    """The payload of a response frame."""
    return _pack({"id": request_id, "ok": reply.model_dump()})


def encode_error(request_id: bytes, error: SynDBError) -> bytes:
    """The payload of a response frame that says what went wrong."""
    try:
        return _pack({"id": request_id, "error": error.to_body().model_dump()})
    except (TypeError, ValueError, OverflowError):
        plain = ErrorBody(error=error.message[:8192], code=error.code, hint=error.hint[:4096])
        return _pack({"id": request_id, "error": plain.model_dump()})


def decode_response(payload: bytes) -> Response:
    """Read a response frame's payload.

    Raises:
        SynDBError: as ``internal_error``: it is not a response in this form.
    """
    fields = _unpack(payload)
    if isinstance(fields, dict) and isinstance(id_ := fields.get("id"), bytes):
        if "ok" in fields:
            return Response(id_, fields["ok"])
        with contextlib.suppress(ValidationError):
            return Response(id_, error=SynDBError.from_body(ErrorBody.model_validate(fields.get("error"))))
    raise SynDBError("the other daemon sent something that is no answer")


def _work(fields: dict[Any, Any]) -> Work | None:
    """The work that a request names, without what is not text for a log or no trace context."""
    name, headers = fields.get("trace"), fields.get("headers")
    if not isinstance(name, str) or not name or not name.isprintable():
        return None
    context = headers.get("traceparent") if isinstance(headers, dict) else None
    return Work(name[:MAX_NAME_CHARACTERS], traceparent(context) if isinstance(context, str) else "")


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, default=wire_value)
    return packed


def _unpack(payload: bytes) -> Any:
    """What the payload holds, or None when it is not msgpack; its lengths are bounded by the frame's."""
    try:
        return msgpack.unpackb(payload, strict_map_key=True)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
