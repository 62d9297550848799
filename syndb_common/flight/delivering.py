"""Delivering a part to a hub: a stream of our own Flight server passed on to the hub's, as fast as the hub takes it.

The engine process may dial nowhere, by design: the daemon, which already dials the hub, fetches the rows from it and
passes them on. Each batch is taken when the one before is gone, so nothing piles up here.
"""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa
from pyarrow import flight

from syndb_common.errors import IncompleteResult, SynDBError
from syndb_common.flight.client import Endpoint, Reading, connect
from syndb_common.flight.wire import PART, end_record, error_record, from_flight


class Delivering:
    """One delivery, in the thread that calls :meth:`run`; :meth:`cancel` may be called from another.

    Args:
        reading: the part.
        to: the hub's Flight server and the ticket.
        seconds: bounds the whole.
    """

    def __init__(self, reading: Reading, to: Endpoint, seconds: float) -> None:
        self._reading = reading
        self._to = to
        self._seconds = seconds
        self._writer: Any = None
        self._cancelled = threading.Event()

    def run(self) -> int:
        """Deliver, and return the rows; blocks.

        Raises:
            SynDBError: the hub cannot be reached or did not take it all, or the part broke off: the hub is told.
        """
        secret = (self._to.ticket or b"").decode("ascii", "replace")
        headers = [(b"authorization", f"Bearer {secret}".encode())]
        options = flight.FlightCallOptions(timeout=self._seconds, headers=headers)
        batches = self._reading.batches()
        try:
            first = next(batches, None)
            with connect(self._to.location, self._to.certificate) as client:
                descriptor = flight.FlightDescriptor.for_command(PART)
                writer, answers = client.do_put(descriptor, self._reading.schema, options)
                rows = self._pass_on(writer, first, batches)
                writer.done_writing()
                answer = answers.read()
                writer.close()
        except pa.ArrowException as error:
            raise from_flight(error) from None
        finally:
            self._reading.cancel()
        if answer is None:
            raise IncompleteResult("the hub did not confirm the delivery")
        return rows

    def _pass_on(self, writer: Any, first: pa.RecordBatch | None, batches: Any) -> int:
        rows, schema = 0, self._reading.schema
        end = None
        try:
            batch = first
            while batch is not None and not self._cancelled.is_set():
                writer.write_batch(batch)
                rows += batch.num_rows
                batch = next(batches, None)
            if batch is None:
                end = end_record(rows, self._reading.scan)
        except SynDBError as error:
            end = error_record(error)
        if end is not None:
            writer.write_with_metadata(pa.RecordBatch.from_pylist([], schema=schema), end)
        return rows

    def cancel(self) -> None:
        """Stop; the hub's reader is told that it is not complete."""
        self._cancelled.set()
        self._reading.cancel()
