"""Arrow out of a table in memory through our Flight server, and into it, against the same bytes over a bare socket.

Server and client are two processes in both cases, on this machine's loopback. Ours is the product's own server with
its ticket or token check, its end record and its checks of what comes in, and for reading the product's own client
with its checks; only the query behind a ticket and the staging table behind an upload are replaced, by a table in
memory and by a count. The reference is ``sendall`` and ``recv_into`` of as many bytes. With several streams each
carries its part of the rows, and both sides use as many threads. Connecting counts on both sides.

``flight_get_vs_bare_flight`` compares with what pyarrow does when nothing of ours is in between, neither tickets nor
checks nor an end record: what is missing to the socket beyond that is the price of gRPC, which copies what it receives
once, with TLS three times, and takes no settings that change that.

The product speaks TLS only, as server and as client. The plain figures are measured on a listener without TLS that is
made here, on 127.0.0.1, in a process that lives as long as the measurement (:class:`_PlainServer`), by a client that is
made here too (:func:`_connect`); no setting of the product makes them.
"""

from __future__ import annotations

import hashlib
import json
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import numpy as np
import pyarrow as pa
from pyarrow import flight

from bench.result import Result, rate
from syndb_common.engine.deliveries import Deliveries
from syndb_common.engine.interface import Offer, Scan
from syndb_common.engine.offers import Offers
from syndb_common.flight import client
from syndb_common.flight.client import Reading, connect
from syndb_common.flight.server import FlightServer
from syndb_common.flight.settings import FlightLimits
from syndb_common.flight.tls import ensure_certificate
from syndb_common.flight.uploads import Put

ROWS = 5_000_000
BATCH_ROWS = 65_536
ROUNDS = 9
STREAMS = 4
GOAL, TLS_GOAL = 0.40, 0.25
LIMIT_SECONDS = 120.0
TOKEN = "for this measurement"
DIGEST = hashlib.sha256(TOKEN.encode()).digest()
PIECE = 1024**2
WISH = struct.Struct("!?Q")
"""What a bare connection starts with: whether the client wants to read, and how many bytes."""


def run(rows: int = ROWS, rounds: int = ROUNDS) -> list[Result]:
    """Bytes per second through Flight and through a socket: both directions, one stream and four, plain and TLS."""
    found: dict[str, list[float]] = {}
    with _server(rows) as server, patch.object(client, "connect", _connect):
        ways: dict[str, Callable[[], None]] = {}
        for streams, suffix in ((1, ""), (STREAMS, "_4_streams")):
            ways |= {
                f"bare_get{suffix}": lambda n=streams: server.bare(n, read=True),  # type: ignore[misc]
                f"get{suffix}": lambda n=streams: server.get(n, server.plain),  # type: ignore[misc]
                f"get{suffix}_tls": lambda n=streams: server.get(n, server.tls),  # type: ignore[misc]
                f"bare_put{suffix}": lambda n=streams: server.bare(n, read=False),  # type: ignore[misc]
                f"put{suffix}": lambda n=streams: server.put(n, server.plain),  # type: ignore[misc]
                f"put{suffix}_tls": lambda n=streams: server.put(n, server.tls),  # type: ignore[misc]
            }
        ways |= {
            "bare_flight": lambda: server.bare_flight(server.bare_plain),
            "bare_flight_tls": lambda: server.bare_flight(server.bare_tls),
        }
        for _ in range(1 + rounds):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                found.setdefault(name, []).append(server.size / (time.perf_counter() - began))
    middle = {name: statistics.median(rates[1:]) for name, rates in found.items()}
    beside_pyarrow = [
        rate(f"flight_get_vs_bare_flight{tls}", middle[f"get{tls}"], middle[f"bare_flight{tls}"], "B/s", rounds)
        for tls in ("", "_tls")
    ]
    return beside_pyarrow + [
        rate(
            f"flight_{direction}_vs_loopback{suffix}{tls}",
            middle[f"{direction}{suffix}{tls}"],
            middle[f"bare_{direction}{suffix}"],
            "B/s",
            rounds,
            goal=goal,
        )
        for direction in ("get", "put")
        for suffix in ("", "_4_streams")
        for tls, goal in (("", GOAL), ("_tls", TLS_GOAL))
    ]


