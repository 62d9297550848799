"""The Flight server of an engine process: results out by ticket, uploads in, and at a hub queries of its users.

| call | needs | does |
|---|---|---|
| DoGet(ticket) | the ticket, and the secret of the reader it is for | streams one range of one result, once, with an end record |
| GetFlightInfo | scope query, at a hub | runs the query that is the command, or fetches the table of a version that is the path; answers with tickets, one for each part |
| DoAction begin | upload token, or scope upload | starts an upload: ``{"dataset_id", "metadata", "tables"}`` -> ``{"upload_id"}`` |
| DoPut ``{"upload_id", "table", "stream"}`` | the same | adds rows; answers each numbered batch with ``{"seq", "rows"}`` |
| DoAction publish | the same | ``{"upload_id"}`` -> a :class:`~syndb_common.flight.uploads.PublishResult` |
| DoAction abort | the same | ``{"upload_id"}`` |
| DoAction delete | the same | ``{"dataset_id", "version"}`` -> ``{"versions"}``, without a version all |
| DoAction status, cancel | whoever may do what they are about | ``{"query_id"}`` -> how it is, or that it was stopped |
| DoPut ``{"part": true}`` | a ticket for a delivery | hands a node's part to the hub's daemon (:mod:`syndb_common.engine.deliveries`) |
| ListActions | any of these | what there is |

A client that stands still is cut off, and so is one that shows no credential (:mod:`syndb_common.flight.watch`). What
waits for messages of its client, a DoPut, is let in by its headers alone. Flight's ``shutdown()`` waits for the slowest
reader: the server ends with its process instead.
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from pyarrow import flight

from syndb_common.engine.asking import Asker
from syndb_common.engine.deliveries import Deliveries, broken_off
from syndb_common.engine.offers import Offers, Result
from syndb_common.engine.publish import Uploads
from syndb_common.engine.work import Keeper
from syndb_common.errors import IncompleteResult, InvalidRequest, NotFound, NotSupported, SynDBError
from syndb_common.flight.access import ADMIN, UPLOAD, Access, Caller
from syndb_common.flight.allocation import keep_freed_memory
from syndb_common.flight.calls import MIDDLEWARE, Call, Calls, Handshake, call_of
from syndb_common.flight.growing import Growing
from syndb_common.flight.guests import Guests
from syndb_common.flight.incoming import Incoming, check_batch
from syndb_common.flight.queries import Queries, sql_info
from syndb_common.flight.requests import About, OfQuery, OfUpload, parse
from syndb_common.flight.settings import FlightLimits
from syndb_common.flight.sockets import address_of, allow_many
from syndb_common.flight.sql import is_command
from syndb_common.flight.streams import Stream, Streams
from syndb_common.flight.uploads import (
    Abort,
    Aborted,
    Begin,
    Begun,
    Delete,
    Deleted,
    Publish,
    Put,
    Stored,
)
from syndb_common.flight.watch import Watch
from syndb_common.flight.wire import PART, end_of, end_record, error_in, to_flight, to_json

ACTIONS = {
    "begin": "start an upload",
    "publish": "check an upload and make it the newest version of its data set",
    "abort": "drop an upload",
    "delete": "delete a version, or a data set with all its versions",
    "status": "say how a query or an upload is",
    "cancel": "stop a query or an upload",
}

_OF_FLIGHT = frozenset(
    (
        "CancelFlightInfo", "RenewFlightEndpoint", "SetSessionOptions", "GetSessionOptions", "CloseSession",
        "CreatePreparedStatement", "CreatePreparedSubstraitPlan", "ClosePreparedStatement", "CancelQuery",
        "BeginTransaction", "BeginSavepoint", "EndTransaction", "EndSavepoint",
    )
)  # fmt: skip
"""Actions that clients of Flight SQL try and go on without, when told that they do not exist."""


class FlightServer(flight.FlightServerBase):  # type: ignore[misc]
    """Serves from threads of its own as soon as it is made; ``port`` says where.

    Args:
        keeper: knows the queries under way.
        offers: results that wait for their readers.
        uploads: takes uploads.
        published: told of every version that an upload publishes.
        asker: asks the daemon about users and their queries; None where there are none.
        deliveries: of nodes, which the daemon expects.
        host, port, certificate, key: where to listen, and the TLS certificate, PEM.
        token_digest: SHA-256 of the owner's upload token.
        limits: what clients may use.
    """

    def __init__(
        self,
        keeper: Keeper,
        offers: Offers,
        uploads: Uploads,
        published: Callable[[], None],
        asker: Asker | None,
        deliveries: Deliveries,
        *,
        host: str,
        port: int,
        certificate: str,
        key: str,
        token_digest: bytes,
        limits: FlightLimits,
    ) -> None:
        self._keeper = keeper
        self._offers = offers
        self._uploads = uploads
        self._published = published
        self._deliveries = deliveries
        self._access = Access(token_digest, asker.ask if asker else None)
        self._queries = Queries(asker.ask, offers) if asker else None
        self._message_bytes = limits.message_bytes
        self._streams = Streams(limits)
        self._guests = Guests(limits)
        keep_freed_memory()
        allow_many()
        super().__init__(
            f"grpc+tls://{host}:{port}",
            auth_handler=Handshake(),
            tls_certificates=[(certificate, key)],
            middleware={MIDDLEWARE: Calls(self._admit)},
        )
        Watch(self._streams, self._guests, self.port).start()

    def do_get(self, context: Any, ticket: flight.Ticket) -> Any:
        """Stream what a ticket stands for."""
        with _as_flight():
            self._streams.count_call(context.peer())
            call, asked = call_of(context), ticket.ticket
            if is_command(asked):
                self._access.caller(call)
                if (table := sql_info(asked)) is not None:
                    return flight.RecordBatchStream(table)
            result = self._offers.redeem(asked, call.digest)
            call.at_end(result.close)
            if isinstance(result.source, Growing):
                result.source.left = context.is_cancelled
            self._welcome(context)
            stream = self._stream(context, own=result.own)
            schema = result.source.schema
        return flight.GeneratorStream(schema, _outgoing(result, schema, stream))

    def get_flight_info(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
        """Run what the descriptor asks for and say where its parts wait."""
        with _as_flight():
            caller = self._caller(context)
            if self._queries is None:
                raise NotSupported("this server answers no queries of its own", hint="ask the hub of its federation")
            self._stream(context)  # it keeps a thread as a stream does
            return self._queries.info(caller, descriptor, context.is_cancelled)

    def do_put(self, context: Any, descriptor: flight.FlightDescriptor, reader: Any, writer: Any) -> None:
        """Add the stream's rows to one table of an upload."""
        with _as_flight():
            if (descriptor.command or b"") == PART:
                self._deliver(context, reader, writer)
                return
            self._caller(context).require(UPLOAD)
            stream = self._stream(context)
            put = parse(Put, descriptor.command or b"")
            with stream.waiting():
                schema = reader.schema
            numbered = put.stream is not None
            with Incoming(reader, writer, stream, self._message_bytes, numbered=numbered) as incoming:
                rows = self._uploads.append(put.upload_id, put.table, put.stream, schema, incoming, incoming.stored)
            if numbered:
                return
            if context.is_cancelled():  # a client that was killed looks like the end of its stream
                self._uploads.abort(put.upload_id)
                return
        writer.write(to_json(Stored(rows=rows)))

    def _deliver(self, context: Any, reader: Any, writer: Any) -> None:
        """Hand a node's part to its reader as it comes."""
        self._streams.count_call(context.peer())
        delivery = self._deliveries.arrive(call_of(context).digest)
        self._welcome(context)
        try:
            stream = self._stream(context)
            with stream.waiting():
                delivery.begin(reader.schema)
            rows = 0
            while True:
                with stream.waiting():
                    chunk = reader.read_chunk()
                if (error := error_in(chunk.app_metadata)) is not None:
                    raise error
                if (end := end_of(chunk.app_metadata)) is not None:
                    break
                check_batch(chunk.data, self._message_bytes)
                rows += chunk.data.num_rows
                delivery.put(chunk.data)
            if end.rows != rows:
                raise IncompleteResult(f"{rows} of {end.rows} rows came", hint="repeat the query")
            delivery.complete(end.scan)
        except StopIteration:
            raise broken_off() from None
        except SynDBError as error:
            delivery.fail(error)
            raise
        finally:
            delivery.fail(broken_off())
        writer.write(to_json({"rows": rows}))

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """The actions there are."""
        with _as_flight():
            self._caller(context)
            return list(ACTIONS.items())

    def do_action(self, context: Any, action: flight.Action) -> list[bytes]:
        """One of :data:`ACTIONS`."""
        with _as_flight():
            caller = self._caller(context)
            body = action.body.to_pybytes() if action.body is not None else b""
            match action.type:
                case "status":
                    return [self._status(caller, parse(About, body).root)]
                case "cancel":
                    return [self._cancel(caller, parse(About, body).root)]
                case "begin" | "publish" | "abort" | "delete":
                    caller.require(UPLOAD)
                    return [self._upload(caller, action.type, body)]
                case name if name in _OF_FLIGHT:
                    raise NotImplementedError(f"there is no action {name}")
                case name:
                    raise NotFound(f"there is no action {name[:100]}", hint=f"there are {', '.join(ACTIONS)}")

    def _upload(self, caller: Caller, name: str, body: bytes) -> bytes:
        match name:
            case "begin":
                return to_json(Begun(upload_id=self._uploads.begin(parse(Begin, body))))
            case "publish":
                result = self._uploads.publish(parse(Publish, body).upload_id, caller.id)
                if not result.unchanged:
                    self._published()
                return to_json(result)
            case "delete":
                asked = parse(Delete, body)
                deleted = Deleted(versions=self._uploads.delete(asked.dataset_id, asked.version, caller.id))
                self._published()
                return to_json(deleted)
            case _:
                self._uploads.abort(parse(Abort, body).upload_id)
                return to_json(Aborted())

    def _status(self, caller: Caller, about: OfQuery | OfUpload) -> bytes:
        if isinstance(about, OfUpload):
            caller.require(UPLOAD)
            return to_json(self._uploads.status(about.upload_id))
        if self._queries is not None:
            return self._queries.status(caller, about.query_id)
        caller.require(ADMIN)
        progress = self._keeper.progress(str(about.query_id))
        if progress is None:
            raise NotFound("no such query is under way", hint="it has ended, or never began here")
        return to_json(asdict(progress))

    def _cancel(self, caller: Caller, about: OfQuery | OfUpload) -> bytes:
        if isinstance(about, OfUpload):
            caller.require(UPLOAD)
            self._uploads.abort(about.upload_id)
            return b"{}"
        if self._queries is not None:
            return self._queries.cancel(caller, about.query_id)
        caller.require(ADMIN)
        self._keeper.cancel(query_id=str(about.query_id))
        return b"{}"

    def _caller(self, context: Any) -> Caller:
        self._streams.count_call(context.peer())
        call = call_of(context)
        caller = call.caller or self._access.caller(call)
        self._welcome(context)
        return caller

    def _admit(self, method: flight.FlightMethod, call: Call) -> None:
        """Refuse what would wait for a first message of a stranger, or of somebody whose streams are all open."""
        if method == flight.FlightMethod.DO_EXCHANGE:
            raise NotImplementedError("there is no DoExchange")
        if method != flight.FlightMethod.DO_PUT:
            return
        with _as_flight():
            if self._deliveries.expects(call.digest):
                call.stream = self._streams.open(call.digest.hex(), own=True, most=1)
            else:
                if self._access.is_new(call):
                    self._streams.count_stranger()
                call.caller = self._access.caller(call)
                call.caller.require(UPLOAD)
                call.stream = self._streams.open(call.digest.hex())
        call.at_end(call.stream.close)

    def _welcome(self, context: Any) -> None:
        """Whoever calls is known."""
        call_of(context).at_end(self._guests.enter(context.peer()))

    def _stream(self, context: Any, *, own: bool = False) -> Stream:
        call = call_of(context)
        if call.stream is None:
            call.stream = self._streams.open(call.digest.hex() or context.peer(), own=own)
            call.at_end(call.stream.close)
        call.stream.address = address_of(context.peer())
        return call.stream


def _outgoing(result: Result, schema: pa.Schema, stream: Stream) -> Iterator[Any]:
    rows = 0
    with _as_flight():
        for batch in result.batches:
            rows += batch.num_rows
            with stream.waiting():
                yield batch
    with stream.waiting():
        yield pa.RecordBatch.from_pylist([], schema=schema), end_record(rows, result.source.scan())


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
