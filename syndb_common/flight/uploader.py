"""Uploading tables to an engine as one new version of a data set; blocks, for command lines and scripts.

Batches are numbered, and what the engine has acknowledged is durable. When the connection breaks, or the engine
restarts, :func:`upload` connects again, asks how far each stream is, and goes on from there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID, uuid4, uuid5

import pyarrow as pa
from pyarrow import flight
from pydantic import BaseModel

from syndb_common.errors import (
    ConfigError,
    Conflict,
    DataError,
    DeadlineExceeded,
    IncompleteResult,
    InvalidRequest,
    SynDBError,
    TooManyRequests,
    Unavailable,
)
from syndb_common.flight.client import connect
from syndb_common.flight.settings import UPLOAD_TOKEN_FILE
from syndb_common.flight.uploads import (
    Abort,
    Aborted,
    Acknowledged,
    Begin,
    Begun,
    Delete,
    Deleted,
    Mark,
    Publish,
    PublishResult,
    Put,
    Status,
    UploadStatus,
)
from syndb_common.flight.wire import error_in, from_flight
from syndb_common.tables.versions import DatasetMetadata

BATCH_ROWS: Final = 65_536
PATIENCE_SECONDS: Final = 60.0
"""How long to try to reach an engine that is away before giving up: many times what its restart takes."""
START_SECONDS: Final = 10.0
"""The same before anything was begun: a few restarts. Somebody waits who may have named the wrong node."""
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0

_PASSING = (Unavailable, DeadlineExceeded, TooManyRequests)
"""Errors after which the same may work a moment later."""

_Reply = TypeVar("_Reply", bound=BaseModel)
Progress = Callable[[str, int, int], None]
"""Told table, durable rows so far and rows in all, after every batch."""


class Rows(Protocol):
    """Rows of one table, which can be read again from any batch: the same batches each time."""

    @property
    def schema(self) -> pa.Schema:
        """Of all batches."""
        ...

    @property
    def num_rows(self) -> int:
        """Of all batches together."""
        ...

    def batches(self, first: int) -> Iterator[pa.RecordBatch]:
        """The batches from number ``first`` on."""
        ...


@dataclass(frozen=True, slots=True)
class TableRows:
    """The rows of an Arrow table in memory."""

    table: pa.Table

    @property
    def schema(self) -> pa.Schema:
        """Of the table."""
        return self.table.schema

    @property
    def num_rows(self) -> int:
        """Of the table."""
        return int(self.table.num_rows)

    def batches(self, first: int) -> Iterator[pa.RecordBatch]:
        """Batches of :data:`BATCH_ROWS`, or less where the table's own chunks end."""
        yield from self.table.to_batches(max_chunksize=BATCH_ROWS)[first:]


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """An engine that takes uploads: where, with what certificate, and the owner's token."""

    location: str
    certificate_pem: str = field(repr=False)
    token: str = field(repr=False)

    @staticmethod
    def of_folders(location: str, certificate_folder: Path, data_folder: Path) -> UploadTarget:
        """The target of a daemon on this machine, from the files it keeps.

        Raises:
            ConfigError: they are not there, or not yours.
        """
        try:
            certificate = (certificate_folder / "flight.crt").read_text(encoding="ascii")
            token = (data_folder / UPLOAD_TOKEN_FILE).read_text(encoding="ascii").strip()
        except OSError as error:
            raise ConfigError(
                f"cannot read {error.filename}: {error.strerror}",
                hint="start the daemon once, and run this as the user who owns its data folder",
            ) from None
        return UploadTarget(location, certificate, token)


def upload(
    target: UploadTarget,
    metadata: DatasetMetadata,
    dataset_id: UUID,
    tables: Mapping[str, pa.Table | Rows],
    progress: Progress | None = None,
    *,
    seconds: float = 3600.0,
    key: UUID | None = None,
    patience: float = PATIENCE_SECONDS,
) -> PublishResult:
    """Send ``tables`` (by table name) and publish them as the newest version of the data set.

    Rows have ``source_id``; ``dataset_id``, ``version`` and ``cid`` are made by the engine, references are ids made by
    :func:`syndb_common.tables.identity.row_id`. Equal content and metadata publish nothing: ``unchanged``. Until it is
    published, nothing of the upload is visible.

    Args:
        target: where to.
        metadata: of the data set.
        dataset_id: of the data set.
        tables: Arrow tables, or rows that can be read again.
        progress: told how far it is; what it raises ends the upload.
        seconds: bounds each call.
        key: names this upload. With the same key another process goes on where one was killed; give it only with the
            same content. Without, the upload is dropped when it fails.
        patience: seconds to go on trying while the engine cannot be reached; at most 10 before it was reached once.

    Raises:
        DataError: the rows break a rule of the tables; message and details say which and where. Or not all were stored.
        Conflict: the data set is being uploaded already, or another process with this key has taken over.
        Unauthenticated, PeerUnavailable, EngineUnavailable, DeadlineExceeded, IncompleteResult: the connection
            failed, or the disk of the engine is full, for too long.
    """
    rows = {name: _rows(name, table) for name, table in tables.items()}
    begin = Begin(dataset_id=dataset_id, metadata=metadata, tables=tuple(tables), key=key or uuid4())
    sending = _Sending(target, seconds, begin, rows, progress)
    until, pause = time.monotonic() + min(patience, START_SECONDS), FIRST_PAUSE_SECONDS
    while True:
        before = sending.steps
        try:
            return sending.attempt()
        except _PASSING:
            if sending.steps != before:
                until, pause = time.monotonic() + patience, FIRST_PAUSE_SECONDS
            if time.monotonic() + pause > until:
                if key is None:
                    sending.abort()
                raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        except BaseException as error:
            # In conflict with another of this key, the upload is that one's now.
            if key is None or (isinstance(error, SynDBError) and not isinstance(error, Conflict)):
                sending.abort()
            raise


