"""The engine as a daemon sees it: a child process, reached over a channel, with chdb in it or a server behind it.

:meth:`LocalEngine.run` is the life of one child. It raises when the child dies; whoever supervises runs it again.
Calls that were under way fail with :class:`~syndb_common.errors.EngineUnavailable`, calls made meanwhile wait a
moment for the next child. Nothing of ClickHouse is loaded into the daemon.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import structlog
import trio

from syndb_common.engine import channel, lock
from syndb_common.engine.asked import Answers, Asked
from syndb_common.engine.interface import INLINE_BYTES, Answer, Limits, Offer, Progress, Scan
from syndb_common.engine.link import MAX_IN_FLIGHT, Link, Pending
from syndb_common.engine.settings import Server
from syndb_common.errors import (
    Conflict,
    DeadlineExceeded,
    EngineUnavailable,
    ErrorBody,
    SynDBError,
    TooManyRequests,
)
from syndb_common.flight.settings import UPLOAD_TOKEN_FILE, FlightSettings
from syndb_common.flight.tls import certificate_of
from syndb_common.messages import FlightEndpoint
from syndb_common.settings import write_private

START_SECONDS: Final = 60.0
"""A start takes about a second; much more only when ClickHouse has parts to check after a crash."""
RESTART_SECONDS: Final = 10.0
"""How long a call waits for a child that is being restarted."""
STOP_SECONDS: Final = 5.0
MARGIN_SECONDS: Final = 2.0
"""What a call may take beyond its limit inside the engine: the way there and back."""
MAINTENANCE: Final = Limits(seconds=600.0)
_QUESTION: Final = Limits(seconds=5.0)
LARGE_BYTES: Final = 1024**2
"""Tables above this are packed in a thread."""

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_INHERITED = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ")
_log = structlog.get_logger(__name__)
_packing = trio.CapacityLimiter(2)


class LocalEngine:
    """ClickHouse in, or behind, a child process. Implements :class:`~syndb_common.engine.interface.Engine`.

    Attributes:
        path: folder of its data; None for a scratch engine, whose folder lives as long as one run.
        server: the ClickHouse server that has the data instead; the folder then holds certificate and token only.
        publications: grows with each version that an upload publishes and with each start of the child, after which
            what is published may differ; see :meth:`wait_published`.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        server: Server | None = None,
        flight: FlightSettings | None = None,
        name: str = "engine",
        asked: Answers | None = None,
    ) -> None:
        self.path = path
        self.server = server
        self.name = name
        self._answers = {} if asked is None else asked
        self.publications = 0
        self._flight = flight
        self._link: Link | None = None
        self._linked = trio.Event()
        self._published = trio.Event()
        self._slots = trio.Semaphore(MAX_IN_FLIGHT)
        self._running = False

    @property
    def flight_location(self) -> str:
        """Location of the Flight server; empty while there is none."""
        return self._link.location if self._link else ""

    @property
    def flight_here(self) -> str:
        """Location of the Flight server for this machine; empty while there is none."""
        return self._link.location_here if self._link else ""

    @property
    def flight_certificate(self) -> str:
        """PEM of the Flight server's certificate; empty while there is none."""
        return self._link.certificate if self._link else ""

    @property
    def pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        return self._link.pid if self._link else None

    @property
    def ready(self) -> bool:
        """Whether a child is there and answers."""
        return self._link is not None

    async def wait_published(self, seen: int) -> int:
        """Wait until :attr:`publications` is not ``seen`` and return it."""
        while self.publications == seen:
            await self._published.wait()
        return self.publications

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start a child and keep it until it dies; ``task_status`` is told when it answers.

        Raises:
            EngineUnavailable: the child died; run again.
            ConfigError: it cannot start as configured, for instance because the folder is in use.
        """
        if self._running:
            raise Conflict(f"{self.name} runs already")
        self._running = True
        scratch = Path(await trio.to_thread.run_sync(tempfile.mkdtemp, "", "syndb-")) if self.path is None else None
        try:
            await self._run_child(scratch or self.path or Path(), task_status)
        finally:
            self._running = False
            if scratch is not None:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(shutil.rmtree, scratch, True)

    async def _run_child(self, base: Path, task_status: trio.TaskStatus[None]) -> None:
        start = await trio.to_thread.run_sync(self._prepare, base)
        ours, theirs = socket.socketpair()
        link = Link(ours, self._slots)
        try:
            with theirs:
                process = await _spawn(theirs.fileno(), base / lock.FOLDER, self._flight, self.server)
        except BaseException:
            link.close()
            raise
        link.pid = process.pid
        message = "the engine process was stopped"
        failure: SynDBError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.write)
                await link.send({"op": "start", **start})
                failure = await self._handshake(link, start)
                if failure is None:
                    asked = Asked(self._answers, link.send, nursery)
                    task_status.started()
                    while (frame := await link.receive()) is not None:
                        self._dispatch(link, asked, *frame)
                nursery.cancel_scope.cancel()
            message = f"the engine process ended {await _ending(process)}; it is being restarted, repeat the query"
        finally:
            self._link = None
            if self._linked.is_set():
                self._linked = trio.Event()
            link.fail(message)
            with trio.CancelScope(shield=True):
                await link.stop()
                await _end(process)
            link.close()
        raise failure or EngineUnavailable(message)

    def _prepare(self, base: Path) -> dict[str, Any]:
        """Make folders, certificate and token; returns the start message."""
        (base / lock.FOLDER / "tmp").mkdir(mode=0o700, parents=True, exist_ok=True)
        flight = None
        if self._flight is not None:
            certificate = certificate_of(self._flight)
            if self._flight.results is not None:
                self._flight.results.mkdir(mode=0o700, parents=True, exist_ok=True)
            flight = {
                "host": self._flight.host,
                "port": self._flight.port,
                "certificate": certificate.certificate,
                "pinned": certificate.pinned,
                "key": certificate.key,
                "token_digest": hashlib.sha256(upload_token(base).encode()).digest(),
                "limits": asdict(self._flight.limits),
                "users": bool(self._answers),
            }
        return {"scratch": self.path is None, "flight": flight, "server": self.server and asdict(self.server)}

    async def _handshake(self, link: Link, start: dict[str, Any]) -> SynDBError | None:
        with trio.move_on_after(START_SECONDS):
            frame = await link.receive()
            if frame is None:
                return EngineUnavailable("the engine process ended while starting")
            header, _ = frame
            if "error" in header:
                return SynDBError.from_body(ErrorBody.model_validate(header["error"]))
            if not header["confined"]:
                _log.warning("engine is not confined: this kernel has no Landlock", engine=self.name)
            if self._flight is not None:
                link.location = self._flight.location(header["flight_port"])
                link.location_here = self._flight.location_here(header["flight_port"])
                link.certificate = start["flight"]["pinned"]
            self._link = link
            self._linked.set()
            self._note_publication()
            return None
        return EngineUnavailable(f"the engine process did not answer within {START_SECONDS:.0f} seconds")

    def _dispatch(self, link: Link, asked: Asked, header: dict[str, Any], body: bytearray) -> None:
        if header.get("event") == "published":
            self._note_publication()
        elif "event" in header:
            asked.take(header)
        else:
            link.settle(header, body)

    def _note_publication(self) -> None:
        self.publications += 1
        self._published.set()
        self._published = trio.Event()

    async def _call(self, op: str, limits: Limits, body: pa.Buffer | bytes = b"", **fields: Any) -> Pending:
        with trio.move_on_after(limits.seconds + MARGIN_SECONDS):
            await self._take_slot()
            try:
                link = self._link or await self._wait_for_link()
            except BaseException:
                self._slots.release()
                raise
            return await link.request({"op": op, "limits": asdict(limits), **fields}, body)
        raise DeadlineExceeded(f"the engine did not answer within {limits.seconds + MARGIN_SECONDS:g} seconds")

    async def _take_slot(self) -> None:
        with trio.move_on_after(RESTART_SECONDS):
            await self._slots.acquire()
            return
        raise TooManyRequests(f"the engine has {MAX_IN_FLIGHT} calls under way", hint="try again in a moment")

    async def _wait_for_link(self) -> Link:
        with trio.move_on_after(RESTART_SECONDS):
            while self._link is None:
                await self._linked.wait()
            return self._link
        raise EngineUnavailable("the engine process is not running", hint="repeat the query in a moment")

    async def execute(self, sql: str) -> None:
        """Run one statement without a result (DDL, maintenance), within ten minutes."""
        await self._call("execute", MAINTENANCE, sql=sql)

    async def query(self, sql: str, *, limits: Limits | None = None, query_id: str | None = None) -> Answer:
        """Run one SELECT and return the whole result.

        Raises:
            LimitExceeded: a limit of ``limits`` was reached, or the result does not fit one message.
            EngineUnavailable: the engine stopped meanwhile and is being restarted.
        """
        return _answer(await self._call("query", limits or Limits(), sql=sql, query_id=query_id))

    async def answer(
        self,
        sql: str,
        *,
        limits: Limits | None = None,
        query_id: str | None = None,
        inline_bytes: int = INLINE_BYTES,
        reader: bytes = b"",
    ) -> Answer | Offer:
        """Run one SELECT once; return it whole when it is small, else an offer to stream it by Flight.

        The offer is for the reader whose secret has the SHA-256 ``reader``; without one, for whoever has the ticket.
        The offer is void after half a minute, or when its reader stands still for that long; the query then ends.
        Without a Flight server the result must fit ``inline_bytes``, else it is a ``LimitExceeded``.

        Raises:
            LimitExceeded: a limit of ``limits`` was reached.
            TooManyRequests: too many results wait for their readers.
            EngineUnavailable: the engine stopped meanwhile and is being restarted.
        """
        if self._flight is None:
            return await self.query(
                sql, limits=replace(limits or Limits(), result_bytes=inline_bytes), query_id=query_id
            )
        pending = await self._call(
            "answer", limits or Limits(), sql=sql, query_id=query_id, inline_bytes=inline_bytes, reader=reader
        )
        if "ticket" not in pending.header:
            return _answer(pending)
        return Offer(
            pending.header["ticket"],
            self.flight_location,
            self.flight_certificate,
            pending.header["expires_seconds"],
        )

    async def merge(self, sql: str, partials: pa.Table, *, limits: Limits | None = None) -> Answer:
        """Run one SELECT over ``partials``, which stands as table ``partials`` for this query only."""
        return _answer(await self._call("merge", limits or Limits(), await _pack(partials), sql=sql))

    async def insert(self, table: str, rows: pa.Table) -> int:
        """Append rows to a table of ours and return how many."""
        pending = await self._call("insert", MAINTENANCE, await _pack(rows), table=table)
        return int(pending.header["rows"])

    async def progress(self, query_id: str) -> Progress | None:
        """How far the query of that id is, also while its result waits for a reader; None when there is none."""
        progress = (await self._call("progress", _QUESTION, of=query_id)).header["progress"]
        return None if progress is None else Progress(**progress)

    async def expect(self, seconds: float) -> FlightEndpoint | None:
        """Where, and with what ticket, a node may deliver a part that begins within so many seconds.

        None while there is no Flight server.
        """
        if self._flight is None:
            return None
        ticket = (await self._call("expect", _QUESTION, seconds=seconds)).header["ticket"]
        return FlightEndpoint(
            location=self.flight_location, certificate=self.flight_certificate, ticket=ticket.encode()
        )

    async def claim(self, ticket: bytes, reader: bytes) -> FlightEndpoint:
        """Where this process reads what is delivered with a ticket; for the reader whose secret has this SHA-256.

        Raises:
            NotFound: the delivery is not expected any more.
        """
        pending = await self._call("claim", _QUESTION, ticket=ticket.decode(), reader=reader)
        return FlightEndpoint(
            location=self.flight_here, certificate=self.flight_certificate, ticket=pending.header["ticket"]
        )

    async def forget(self, ticket: bytes) -> None:
        """Expect nothing any more with this ticket."""
        await self._call("forget", _QUESTION, ticket=ticket.decode())

    async def cancel(self, query_id: str) -> None:
        """Stop the query of that id, also while its result waits for a reader; nothing happens when it has ended."""
        if self._link is not None:
            await self._link.send({"id": 0, "op": "cancel", "query_id": query_id})


def upload_token(base: Path) -> str:
    """The owner's token for uploads to the engine at ``base``; made on first use, mode 0600."""
    path = base / UPLOAD_TOKEN_FILE
    if not path.exists():
        write_private(path, secrets.token_hex(32), replace=False)
    return path.read_text(encoding="ascii").strip()


