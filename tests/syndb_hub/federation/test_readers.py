"""Threads that read parts: a node that says nothing keeps few of them, whatever is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
import trio
from pyarrow import flight

from syndb_common.errors import PeerUnavailable, Unavailable
from syndb_common.flight.tls import Certificate, ensure_certificate
from syndb_common.flight.wire import end_record
from syndb_common.messages import FlightEndpoint
from syndb_common.syql import parse, partial_schema, plan
from syndb_hub.federation.gathering import Budget, Whole
from syndb_hub.federation.readers import MAX_GIVEN_UP, Reader, Readers
from syndb_hub.federation.taking import Taken, read
from tests.actors.federation_parts import published

TEXT = plan(parse("SELECT synapse_type FROM synapses"), [published("worm")])
SCHEMA = partial_schema(TEXT)


class Frozen(flight.FlightServerBase):
    """Takes calls, and says nothing to them until it thaws; to the ticket ``awake`` it says at once that there are no
    rows."""

    def __init__(self, certificate: Certificate) -> None:
        super().__init__("grpc+tls://127.0.0.1:0", tls_certificates=[(certificate.certificate, certificate.key)])
        self.calls = threading.Semaphore(0)
        self.thaws = threading.Event()
        self._certificate = certificate.certificate

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.FlightDataStream:
        if ticket.ticket != b"awake":
            self.calls.release()
            self.thaws.wait()
        return flight.GeneratorStream(SCHEMA, iter([(pa.RecordBatch.from_pylist([], schema=SCHEMA), end_record(0))]))

    async def read(self, reader: Reader, ticket: bytes) -> Taken:
        location = f"grpc+tls://127.0.0.1:{self.port}"
        endpoint = FlightEndpoint(location=location, certificate=self._certificate, ticket=ticket)
        return await read(endpoint, "", Whole(TEXT), Budget(10**6), reader, trio.CapacityLimiter(1), 60)

    async def give_up(self, reader: Reader) -> None:
        """Read, and give up once the call has come."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read, reader, b"frozen")
            await trio.to_thread.run_sync(self.calls.acquire)
            nursery.cancel_scope.cancel()


@pytest.fixture
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frozen]:
    server = Frozen(ensure_certificate(tmp_path_factory.mktemp("tls")))
    yield server
    server.thaws.set()
    server.shutdown()


async def test_a_node_that_says_nothing_keeps_few_readers_and_none_of_anothers(frozen: Frozen) -> None:
    readers = Readers()
    for _ in range(MAX_GIVEN_UP):
        await frozen.give_up(Reader(readers, "worm"))
    with pytest.raises(PeerUnavailable, match=f"{MAX_GIVEN_UP} of its parts were given up"):
        await frozen.read(Reader(readers, "worm"), b"awake")
    assert (await frozen.read(Reader(readers, "fly"), b"awake"))[0] is not None
    frozen.thaws.set()
    with trio.fail_after(60):
        while True:
            try:
                await frozen.read(Reader(readers, "worm"), b"awake")
                break
            except PeerUnavailable:
                await trio.sleep(0.01)


async def test_readers_that_are_waited_for_are_not_held_against_a_node(frozen: Frozen) -> None:
    readers = Readers()
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_GIVEN_UP + 1):
            nursery.start_soon(frozen.read, Reader(readers, "worm"), b"frozen")
        for _ in range(MAX_GIVEN_UP + 1):
            await trio.to_thread.run_sync(frozen.calls.acquire)
        assert (await frozen.read(Reader(readers, "worm"), b"awake"))[0] is not None
        frozen.thaws.set()


async def test_all_readers_together_are_bounded(frozen: Frozen) -> None:
    readers = Readers(most=2)
    for name in ("worm", "fly"):
        await frozen.give_up(Reader(readers, name))
    with pytest.raises(Unavailable, match="reads 2 parts already"):
        await frozen.read(Reader(readers, "fish"), b"awake")
