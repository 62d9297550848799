"""A ClickHouse server, reached over HTTP or HTTPS. Nothing else imports clickhouse-connect.

One pool of connections serves all threads. A query is one request and its settings travel with it; only what needs
temporary tables has a session. ClickHouse sends a result while it is being computed, under a status that says that
all is well: what goes wrong later is told in the body, or by its breaking off. So a result counts as complete only
with the end mark of its Arrow stream, written by ClickHouse when nothing is left, and the end of the body behind it.

What a long result has scanned is known up to the moment its first rows were sent: HTTP has no place to say it later.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import IncompleteRead
from typing import Any, Final
from uuid import uuid4

import pyarrow as pa
from clickhouse_connect import get_client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError
from clickhouse_connect.driver.httputil import get_pool_manager_options
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError, ProtocolError

from syndb_common.engine.backend import Chunk, Setting
from syndb_common.engine.clusters import on_cluster
from syndb_common.engine.failures import explains, from_clickhouse
from syndb_common.engine.settings import Server
from syndb_common.errors import EngineUnavailable, IncompleteResult, LimitExceeded, SynDBError

CONNECT_SECONDS: Final = 10.0
"""Also how long the server may take no byte of what is sent."""
MARGIN_SECONDS: Final = 2.0
"""What an answer may take beyond the limit of the query: the server ends that by itself, and says so."""
QUESTION_SECONDS: Final = 5.0
SESSION_SECONDS: Final = 60
CATCH_UP_SECONDS: Final = 60
"""How long a machine of a cluster may take to fetch what the others have."""
POOL: Final = 32
"""Connections that are kept open. More are made when more is going on, and closed afterwards."""
PIECE_BYTES: Final = 256 * 1024
"""Least size of what an insert sends at once."""

_END_MARK: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_TAIL_BYTES: Final = 16 * 1024
"""Room for an exception in the body: ClickHouse cuts them to this size."""
_FORMAT: Final[dict[str, Setting]] = {
    "output_format_arrow_string_as_string": 1,
    "output_format_arrow_fixed_string_as_fixed_byte_array": 1,
    "output_format_arrow_low_cardinality_as_dictionary": 0,
    "cancel_http_readonly_queries_on_client_close": 1,
}
"""Defaults of newer servers, which older ones do not all have."""

logging.getLogger("clickhouse_connect").setLevel(logging.ERROR)  # it warns of what it raises


class ServerBackend:
    """The ClickHouse server of one address."""

    def __init__(self, server: Server) -> None:
        self._cluster = server.cluster
        self._pool = _Pool(server.ca_file)
        with _translated():
            self._client = get_client(
                host=server.host,
                port=server.port,
                interface=server.scheme,
                username=server.user,
                password=server.password,
                pool_mgr=self._pool,
                compress=False,
                query_retries=0,
                autogenerate_session_id=False,
                client_name="syndb",
            )

    @classmethod
    def found(cls, server: Server, seconds: float) -> ServerBackend:
        """The server, waiting so long for one that does not answer.

        Raises:
            EngineUnavailable: it did not answer in time.
            ConfigError: it does not accept us.
        """
        until = time.monotonic() + seconds
        while True:
            try:
                return cls(server)
            except EngineUnavailable:
                if time.monotonic() > until:
                    raise
                time.sleep(1.0)

    def connect(self, settings: Mapping[str, Setting], *, seconds: float, session: bool = False) -> ServerConnection:
        """Settings for requests to come; nothing is sent yet."""
        own: dict[str, Setting] = dict(settings)
        if session:
            own |= {"session_id": uuid4().hex, "session_timeout": SESSION_SECONDS}
        return ServerConnection(self._client, self._pool, own, seconds + MARGIN_SECONDS, self._cluster)

    def close(self) -> None:
        """Close the connections."""
        self._client.close_connections()


class _Pool(PoolManager):
    """Connections to one server."""

    def __init__(self, ca_file: str) -> None:
        super().__init__(**get_pool_manager_options(maxsize=POOL, ca_cert=ca_file or None))
        self._waiting = threading.local()

    @contextmanager
    def waiting(self, seconds: float) -> Iterator[None]:
        """Requests that this thread makes meanwhile fail when not a byte has come for so many seconds."""
        before, self._waiting.seconds = self._seconds, seconds
        try:
            yield
        finally:
            self._waiting.seconds = before

    @property
    def _seconds(self) -> float:
        return getattr(self._waiting, "seconds", QUESTION_SECONDS)

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        """As every pool does it, and as long as the calling thread may wait."""
        timeout = Timeout(connect=CONNECT_SECONDS, read=self._seconds)
        return super().request(method, url, *arguments, **{**options, "timeout": timeout})


class ServerConnection:
    """Settings, and the request that is going on."""

    def __init__(self, client: Any, pool: _Pool, settings: dict[str, Setting], seconds: float, cluster: str) -> None:
        self._client = client
        self._pool = pool
        self._settings = settings
        self._seconds = seconds
        self._cluster = cluster
        self._stream: ServerStream | None = None

    def run(self, sql: str) -> None:
        """Run one statement without a result, on all machines of the cluster where that is meant."""
        with _translated(), self._pool.waiting(self._seconds):
            statement = on_cluster(sql, self._cluster) if self._cluster else sql
            self._client.raw_query(statement, settings=self._settings, use_database=False)

    def protect(self) -> None:
        """From here on SELECT only, and no setting can be changed."""
        self._settings["readonly"] = 1

    def start(self, sql: str) -> ServerStream:
        """Start one SELECT."""
        settings = {**_FORMAT, **self._settings}
        with _translated(), self._pool.waiting(self._seconds):
            response = self._client.raw_stream(sql, settings=settings, fmt="ArrowStream", use_database=False)
        self._stream = ServerStream(response)
        return self._stream

    def insert(self, target: str, columns: Sequence[str], content: Iterator[bytes]) -> int:
        """Append an Arrow stream to the table ``target`` and return the rows written."""
        with _translated(), self._pool.waiting(self._seconds):
            summary = self._client.raw_insert(
                target,
                columns,
                insert_block=_larger(content),
                fmt="ArrowStream",
                # Whatever goes wrong is then in the status, and the count is that of the whole insert.
                settings={**self._settings, "wait_end_of_query": 1},
            )
            return int(summary.written_rows)

    def catch_up(self, table: str) -> None:
        """Have this machine of a cluster fetch what others wrote into ``table`` before."""
        if not self._cluster:
            return
        settings = {**self._settings, "receive_timeout": CATCH_UP_SECONDS}
        try:
            with _translated(), self._pool.waiting(CATCH_UP_SECONDS + MARGIN_SECONDS):
                self._client.raw_query(f"SYSTEM SYNC REPLICA {table}", settings=settings, use_database=False)
        except LimitExceeded:
            raise EngineUnavailable(f"{table} lags behind other machines of the cluster", hint="try again") from None

    def abandon(self) -> None:
        """Have a read of the result fail that waits for a server which fell silent."""
        if self._stream is not None:
            self._stream.abandon()

    def close(self) -> None:
        """Have the server end a result that was not read to its end."""
        if self._stream is None or self._stream.complete:
            return
        self._stream.close()
        tag = self._settings.get("log_comment")
        if tag:  # a server behind a proxy may not notice that we left
            with suppress(SynDBError), _translated(), self._pool.waiting(QUESTION_SECONDS):
                self._client.raw_query(f"KILL QUERY WHERE Settings['log_comment'] = '{tag}' ASYNC", use_database=False)


class ServerStream:
    """The result of one request.

    Attributes:
        complete: whether it was read to its proper end.
    """

    def __init__(self, response: Any) -> None:
        self.complete = False
        self._response = response
        self._body = _Body(response)
        self._reader: pa.RecordBatchStreamReader | None = None
        self._summary = _summary(response.headers)

    def read(self) -> Chunk:
        if self.complete:
            return Chunk(None, [])
        try:
            reader = self._reader = self._reader or pa.ipc.open_stream(pa.PythonFile(self._body, mode="r"))
            batch = next((batch for batch in reader if batch.num_rows), None)
            if batch is None:
                self._body.check_end()
        except (HTTPError, pa.ArrowException, OSError) as error:
            raise self._failure(error) from None
        self.complete = batch is None
        if self.complete:
            self._response.release_conn()
        (rows, size), self._summary = self._summary, (0, 0)
        return Chunk(reader.schema, [] if batch is None else [batch], rows, size)

    def _failure(self, error: Exception) -> SynDBError:
        """What ended the stream: what ClickHouse says about it in the body, if it does."""
        said = self._body.last_words()
        if explains(said):
            return from_clickhouse(said)
        if isinstance(error, HTTPError) and not isinstance(error, ProtocolError):
            return EngineUnavailable(f"the ClickHouse server went away: {str(error)[:200]}", hint="repeat the query")
        return IncompleteResult("the result broke off before its end; repeat the query")

    def abandon(self) -> None:
        with suppress(RuntimeError, ValueError, OSError):  # it has ended by itself
            self._response.shutdown()

    def close(self) -> None:
        self._response.close()


class _Body:
    """The body of a response as a file, whose end must be the end mark of an Arrow stream."""

    closed = False

    def __init__(self, response: Any) -> None:
        self._response = response
        self._tail = b""

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._response.read(size)
        except ProtocolError as error:
            self._note(next((cause.partial for cause in error.args if isinstance(cause, IncompleteRead)), b""))
            raise
        self._note(data)
        return data

    def _note(self, data: bytes) -> None:
        self._tail = data[-_TAIL_BYTES:] if len(data) >= _TAIL_BYTES else (self._tail + data)[-_TAIL_BYTES:]

    def check_end(self) -> None:
        """Raise unless the stream ended as it should and nothing follows."""
        if not self._tail.endswith(_END_MARK) or self.read(_TAIL_BYTES):
            raise pa.ArrowInvalid("no end mark")

    def last_words(self) -> str:
        """The last of what came, and what still comes."""
        with suppress(HTTPError, OSError):
            while self.read(_TAIL_BYTES):
                pass
        text = self._tail.decode(errors="replace")
        return text[max(text.rfind("Code: "), 0) :]

    def close(self) -> None:
        """Closed by its owner."""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def _larger(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in larger pieces: each becomes a write to the network."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _summary(headers: Mapping[str, str]) -> tuple[int, int]:
    """Rows and bytes read when the headers were sent."""
    try:
        summary = json.loads(headers.get("X-ClickHouse-Summary", "{}"))
        return int(summary.get("read_rows", 0)), int(summary.get("read_bytes", 0))
    except ValueError:
        return 0, 0


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (ClickHouseError, HTTPError, OSError) as error:
        text = str(error)
        if explains(text):
            raise from_clickhouse(text) from None
        if isinstance(error, OperationalError | HTTPError | OSError):
            raise EngineUnavailable(
                f"the ClickHouse server cannot be reached: {_root(error)}", hint="check [engine] url, and the server"
            ) from None
        raise SynDBError(f"the engine failed: {text[:300]}") from None


def _root(error: BaseException) -> str:
    """What is beneath an error of the way there; the text on top repeats the whole request."""
    while isinstance(beneath := getattr(error, "reason", None) or error.__cause__, BaseException):
        error = beneath
    return str(error).rpartition(": ")[2][:200]