@dataclass(frozen=True)
class _Server:
    """The serving process as the client sees it. Each call moves the whole table once, in equal parts side by side."""

    process: subprocess.Popen[str]
    plain: str
    tls: str
    bare_plain: str
    bare_tls: str
    certificate: str
    port: int
    table: pa.Table

    @property
    def size(self) -> int:
        """Bytes that a call moves."""
        return int(self.table.nbytes)

    def get(self, streams: int, location: str) -> None:
        """Read the table by tickets."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(streams, file=self.process.stdin, flush=True)
        tickets = [bytes.fromhex(text) for text in json.loads(self.process.stdout.readline())]

        def read(ticket: bytes) -> int:
            endpoint = Offer(ticket, location, self.certificate, expires_seconds=LIMIT_SECONDS)
            reading = Reading(endpoint, seconds=LIMIT_SECONDS, max_bytes=2 * self.size, secret=TOKEN)
            return sum(batch.num_rows for batch in reading.batches())

        self._expect_all(_at_once(read, tickets))

    def put(self, streams: int, location: str) -> None:
        """Send the table with the owner's token."""
        headers = [(b"authorization", f"Bearer {TOKEN}".encode())]
        options = flight.FlightCallOptions(timeout=LIMIT_SECONDS, headers=headers)
        command = Put(upload_id=uuid4(), table="synapses").model_dump_json().encode()

        def send(part: list[pa.RecordBatch]) -> int:
            with _connect(location, self.certificate) as connection:
                descriptor = flight.FlightDescriptor.for_command(command)
                writer, answers = connection.do_put(descriptor, self.table.schema, options)
                for batch in part:
                    writer.write_batch(batch)
                writer.done_writing()
                stored = json.loads(answers.read().to_pybytes())
                writer.close()
            return int(stored["rows"])

        self._expect_all(_at_once(send, _parts(self.table, streams)))

    def bare_flight(self, location: str) -> None:
        """Read the table as pyarrow does by itself."""
        with _connect(location, self.certificate) as connection:
            self._expect_all(chunk.data.num_rows for chunk in connection.do_get(flight.Ticket(b"")))

    def _expect_all(self, rows: Iterable[int]) -> None:
        if sum(rows) != self.table.num_rows:
            raise RuntimeError("rows are missing")

    def bare(self, streams: int, *, read: bool) -> None:
        """Move as many bytes over bare sockets."""
        sizes = [sum(batch.nbytes for batch in part) for part in _parts(self.table, streams)]

        def move(size: int) -> None:
            with socket.create_connection(("127.0.0.1", self.port)) as connection:
                connection.sendall(WISH.pack(read, size))
                if read:
                    _receive(connection, size)
                else:
                    _send(connection, size)
                    connection.recv(1)

        _at_once(move, sizes)


def _connect(location: str, certificate: str) -> flight.FlightClient:
    """As the product does; without TLS where the listener has none."""
    if location.startswith("grpc+tls://"):
        return connect(location, certificate)
    return flight.connect(location, generic_options=[("grpc.max_receive_message_length", client.MAX_BATCH_BYTES)])


def _at_once(work: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(work, items))


def _parts(table: pa.Table, streams: int) -> list[list[pa.RecordBatch]]:
    batches = table.to_batches(max_chunksize=BATCH_ROWS)
    return [batches[first::streams] for first in range(streams)]


def _send(connection: socket.socket, size: int) -> None:
    piece = memoryview(bytes(PIECE))
    while size:
        size -= connection.send(piece[: min(size, PIECE)])


def _receive(connection: socket.socket, size: int) -> None:
    piece = memoryview(bytearray(PIECE))
    while size:
        received = connection.recv_into(piece[: min(size, PIECE)])
        if not received:
            raise RuntimeError("bytes are missing")
        size -= received


