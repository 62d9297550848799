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

import math
from dataclasses import dataclass
from typing import Any

import msgpack
from pydantic import BaseModel, ValidationError

from syndb_common.errors import ErrorBody, InvalidRequest, SynDBError
from syndb_common.messages import PROTOCOL_VERSION, Message, to_wire
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


def encode_request(request_id: bytes, message: Message, *, seconds: float, work: Work | None = None) -> bytes:
    """The payload of a request frame."""
    request: dict[str, Any] = {
        "id": request_id,
        "type": type(message).__name__,
        "v": PROTOCOL_VERSION,
        "seconds": seconds,
        "body": to_wire(message),
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
    match _unpack(payload):
        case {
            "id": bytes(id_),
            "type": str(type_),
            "v": int(version),
            "seconds": int() | float() as seconds,
            **rest,
        } if len(id_) == ID_BYTES and len(type_) <= MAX_NAME_CHARACTERS and 0 < seconds < math.inf and "body" in rest:
            return Request(id_, type_, version, min(float(seconds), MAX_SECONDS), _work(rest), rest["body"])
    raise InvalidRequest("this is not a request", hint="a msgpack map of id, type, v, seconds and body is expected")


def encode_reply(request_id: bytes, reply: BaseModel) -> bytes:
    """The payload of a response frame."""
    return _pack({"id": request_id, "ok": to_wire(reply)})


def encode_error(request_id: bytes, error: SynDBError) -> bytes:
    """The payload of a response frame that says what went wrong."""
    try:
        return _pack({"id": request_id, "error": to_wire(error.to_body())})
    except (TypeError, ValueError, OverflowError):
        plain = ErrorBody(error=error.message[:8192], code=error.code, hint=error.hint[:4096])
        return _pack({"id": request_id, "error": to_wire(plain)})


def decode_response(payload: bytes) -> Response:
    """Read a response frame's payload.

    Raises:
        SynDBError: as ``internal_error``: it is not a response in this form.
    """
    match _unpack(payload):
        case {"id": bytes(id_), "ok": body}:
            return Response(id_, body)
        case {"id": bytes(id_), "error": body}:
            try:
                return Response(id_, error=SynDBError.from_body(ErrorBody.model_validate(body)))
            except ValidationError:
                pass
    raise SynDBError("the other daemon sent something that is no answer")


def _work(fields: dict[Any, Any]) -> Work | None:
    """The work that a request names, without what is not text for a log or no trace context."""
    match fields.get("trace"):
        case str(name) if name and name.isprintable():
            pass
        case _:
            return None
    match fields.get("headers"):
        case {"traceparent": str(context)}:
            return Work(name[:MAX_NAME_CHARACTERS], traceparent(context))
    return Work(name[:MAX_NAME_CHARACTERS])


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _unpack(payload: bytes) -> Any:
    """What the payload holds, or None when it is not msgpack; its lengths are bounded by the frame's."""
    try:
        return msgpack.unpackb(payload, strict_map_key=True)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
