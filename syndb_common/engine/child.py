"""What runs in the engine process once it is locked and confined: requests from the channel, work in threads.

The main thread only reads frames. Requests run in a small pool, the daemon's own reads in one of their own; a request
to cancel is acted on at once. Replies are written by whichever thread has one. Flight serves from threads of its own
(:mod:`syndb_common.flight.server`).
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa

from syndb_common.engine import channel
from syndb_common.engine.asking import Asker
from syndb_common.engine.backend import Backend
from syndb_common.engine.deliveries import Deliveries
from syndb_common.engine.interface import Limits
from syndb_common.engine.offers import OFFER_SECONDS, Offers
from syndb_common.engine.publish import Uploads
from syndb_common.engine.settings import Server
from syndb_common.engine.work import Keeper, Work
from syndb_common.errors import ConfigError, DataError, InvalidRequest, SynDBError, TooManyRequests
from syndb_common.tables.model import DATABASE

if TYPE_CHECKING:
    from syndb_common.flight.server import FlightServer

THREADS = 6
"""Requests at work. Each query uses all cores already; more only lets short ones pass long ones."""

OWN_THREADS = 2
"""Reads without a query id at work. They are the daemon's own: health and catalogue must not wait behind users."""

STOP_SECONDS = 3.0
"""Grace for readers of results when the daemon stops. Flight's own shutdown would wait for the slowest for ever."""

_OWN = frozenset({"query", "progress", "expect", "claim", "forget"})

SERVER_SECONDS = 45.0
"""How long the start waits for a ClickHouse server. A daemon that gave up sooner would restart itself to death."""

MAX_WAITING = 128
"""Requests accepted and not answered."""