def _table(rows: int) -> pa.Table:
    """Two ids and a measurement by row, 40 bytes."""
    random = np.random.default_rng(1)
    ids = [pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), rows, [None, pa.py_buffer(random.bytes(16 * rows))])
           for _ in range(2)]  # fmt: skip
    return pa.table({"pre_id": ids[0], "post_id": ids[1], "connection_score": random.random(rows)})


@contextmanager
def _server(rows: int) -> Iterator[_Server]:
    command = [sys.executable, "-m", "bench.loopback", str(rows)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield _Server(process, **said, table=_table(rows))
        process.stdin.close()


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows in memory behind a ticket. Implements :class:`syndb_common.engine.offers.Source`."""

    schema: pa.Schema
    batches: list[pa.RecordBatch]
    gone: bool = False

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows."""
        return iter(self.batches)

    def scan(self) -> Scan:
        """It costs no query."""
        return Scan()

    def end(self) -> None:
        """There is nothing to give back."""


class _Count:
    """Validates and counts rows where uploads are expected (:class:`syndb_common.engine.publish.Uploads`)."""

    def append(
        self, upload_id: object, table: str, stream: object, schema: pa.Schema, incoming: Iterable[Any], stored: object
    ) -> int:
        """The rows of these numbers and batches."""
        rows = 0
        for _, batch in incoming:
            batch.validate(full=True)
            rows += batch.num_rows
        return rows


class _WithoutTls(flight.FlightServerBase):  # type: ignore[misc]
    """Stands behind :class:`FlightServer` in :class:`_PlainServer` and listens without TLS."""

    def __init__(self, location: str, *, tls_certificates: object, **options: Any) -> None:
        super().__init__(location.replace("grpc+tls://", "grpc://"), **options)


class _PlainServer(FlightServer, _WithoutTls):
    """The product's server on a listener without TLS, for this measurement on this machine only."""


class _Bare(flight.FlightServerBase):  # type: ignore[misc]
    """A table for whoever asks, with no more than pyarrow does."""

    def __init__(self, location: str, table: pa.Table, **options: Any) -> None:
        super().__init__(location, **options)
        self._table = table

    def do_get(self, context: object, ticket: object) -> flight.RecordBatchStream:
        """The table."""
        batches = self._table.to_batches(max_chunksize=BATCH_ROWS)
        return flight.RecordBatchStream(pa.RecordBatchReader.from_batches(self._table.schema, batches))


def _serve(rows: int) -> None:
    table = _table(rows)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve_bare, args=[listener], daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="syndb-bench-") as folder:
        pair = ensure_certificate(Path(folder))
    nothing: Any = None
    offers = Offers(nothing)
    uploads: Any = _Count()
    plain, tls = (
        kind(
            nothing,
            offers,
            uploads,
            lambda: None,
            None,
            Deliveries(),
            host="127.0.0.1",
            port=0,
            certificate=pair.certificate,
            key=pair.key,
            token_digest=DIGEST,
            limits=FlightLimits(),
        )
        for kind in (_PlainServer, FlightServer)
    )
    bare_plain = _Bare("grpc://127.0.0.1:0", table)
    bare_tls = _Bare("grpc+tls://127.0.0.1:0", table, tls_certificates=[(pair.certificate, pair.key)])
    said = {
        "plain": f"grpc://127.0.0.1:{plain.port}",
        "tls": f"grpc+tls://127.0.0.1:{tls.port}",
        "bare_plain": f"grpc://127.0.0.1:{bare_plain.port}",
        "bare_tls": f"grpc+tls://127.0.0.1:{bare_tls.port}",
        "certificate": pair.certificate,
        "port": listener.getsockname()[1],
    }
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        parts = [_Part(table.schema, part) for part in _parts(table, int(line))]
        print(json.dumps([ticket.hex() for ticket in offers.make_all(parts, DIGEST)]), flush=True)


def _serve_bare(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer_bare, args=[connection], daemon=True).start()


def _answer_bare(connection: socket.socket) -> None:
    with connection:
        read, size = WISH.unpack(connection.recv(WISH.size, socket.MSG_WAITALL))
        if read:
            _send(connection, size)
        else:
            _receive(connection, size)
            connection.send(b"!")


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