def _answer(pending: Pending) -> Answer:
    return Answer(channel.body_to_table(pending.body), Scan(**pending.header["scan"]))


async def _pack(table: pa.Table) -> pa.Buffer:
    if table.nbytes < LARGE_BYTES:
        return channel.table_to_body(table)
    return await trio.to_thread.run_sync(channel.table_to_body, table, limiter=_packing)


async def _spawn(descriptor: int, folder: Path, flight: FlightSettings | None, server: Server | None) -> trio.Process:
    port = "-" if flight is None else str(flight.port)
    beyond = ("-", "-") if server is None else (str(server.port), server.ca_file or "-")
    results = () if flight is None or flight.results is None else (str(flight.results),)
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return await trio.lowlevel.open_process(
        [
            sys.executable,
            "-P",
            "-m",
            "syndb_common.engine.process",
            str(descriptor),
            str(folder),
            port,
            *beyond,
            *results,
        ],
        pass_fds=(descriptor,),
        start_new_session=True,  # Ctrl-C is for the daemon, which then stops the engine
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(_PACKAGE_PARENT), "TMPDIR": str(folder / "tmp")},
    )


async def _ending(process: trio.Process) -> str:
    with trio.move_on_after(1):
        code = await process.wait()
        return f"by signal {signal.Signals(-code).name.removeprefix('SIG')}" if code < 0 else f"with code {code}"
    return "without a word"


async def _end(process: trio.Process) -> None:
    """The channel is closed, so the child exits; when it does not, it is killed."""
    with trio.move_on_after(STOP_SECONDS):
        await process.wait()
        return
    process.kill()
    await process.wait()