class Channel:
    """The engine's end of the control channel. One thread reads; any thread may send."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)
        self._sending = threading.Lock()

    def receive(self) -> tuple[dict[str, Any], memoryview] | None:
        """The next frame; None when the channel has ended."""
        prefix = self._exactly(channel.HEADER_LENGTH.size)
        if prefix is None:
            return None
        header = self._exactly(channel.header_length(prefix))
        size = self._exactly(channel.BODY_LENGTH.size)
        body = self._exactly(channel.body_length(size)) if size is not None else None
        if header is None or body is None:
            return None
        return channel.unpack(bytes(header)), memoryview(body)

    def _exactly(self, size: int) -> bytearray | None:
        buffer = bytearray(size)
        view, filled = memoryview(buffer), 0
        while filled < size:
            try:
                received = self._socket.recv_into(view[filled:])
            except OSError:
                return None
            if not received:
                return None
            filled += received
        return buffer

    def send(self, header: dict[str, Any], body: pa.Buffer | bytes = b"") -> None:
        """Send one frame; when nobody listens any more the main thread notices."""
        pieces = channel.pack(header, body)
        with self._sending:
            try:
                for piece in pieces:
                    self._socket.sendall(piece)
            except OSError:
                pass


class Child:
    """The requests of one daemon, served on one ClickHouse folder."""

    def __init__(self, channel: Channel, keeper: Keeper) -> None:
        self._channel = channel
        self._keeper = keeper
        self.offers = Offers(keeper)
        self.deliveries = Deliveries()
        self.uploads = Uploads(keeper)
        self.asker = Asker(channel.send)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="query")
        self._own = ThreadPoolExecutor(OWN_THREADS, thread_name_prefix="own")
        self._waiting = 0
        self._count = threading.Lock()

    def accept(self, header: dict[str, Any], body: memoryview) -> None:
        """Act on one request. Called by the main thread only."""
        if header["op"] == "cancel":
            self._keeper.cancel(query_id=header.get("query_id"), request=header.get("request"))
            return
        if header["op"] == "reply":
            self.asker.settle(header)
            return
        with self._count:
            self._waiting += 1
            too_many = self._waiting > MAX_WAITING
        # The work is known to the keeper while it still waits for a thread: it can be cancelled from now on.
        limits = Limits(**header["limits"]) if header.get("limits") else None
        work = self._keeper.new(limits, query_id=header.get("query_id"), request=header["id"])
        own = header["op"] in _OWN and header.get("query_id") is None
        (self._own if own else self._pool).submit(self._serve, header, body, work, too_many)

    def _serve(self, header: dict[str, Any], body: memoryview, work: Work, too_many: bool) -> None:
        try:
            if too_many:
                return self._fail(header["id"], TooManyRequests("the engine is full", hint="try again in a moment"))
            reply, content = getattr(self, f"_{header['op']}")(work, header, body)
            self._channel.send({"id": header["id"], **reply}, content)
        except SynDBError as error:
            self._fail(header["id"], error)
        except pa.ArrowException as error:
            self._fail(header["id"], DataError(f"not Arrow data: {str(error)[:200]}"))
        except Exception as error:
            self._fail(header["id"], SynDBError(f"the engine failed: {type(error).__name__}: {str(error)[:200]}"))
        finally:
            if work.patience is None:
                work.close()
            with self._count:
                self._waiting -= 1

    def _fail(self, request: int, error: SynDBError) -> None:
        self._channel.send({"id": request, "error": error.to_body().model_dump()})

    def _execute(self, work: Work, header: dict[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        work.open(readonly=False)
        work.run(header["sql"])
        return {}, b""

    def _query(self, work: Work, header: dict[str, Any], body: memoryview) -> tuple[dict[str, Any], pa.Buffer]:
        work.open(readonly=True)
        found = work.read_all(header["sql"])
        self.uploads.deletions.check(header["sql"])
        return self._whole(work, found)

    def _merge(self, work: Work, header: dict[str, Any], body: memoryview) -> tuple[dict[str, Any], pa.Buffer]:
        partials = channel.body_to_table(body)
        partials.validate(full=True)
        work.open(readonly=False, session=True)
        columns = ", ".join(f"`{field.name}` {clickhouse_type(field)}" for field in partials.schema)
        work.run(f"CREATE TEMPORARY TABLE partials ({columns})")
        work.insert("partials", partials.schema, partials.to_batches())
        work.protect()
        return self._whole(work, work.read_all(header["sql"]))

    def _answer(self, work: Work, header: dict[str, Any], body: memoryview) -> tuple[dict[str, Any], pa.Buffer | bytes]:
        work.open(readonly=True, offered=True)
        batches = work.start(header["sql"])
        self.uploads.deletions.check(header["sql"])  # by now it reads what it found, or misses what was dropped
        found = list(batches)
        while batches and sum(batch.nbytes for batch in found) <= header["inline_bytes"]:
            batches = work.read()
            found.extend(batches)
        if batches:
            ticket = self.offers.make(work, found, header["reader"])
            return {"ticket": ticket, "expires_seconds": OFFER_SECONDS}, b""
        return self._whole(work, pa.Table.from_batches(found, schema=work.schema))

    def _whole(self, work: Work, table: pa.Table) -> tuple[dict[str, Any], pa.Buffer]:
        return {"scan": asdict(work.scan)}, channel.table_to_body(table)

    def _progress(self, work: Work, header: dict[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        progress = self._keeper.progress(header["of"])
        return {"progress": None if progress is None else asdict(progress)}, b""

    def _expect(self, work: Work, header: dict[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        return {"ticket": self.deliveries.expect(header["seconds"])}, b""

    def _claim(self, work: Work, header: dict[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        delivery = self.deliveries.find(header["ticket"])
        return {"ticket": self.offers.make_all([delivery], header["reader"], own=True)[0]}, b""

    def _forget(self, work: Work, header: dict[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        self.deliveries.forget(header["ticket"])
        return {}, b""

    def _insert(self, work: Work, header: dict[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        rows = channel.body_to_table(body)
        work.open(readonly=False)
        written = work.insert(f"{DATABASE}.`{header['table']}`", rows.schema, rows.to_batches())
        return {"rows": written}, b""


_CLICKHOUSE_TYPES = {
    pa.bool_(): "Bool", pa.string(): "String", pa.large_string(): "String", pa.binary(): "String", pa.uuid(): "UUID",
    pa.int8(): "Int8", pa.int16(): "Int16", pa.int32(): "Int32", pa.int64(): "Int64",
    pa.uint8(): "UInt8", pa.uint16(): "UInt16", pa.uint32(): "UInt32", pa.uint64(): "UInt64",
    pa.float32(): "Float32", pa.float64(): "Float64", pa.date32(): "Date32",
}  # fmt: skip


def clickhouse_type(field: pa.Field) -> str:
    """The ClickHouse type that holds an Arrow field of a partial result.

    Raises:
        InvalidRequest: partial results do not have such a type, or such a name.
    """
    if not field.name or not field.name.isprintable() or set(field.name) & {"`", "\\"}:
        raise InvalidRequest(f"a partial result has no column named {field.name[:100]!r}")
    name = _CLICKHOUSE_TYPES.get(field.type)
    if name is None and pa.types.is_timestamp(field.type):
        name = f"DateTime64({ {'s': 0, 'ms': 3, 'us': 6, 'ns': 9}[field.type.unit] }, 'UTC')"
    if name is None and pa.types.is_decimal(field.type):
        name = f"Decimal({field.type.precision}, {field.type.scale})"
    if name is None:
        raise InvalidRequest(f"a partial result cannot hold {field.type}")
    return f"Nullable({name})" if field.nullable else name


def serve(descriptor: int, folder: Path, *, locked: bool, confined: bool) -> NoReturn:
    """Serve the daemon until the channel ends, then exit."""
    control = Channel(descriptor)
    try:
        if locked:
            _serve(control, folder, confined)
        else:
            in_use = ConfigError(f"{folder} is in use by another process", hint="stop it, or use another folder")
            control.send({"id": 0, "error": in_use.to_body().model_dump()})
    except SynDBError as error:
        control.send({"id": 0, "error": error.to_body().model_dump()})
    except Exception as error:
        message = f"the engine cannot start: {type(error).__name__}: {str(error).splitlines()[0][:500]}"
        control.send({"id": 0, "error": ConfigError(message).to_body().model_dump()})
    finally:
        os._exit(0)  # no destructor may keep a process without a daemon alive


def _serve(control: Channel, folder: Path, confined: bool) -> None:
    first = control.receive()
    if first is None:
        return
    child, flight = _start(control, folder, first[0])
    control.send({"id": 0, "confined": confined, "flight_port": flight.port if flight else None})
    while (frame := control.receive()) is not None and frame[0]["op"] != "stop":
        child.accept(*frame)
    if frame is not None:
        child.offers.finish(STOP_SECONDS)
    if first[0]["scratch"]:
        shutil.rmtree(folder, ignore_errors=True)


def _die_when_told() -> None:
    """Undo ClickHouse's signal handlers, which can hang in a crashed process; a dead one is restarted in a second."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the owner's data
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _warm_up(keeper: Keeper) -> None:
    """Let the first rows into ClickHouse come in alone: a query beside them was seen to wait for ever, in one of thirty
    starts. It takes some milliseconds.
    """
    rows = pa.table({"n": [1]})
    with suppress(SynDBError), keeper.working(session=True) as work:
        work.run("CREATE TEMPORARY TABLE warm_up (n Int64)")
        work.insert("warm_up", rows.schema, rows.to_batches())


