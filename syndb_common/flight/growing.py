"""Rows that are handed out while they come: an Arrow IPC file of the daemon's that is still written.

Such a file is eight bytes and then the messages of an Arrow stream. Its reader follows whoever writes it and says how
many batches its client has taken; the daemon has no more written than a window beyond that. One question to the daemon
is open from the beginning to the end of the query: taking it back, or the end of this process, ends the query.
"""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import FileIO
from typing import Any
from uuid import uuid4

import pyarrow as pa

from syndb_common.engine.asking import QUICK_SECONDS
from syndb_common.engine.interface import Scan
from syndb_common.engine.offers import OFFER_SECONDS
from syndb_common.errors import Cancelled, DeadlineExceeded, IncompleteResult, SynDBError, TooManyRequests
from syndb_common.flight.allocation import give_back

LOOK_SECONDS = 0.02
"""Between two looks at a file that nothing was added to."""

TELL_SECONDS = 0.1
"""Between two times that the daemon is told how many batches were taken, unless the reader has to wait for more."""

GIVEN_BACK_AFTER_BYTES = 32 * 1024**2
"""Between two times that free memory is given back: of every batch as it is read a copy was made."""

_MAGIC_BYTES = 8
_ALL = -1


class Growing:
    """The rows of one live query; a :class:`~syndb_common.engine.offers.Source` for its client.

    Args:
        ask: asks the daemon.
        seconds: how long the query may take.
        facts: what the daemon is asked.

    Attributes:
        left: whether the client has gone; asked by the thread that reads.
    """

    def __init__(self, ask: Callable[..., dict[str, Any]], seconds: float, **facts: Any) -> None:
        self.left: Callable[[], bool] = lambda: False
        self._ask = ask
        self._name = str(uuid4())
        self._begun: dict[str, Any] = {}
        self._answer: dict[str, Any] = {}
        self._failure: SynDBError | None = None
        self._ended = threading.Event()
        self._closed = threading.Event()
        self._until: float | None = None
        self._file: FileIO | None = None
        self._taken = 0
        self._told: int | None = None
        self._told_at = 0.0
        threading.Thread(target=self._hold, args=(seconds, facts), name="live query", daemon=True).start()

    def begin(self, gone: Callable[[], bool]) -> dict[str, Any]:
        """Wait until its rows are to come, and return what a client is told of it, who has to claim it in time.

        Raises:
            Cancelled: ``gone``, that is the client left.
            SynDBError: it was refused or failed.
        """
        while not self._begun:
            if gone():
                raise Cancelled("the client left")
            self._ended.wait(LOOK_SECONDS)
            self._begun = self._tell(None)
        with suppress(FileNotFoundError):  # it has ended already, without rows: none is written before this
            self._file = FileIO(self._begun["path"])
        self._tell(0)
        self._until = time.monotonic() + OFFER_SECONDS
        about: dict[str, Any] = self._begun["about"]
        return about

    @property
    def gone(self) -> bool:
        """Whether its client has left. A failure still can be read."""
        return self._closed.is_set()

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self._begun["schema"])))

    def read(self) -> Iterator[pa.RecordBatch]:
        """Its rows as they come."""
        self._until = None
        rows, size, limit = 0, 0, self._begun["limit"]
        for batch in self._written():
            wanted = batch if limit is None else batch.slice(0, limit - rows)
            rows += wanted.num_rows
            size += batch.nbytes
            yield wanted
            self._taken += 1
            if size > GIVEN_BACK_AFTER_BYTES:
                size = 0
                give_back()
            if rows == limit:
                break
            if time.monotonic() - self._told_at > TELL_SECONDS:
                self._tell(self._taken)
        self._taken = _ALL
        self._wait(self._ended.is_set)
        if self._answer["rows"] != rows:
            raise IncompleteResult(f"{rows} of {self._answer['rows']} rows came", hint="repeat the query")

    def scan(self) -> Scan:
        """What the nodes have read stands with the job."""
        return Scan()

    def end(self) -> None:
        """The client is through, or has left: the query ends."""
        self._closed.set()

    def _written(self) -> Iterator[pa.RecordBatch]:
        if self._file is None:
            return
        with self._file:
            self._file.seek(_MAGIC_BYTES)
            yield from pa.ipc.open_stream(pa.PythonFile(_Following(self._file, self._wait), "r"))

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait until something is so, or the query has ended.

        Raises:
            Cancelled: the client has left.
            SynDBError: what the query failed with.
        """
        while True:
            ended = self._ended.is_set()
            if isinstance(self._failure, Cancelled):  # of which pyarrow would make an interrupt from the keyboard
                raise IncompleteResult(self._failure.message, hint="repeat the query")
            if self._failure is not None:
                raise self._failure
            if ended or ready():
                return
            if self.left():
                raise Cancelled("the client left")
            if self._told != self._taken:
                self._tell(self._taken)
            self._ended.wait(LOOK_SECONDS)

    def _tell(self, taken: int | None) -> dict[str, Any]:
        """Tell the daemon how many batches were taken; what it says of the query, nothing while it does not know."""
        if self._ended.is_set():
            if self._failure is not None:
                raise self._failure
            return self._answer
        try:
            said = self._ask("taken", QUICK_SECONDS, name=self._name, batches=taken)
        except (TooManyRequests, DeadlineExceeded):  # it is told again
            return {}
        self._told, self._told_at = taken, time.monotonic()
        return said

    def _hold(self, seconds: float, facts: dict[str, Any]) -> None:
        """Keep the query going until it has ended, or nobody wants it any more."""
        try:
            self._answer = self._ask("live", seconds, gone=self._is_unwanted, name=self._name, **facts)
        except SynDBError as error:
            self._failure = error
        finally:
            self._ended.set()

    def _is_unwanted(self) -> bool:
        return self._closed.is_set() or (self._until is not None and time.monotonic() > self._until)


class _Following:
    """The rest of a file that is still written, as Arrow reads it: what is asked for is waited for."""

    closed = False

    def __init__(self, file: FileIO, wait: Callable[[Callable[[], bool]], None]) -> None:
        self._file = file
        self._wait = wait

    def read(self, size: int) -> bytes:
        wanted = self._file.tell() + size
        self._wait(lambda: os.fstat(self._file.fileno()).st_size >= wanted)
        return self._file.read(size) or b""

    def close(self) -> None:
        """The file is closed by who opened it."""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False
