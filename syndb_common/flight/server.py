"""The Flight server of an engine process: results out by ticket, uploads in by the owner's token.

| call | needs | does |
|---|---|---|
| DoGet(ticket) | the ticket | streams one result, once, with an end record |
| DoAction begin | token | starts an upload: ``{"dataset_id", "metadata", "tables"}`` -> ``{"upload_id"}`` |
| DoPut ``{"upload_id", "table"}`` | token | adds rows; answers ``{"rows"}`` |
| DoAction publish | token | ``{"upload_id"}`` -> a :class:`~syndb_common.flight.uploads.PublishResult` |
| DoAction abort | token | ``{"upload_id"}`` |

Flight's ``shutdown()`` waits for the slowest reader: the server ends with its process instead.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import flight
from pydantic import BaseModel, ValidationError

from syndb_common.engine.offers import Offers
from syndb_common.engine.publish import Uploads
from syndb_common.errors import InvalidRequest, LimitExceeded, NotFound, SynDBError, Unauthenticated
from syndb_common.flight.uploads import Abort, Begin, Begun, Publish, Put, Stored
from syndb_common.flight.wire import end_record, to_flight

MAX_ACTION_BYTES = 64 * 1024
MAX_BATCH_BYTES = 256 * 1024**2
"""Largest batch of an upload; the client sends much smaller ones."""


class OwnerToken(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Lets DoGet pass, whose ticket is its permission; everything else needs the owner's token."""

    def __init__(self, digest: bytes) -> None:
        super().__init__()
        self._digest = digest

    def start_call(self, info: Any, headers: dict[str, list[Any]]) -> None:
        """Refuse the call unless it may go on."""
        if info.method == flight.FlightMethod.DO_GET:
            return
        values = [value for name, values in headers.items() if name.lower() == "authorization" for value in values]
        given = str(values[0]).removeprefix("Bearer ").encode() if len(values) == 1 else b""
        if not hmac.compare_digest(hashlib.sha256(given).digest(), self._digest):
            raise to_flight(Unauthenticated("a valid upload token is needed"))


class FlightServer(flight.FlightServerBase):  # type: ignore[misc]
    """Serves from threads of its own as soon as it is made; ``port`` says where."""

    def __init__(
        self,
        offers: Offers,
        uploads: Uploads,
        published: Callable[[], None],
        *,
        host: str,
        port: int,
        certificate: str,
        key: str,
        token_digest: bytes,
    ) -> None:
        super().__init__(
            f"grpc+tls://{host}:{port}",
            tls_certificates=[(certificate, key)],
            middleware={"token": OwnerToken(token_digest)},
        )
        self._offers = offers
        self._uploads = uploads
        self._published = published

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.GeneratorStream:
        """Stream the result of a ticket."""
        with _as_flight():
            result = self._offers.redeem(ticket.ticket)
        return flight.GeneratorStream(result.schema, _stream(result.schema, result.batches))

    def do_put(self, context: Any, descriptor: flight.FlightDescriptor, reader: Any, writer: Any) -> None:
        """Add the stream's rows to one table of an upload."""
        with _as_flight():
            put = _parse(Put, descriptor.command or b"")
            rows = self._uploads.append(put.upload_id, put.table, reader.schema, _incoming(reader))
            if context.is_cancelled():  # a client that was killed looks like the end of its stream
                self._uploads.abort(put.upload_id)
                return
        writer.write(Stored(rows=rows).model_dump_json().encode())

    def do_action(self, context: Any, action: flight.Action) -> list[bytes]:
        """Begin, publish or abort an upload."""
        with _as_flight():
            body = action.body.to_pybytes()
            match action.type:
                case "begin":
                    begun = Begun(upload_id=self._uploads.begin(_parse(Begin, body)))
                    return [begun.model_dump_json().encode()]
                case "publish":
                    result = self._uploads.publish(_parse(Publish, body).upload_id)
                    if not result.unchanged:
                        self._published()
                    return [result.model_dump_json().encode()]
                case "abort":
                    self._uploads.abort(_parse(Abort, body).upload_id)
                    return [b"{}"]
                case _:
                    raise NotFound(f"there is no action {action.type[:100]}")


def _stream(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[Any]:
    rows = 0
    with _as_flight():
        for batch in batches:
            rows += batch.num_rows
            yield batch
    yield pa.RecordBatch.from_pylist([], schema=schema), end_record(rows)


def _incoming(reader: Any) -> Iterator[pa.RecordBatch]:
    for chunk in reader:
        if chunk.data.nbytes > MAX_BATCH_BYTES:
            raise LimitExceeded(f"a batch of more than {MAX_BATCH_BYTES} bytes", hint="send smaller batches")
        chunk.data.validate(full=True)
        yield chunk.data


_M = TypeVar("_M", bound=BaseModel)


def _parse(model: type[_M], body: bytes) -> _M:
    if len(body) > MAX_ACTION_BYTES:
        raise LimitExceeded(f"a request of more than {MAX_ACTION_BYTES} bytes")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "request"
        raise InvalidRequest(f"{where}: {first['msg']}") from None


@contextmanager
def _as_flight() -> Iterator[None]:
    try:
        yield
    except SynDBError as error:
        raise to_flight(error) from None
    except flight.FlightError:
        raise
    except pa.ArrowException as error:
        raise to_flight(InvalidRequest(f"the rows are damaged: {str(error)[:200]}")) from None