def _backend(folder: Path, server: dict[str, Any] | None) -> Backend:
    """ClickHouse; what is not used is not loaded."""
    if server is None:
        from syndb_common.engine.embedded_backend import EmbeddedBackend

        return EmbeddedBackend(str(folder / "data"))
    from syndb_common.engine.server_backend import ServerBackend

    return ServerBackend.found(Server(**server), SERVER_SECONDS)


def _start(control: Channel, folder: Path, settings: dict[str, Any]) -> tuple[Child, FlightServer | None]:
    keeper = Keeper(_backend(folder, settings["server"]))
    _die_when_told()
    if settings["server"] is None:
        _warm_up(keeper)
    else:
        keeper.end_former()
    child = Child(control, keeper)
    child.uploads.recover()
    if settings.get("flight") is None:
        return child, None
    from syndb_common.flight.server import FlightServer
    from syndb_common.flight.settings import FlightLimits

    def published() -> None:
        control.send({"id": 0, "event": "published"})

    said = {name: value for name, value in settings["flight"].items() if name != "pinned"}
    limits, asker = FlightLimits(**said.pop("limits")), child.asker if said.pop("users") else None
    try:
        flight = FlightServer(
            keeper, child.offers, child.uploads, published, asker, child.deliveries, limits=limits, **said
        )
    except pa.ArrowException as error:
        raise ConfigError(
            f"the Flight server cannot listen on {said['host']}:{said['port']}: {str(error)[:200]}",
            hint="flight.host is an address of this machine, and nobody else listens on flight.port",
        ) from error
    return child, flight
