"""Uploading tables to an engine as one new version of a data set; blocks, for command lines and scripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pyarrow as pa
from pyarrow import flight
from pydantic import BaseModel

from syndb_common.errors import ConfigError, IncompleteResult, InvalidRequest
from syndb_common.flight.client import connect
from syndb_common.flight.settings import UPLOAD_TOKEN_FILE
from syndb_common.flight.uploads import Abort, Aborted, Begin, Begun, Publish, PublishResult, Put, Stored
from syndb_common.flight.wire import from_flight
from syndb_common.tables.versions import DatasetMetadata

BATCH_ROWS = 65_536

_Reply = TypeVar("_Reply", bound=BaseModel)
Progress = Callable[[str, int, int], None]
"""Told table, rows sent so far and rows in all, after every batch."""


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
    tables: Mapping[str, pa.Table],
    progress: Progress | None = None,
    *,
    seconds: float = 3600.0,
) -> PublishResult:
    """Send ``tables`` (by table name) and publish them as the newest version of the data set.

    Rows have ``source_id``; ``dataset_id``, ``version`` and ``cid`` are made by the engine, references are ids made by
    :func:`syndb_common.tables.identity.row_id`. Equal content and metadata publish nothing: ``unchanged``. When
    anything fails, nothing of the upload becomes visible. ``seconds`` bounds each call.

    Raises:
        DataError: the rows break a rule of the tables; message and details say which and where.
        Conflict: the data set is being uploaded already.
        Unauthenticated, PeerUnavailable, DeadlineExceeded, IncompleteResult: the connection failed.
    """
    headers = [(b"authorization", f"Bearer {target.token}".encode())]
    session = _Session(target, flight.FlightCallOptions(timeout=seconds, headers=headers))
    with session.client:
        names = tuple(tables)
        begun = session.act(Begin(dataset_id=dataset_id, metadata=metadata, tables=names), Begun)
        try:
            for name, table in tables.items():
                session.put(Put(upload_id=begun.upload_id, table=name), table, progress)
            return session.act(Publish(upload_id=begun.upload_id), PublishResult)
        except BaseException:
            with suppress(Exception):  # the first error counts; the engine drops what is left behind
                session.act(Abort(upload_id=begun.upload_id), Aborted)
            raise


class _Session:
    def __init__(self, target: UploadTarget, options: flight.FlightCallOptions) -> None:
        self.client = connect(target.location, target.certificate_pem)
        self._options = options

    def act(self, request: BaseModel, reply: type[_Reply]) -> _Reply:
        name = type(request).__name__.lower()
        action = flight.Action(name, request.model_dump_json().encode())
        try:
            (result,) = self.client.do_action(action, self._options)
        except pa.ArrowException as error:
            raise from_flight(error) from None
        return reply.model_validate_json(result.body.to_pybytes())

    def put(self, put: Put, table: pa.Table, progress: Progress | None) -> None:
        if not isinstance(table, pa.Table):
            raise InvalidRequest(f"{put.table} is not an Arrow table")
        descriptor = flight.FlightDescriptor.for_command(put.model_dump_json().encode())
        try:
            writer, answers = self.client.do_put(descriptor, table.schema, self._options)
            try:
                self._write(writer, put.table, table, progress)
                answer = answers.read()
            finally:
                writer.close()
        except pa.ArrowException as error:
            raise from_flight(error) from None
        stored = Stored.model_validate_json(answer.to_pybytes()).rows if answer is not None else 0
        if stored != table.num_rows:
            raise IncompleteResult(f"{stored} of {table.num_rows} rows of {put.table} were stored")

    def _write(self, writer: Any, name: str, table: pa.Table, progress: Progress | None) -> None:
        sent = 0
        for batch in table.to_batches(max_chunksize=BATCH_ROWS):
            writer.write_batch(batch)
            sent += batch.num_rows
            if progress is not None:
                progress(name, sent, table.num_rows)
        writer.done_writing()


def probe(target: UploadTarget, *, seconds: float = 10.0) -> None:
    """Return when the engine shows the pinned certificate and takes the token; nothing is changed there.

    Raises:
        Unauthenticated, PeerUnavailable, DeadlineExceeded: it does not.
    """
    headers = [(b"authorization", f"Bearer {target.token}".encode())]
    session = _Session(target, flight.FlightCallOptions(timeout=seconds, headers=headers))
    with session.client:
        session.act(Abort(upload_id=uuid4()), Aborted)