def _rows(name: str, table: Any) -> Rows:
    if isinstance(table, pa.Table):
        return TableRows(table)
    if not hasattr(table, "batches"):
        raise InvalidRequest(f"{name} is not an Arrow table")
    rows: Rows = table
    return rows


class _Sending:
    """One upload, over any number of connections."""

    def __init__(
        self, target: UploadTarget, seconds: float, begin: Begin, rows: Mapping[str, Rows], progress: Progress | None
    ) -> None:
        self._durable: dict[str, int] = {}
        self._target = target
        self._seconds = seconds
        self._begin = begin
        self._rows = rows
        self._progress = progress
        self._upload: UUID | None = None
        self._short = ""

    @property
    def steps(self) -> int:
        """Grows with whatever is certain: that the upload has begun, and every batch that is stored."""
        return sum(self._durable.values()) + (self._upload is not None)

    def attempt(self) -> PublishResult:
        """Go through with it on one connection."""
        with _Session(self._target, self._seconds) as session:
            if self._upload is None:
                self._upload = session.act(self._begin, Begun).upload_id
            status = session.act(Status(upload_id=self._upload), UploadStatus)
            if status.state == "open":
                for name, rows in self._rows.items():
                    stream = uuid5(self._upload, name)
                    put = Put(upload_id=self._upload, table=name, stream=stream)
                    self._put(session, put, rows, status.streams.get(stream, 0), status.rows.get(name, 0))
            return session.act(Publish(upload_id=self._upload), PublishResult)

    def _put(self, session: _Session, put: Put, rows: Rows, first: int, stored: int) -> None:
        self._durable[put.table] = first  # where a connection begins further on, there was progress
        for count in session.put(put, rows, first):
            stored += count
            self._durable[put.table] += 1
            if self._progress is not None:
                self._progress(put.table, stored, rows.num_rows)
        if stored != rows.num_rows:
            short = f"{stored} of {rows.num_rows} rows of {put.table} are stored"
            if self._short != short:
                self._short = short
                raise IncompleteResult(short)
            raise DataError(
                short,
                hint="upload again if they are all there at the source; nothing was published",
            )

    def abort(self) -> None:
        """Drop the upload, as far as the engine can be reached; else it drops it by itself, later."""
        if self._upload is not None:
            with suppress(Exception), _Session(self._target, min(self._seconds, 10.0)) as session:
                session.act(Abort(upload_id=self._upload), Aborted)


class _Session:
    def __init__(self, target: UploadTarget, seconds: float) -> None:
        self._client = connect(target.location, target.certificate_pem)
        headers = [(b"authorization", f"Bearer {target.token}".encode())]
        self._options = flight.FlightCallOptions(timeout=seconds, headers=headers)

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *failure: object) -> None:
        self._client.close()

    def act(self, request: BaseModel, reply: type[_Reply]) -> _Reply:
        name = type(request).__name__.lower()
        action = flight.Action(name, request.model_dump_json().encode())
        try:
            (result,) = self._client.do_action(action, self._options)
        except pa.ArrowException as error:
            raise from_flight(error) from None
        return reply.model_validate_json(result.body.to_pybytes())

    def put(self, put: Put, rows: Rows, first: int) -> Iterator[int]:
        """Send the batches from ``first`` on; the rows of each as it becomes durable.

        Batches are written by a thread of their own, since the answers have to be read meanwhile.
        """
        descriptor = flight.FlightDescriptor.for_command(put.model_dump_json().encode())
        try:
            writer, answers = self._client.do_put(descriptor, rows.schema, self._options)
            writing = _Writing(writer, rows, first)
            try:
                while (answer := answers.read()) is not None:
                    if (error := error_in(answer)) is not None:
                        raise error
                    yield Acknowledged.model_validate_json(answer.to_pybytes()).rows
                writing.end()
            finally:
                writing.stop()
        except pa.ArrowException as error:
            raise from_flight(error) from None


class _Writing:
    """The thread that writes the batches of one stream."""

    def __init__(self, writer: Any, rows: Rows, first: int) -> None:
        self._writer = writer
        self._rows = rows
        self._first = first
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for seq, batch in enumerate(self._rows.batches(self._first), self._first):
                if self._stopped.is_set():
                    return
                self._writer.write_with_metadata(batch, Mark(seq=seq).model_dump_json().encode())
        except BaseException as error:
            self._error = error
        finally:
            with suppress(pa.ArrowException):
                self._writer.done_writing()

    def end(self) -> None:
        """All answers were read: close, and raise what went wrong."""
        self._thread.join()
        self._writer.close()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Write no more. What the server refused is in the close."""
        self._stopped.set()


def delete(target: UploadTarget, dataset_id: UUID, version: int | None = None, *, seconds: float = 600.0) -> Deleted:
    """Delete one published version for ever, or without ``version`` the whole data set.

    Raises:
        NotFound: there is no such version.
        Unauthenticated, PeerUnavailable, DeadlineExceeded: the connection failed.
    """
    with _Session(target, seconds) as session:
        return session.act(Delete(dataset_id=dataset_id, version=version), Deleted)


def probe(target: UploadTarget, *, seconds: float = 10.0) -> None:
    """Return when the engine shows the pinned certificate and takes the token; nothing is changed there.

    Raises:
        Unauthenticated, PeerUnavailable, DeadlineExceeded: it does not.
    """
    with _Session(target, seconds) as session:
        session.act(Abort(upload_id=uuid4()), Aborted)
