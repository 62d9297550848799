"""Reading a result by its ticket: complete and checked, or an error.

What a peer sends is foreign: every batch is validated in full, the size is bounded, and the stream counts only with
its end record (:mod:`syndb_common.flight.wire`). The server's certificate is pinned.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Final, Protocol

import pyarrow as pa
import trio
from pyarrow import flight

from syndb_common.engine.interface import Scan
from syndb_common.errors import Cancelled, IncompleteResult, InvalidRequest, LimitExceeded
from syndb_common.flight.allocation import GIVEN_BACK_AFTER_BYTES, give_back, keep_freed_memory
from syndb_common.flight.settings import is_location
from syndb_common.flight.tls import server_name
from syndb_common.flight.wire import end_of, from_flight

MAX_BATCH_BYTES: Final = 256 * 1024**2
"""Largest message accepted; ours are a tenth of that for the widest table."""
MAX_READERS: Final = 16
_readers = trio.CapacityLimiter(MAX_READERS)


class Endpoint(Protocol):
    """Where a result waits: an :class:`~syndb_common.engine.interface.Offer` or a ``FlightEndpoint`` message."""

    @property
    def location(self) -> str:
        """``grpc+tls://host:port``."""

    @property
    def certificate(self) -> str:
        """PEM to pin."""

    @property
    def ticket(self) -> bytes | None:
        """What to ask for."""


def connect(location: str, certificate: str) -> flight.FlightClient:
    """A client that trusts this one certificate. Connects when first used.

    Raises:
        InvalidRequest: what is said there would not be secret: that is no location of a server with TLS.
        ConfigError: that is no certificate.
    """
    if not is_location(location):
        raise InvalidRequest(f"{location[:200]!r} is no Flight location", hint="it is grpc+tls://host:port")
    keep_freed_memory()
    return flight.connect(
        location,
        tls_root_certs=certificate,
        override_hostname=server_name(certificate),
        generic_options=[("grpc.max_receive_message_length", MAX_BATCH_BYTES)],
    )


class Reading:
    """One result being read, in the thread that iterates; :meth:`cancel` may be called from another.

    Args:
        endpoint: where the result waits.
        seconds: bounds the call.
        max_bytes: bounds the Arrow data.
        secret: of the reader whom the ticket is for; empty where a ticket is for whoever has it.

    Attributes:
        schema: of the result, once it has begun.
        scan: what was read for it, once it is complete; zeros where that is not known.
    """

    def __init__(self, endpoint: Endpoint, *, seconds: float, max_bytes: int, secret: str = "") -> None:
        if endpoint.ticket is None:
            raise InvalidRequest("this endpoint offers no result")
        self._endpoint = endpoint
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._headers = [(b"authorization", f"Bearer {secret}".encode())] if secret else []
        self._reader: Any = None
        self._lock = threading.Lock()
        self._cancelled = False
        self.schema: pa.Schema | None = None
        self.scan = Scan()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The batches of the result; raises instead of ending when it is not complete.

        Raises:
            IncompleteResult: the stream broke off.
            LimitExceeded: more than ``max_bytes`` came, or the query reached a limit of its own.
            DeadlineExceeded, PeerUnavailable, NotFound: no answer in time, no server, no such ticket.
        """
        rows = size = given_back = 0
        try:
            with connect(self._endpoint.location, self._endpoint.certificate) as client:
                reader = self._open(client)
                try:
                    while (end := end_of((chunk := reader.read_chunk()).app_metadata)) is None:
                        if chunk.data is None:
                            raise IncompleteResult("a message without rows came", hint="repeat the query")
                        chunk.data.validate(full=True)
                        rows += chunk.data.num_rows
                        size += chunk.data.nbytes
                        if size > self._max_bytes:
                            raise LimitExceeded(f"the result is larger than {self._max_bytes} bytes")
                        yield chunk.data
                        if size - given_back > GIVEN_BACK_AFTER_BYTES:
                            given_back = size
                            del chunk
                            give_back()
                finally:
                    reader.cancel()
        except StopIteration:
            raise IncompleteResult("the stream ended without its end record", hint="repeat the query") from None
        except pa.ArrowException as error:
            raise (Cancelled("reading was cancelled") if self._cancelled else from_flight(error)) from None
        if end.rows != rows:
            raise IncompleteResult(f"{rows} of {end.rows} rows came", hint="repeat the query")
        self.scan = end.scan

    def _open(self, client: flight.FlightClient) -> Any:
        options = flight.FlightCallOptions(timeout=self._seconds, headers=self._headers)
        reader = client.do_get(flight.Ticket(self._endpoint.ticket), options)
        with self._lock:
            self._reader = reader
            if self._cancelled:
                reader.cancel()
        self.schema = reader.schema
        return reader

    def table(self, expected: pa.Schema | None = None) -> pa.Table:
        """The whole result.

        Raises:
            InvalidRequest: its schema is not the ``expected`` one (metadata apart).
        """
        batches = []
        for batch in self.batches():
            if expected is not None and not batch.schema.equals(expected):
                break
            batches.append(batch)
        if self.schema is None or (expected is not None and not self.schema.equals(expected)):
            raise InvalidRequest(f"the result has other columns than asked for: {_columns(self.schema)}")
        return pa.Table.from_batches(batches, schema=self.schema)

    def cancel(self) -> None:
        """Stop reading; the server ends the query."""
        with self._lock:
            self._cancelled = True
            if self._reader is not None:
                self._reader.cancel()


def _columns(schema: pa.Schema | None) -> str:
    return ", ".join(f"{field.name[:50]} {field.type}" for field in schema or ())[:500]


def read_table(
    endpoint: Endpoint,
    *,
    seconds: float = 300.0,
    max_bytes: int = 4 * 1024**3,
    schema: pa.Schema | None = None,
    secret: str = "",
) -> pa.Table:
    """Read a whole result; blocks. ``seconds`` bounds the call, ``max_bytes`` the Arrow data.

    Raises:
        What :meth:`Reading.batches` and :meth:`Reading.table` raise.
    """
    return Reading(endpoint, seconds=seconds, max_bytes=max_bytes, secret=secret).table(schema)


async def fetch(
    endpoint: Endpoint,
    *,
    seconds: float = 300.0,
    max_bytes: int = 4 * 1024**3,
    schema: pa.Schema | None = None,
    secret: str = "",
) -> pa.Table:
    """:func:`read_table` for trio: in a thread, cancelled together with its task."""
    reading = Reading(endpoint, seconds=seconds, max_bytes=max_bytes, secret=secret)
    try:
        return await trio.to_thread.run_sync(reading.table, schema, abandon_on_cancel=True, limiter=_readers)
    except trio.Cancelled:
        reading.cancel()
        raise
