"""A test bridge: the part of ClickHouse's HTTP interface that clickhouse-connect uses, in front of chdb.

``python -m tests.syndb_common.engine.bridge FOLDER PORT [CERTIFICATE KEY]`` serves the user ``tester`` with the
password ``secret`` on that port of the loopback (0: any), which it prints, and ends with its standard input. It keeps
to what a server does: settings come in the URL and hold for one request, temporary tables belong to sessions, headers
leave with the first megabyte of a result, and what goes wrong later stands in the body, whose end is then missing.

Once a statement speaks of a cluster, it is one machine of it: statements ON CLUSTER are written down in FOLDER with the
suffix ``.cluster``, and of what says which versions there are it shows nothing that it was not told to fetch.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import secrets
import ssl
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from chdb import ChdbError
from chdb.state import connect

HELD_BYTES = 1024**2
"""ClickHouse's own buffer before it sends headers."""
NOT_SETTINGS = frozenset(
    {"query", "query_id", "session_id", "session_timeout", "database", "wait_end_of_query", "client_protocol_version"}
)
CREDENTIALS = "Basic " + base64.b64encode(b"tester:secret").decode()
BREAK = re.compile(r"/\* break off \*/")
"""A query with this comment loses its connection in the middle of the result."""
SILENCE = re.compile(r"/\* say nothing \*/")
"""A query with this comment gets no answer."""
FALL_SILENT = re.compile(r"/\* fall silent \*/")
"""A query with this comment gets the first megabyte of its result, and no word afterwards."""
_FORMAT = re.compile(r"\s+FORMAT\s+ArrowStream\s*$")


_ON_CLUSTER = re.compile(r" ON CLUSTER `\w+`")
_REPLICATED = re.compile(r"(?<=ENGINE = )Replicated(?=\w*MergeTree)")
_SYNC = re.compile(r"SYSTEM SYNC REPLICA (\S+)$")
_LAGGING = r"syndb\.dataset_versions|syndb_records\.\w+"
_WRITTEN = re.compile(rf"INSERT INTO ({_LAGGING})\b")
_READ = re.compile(rf"\bFROM ({_LAGGING})\b")


class Machine:
    """What a statement is for a single server; of a cluster, this is the machine that lags behind."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._clustered = False
        self._fetched: set[str] = set()

    def alone(self, sql: str) -> str:
        if _ON_CLUSTER.search(sql):
            self._clustered = True
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"{' '.join(sql.split())}\n")
        if not self._clustered:
            return sql
        if synced := _SYNC.match(sql):
            self._fetched.add(synced[1])
            return "SELECT 1"
        if written := _WRITTEN.match(sql):
            self._fetched.discard(written[1])
        sql = _REPLICATED.sub("", _ON_CLUSTER.sub("", sql))
        return _READ.sub(lambda m: m[0] if m[1] in self._fetched else f"FROM (SELECT * FROM {m[1]} WHERE 0)", sql)


class Sessions:
    """Connections that outlive a request, with the settings they were given."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._anchor = connect(path)
        self._kept: dict[str, tuple[Any, dict[str, str]]] = {}
        self._lock = threading.Lock()

    def open(self, session: str | None, settings: dict[str, str]) -> Any:
        with self._lock:
            connection, has = self._kept.get(session or "", (None, {}))
            if connection is None:
                connection = connect(self._path)
                if session:
                    self._kept[session] = (connection, has)
        new = {name: value for name, value in settings.items() if has.get(name) != value}
        if new:
            connection.query("SET " + ", ".join(f"{name} = '{value}'" for name, value in new.items()))
            has.update(new)
        return connection


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server: Bridge

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(200, b"Ok.\n", {})

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != CREDENTIALS:
            for _ in body:
                pass
            said = "Code: 516. DB::Exception: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)"
            return self._answer(403, said.encode(), {"X-ClickHouse-Exception-Code": "516"})
        params = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        session = params.get("session_id")
        settings = {name: value for name, value in params.items() if name not in NOT_SETTINGS}
        connection = None
        try:
            connection = self.server.sessions.open(session, settings)
            if "query" in params:
                self._insert(connection, self.server.machine.alone(params["query"]), body)
            else:
                self._query(connection, self.server.machine.alone(b"".join(body).decode()))
        except (ChdbError, RuntimeError) as error:
            for _ in body:
                pass
            said = str(error)
            code = said.partition("Code: ")[2].partition(".")[0]
            self._answer(500, said.encode(), {"X-ClickHouse-Exception-Code": code})
        except OSError:
            self.close_connection = True
        finally:
            if connection is not None and session is None:
                connection.close()

    def _body(self) -> Iterator[bytes]:
        """The pieces of the request's body; a body that breaks off is an OSError."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            yield self._exactly(int(self.headers.get("Content-Length", 0)))
            return
        while size := self._chunk_size():
            piece = self._exactly(size)
            self._exactly(2)
            yield piece
        self._exactly(2)

    def _chunk_size(self) -> int:
        try:
            return int(self.rfile.readline(), 16)
        except ValueError:
            raise OSError("the body broke off") from None

    def _exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) != size:
            raise OSError("the body broke off")
        return data

    def _insert(self, connection: Any, sql: str, body: Iterator[bytes]) -> None:
        inserter = connection.send_insert(_FORMAT.sub("", sql), "ArrowStream")
        try:
            for piece in body:
                inserter.append(piece)
            written = inserter.finish().rows_written
        finally:
            inserter.close()
        self._answer(200, b"", {"X-ClickHouse-Summary": json.dumps({"written_rows": str(written)})})

    def _query(self, connection: Any, sql: str) -> None:
        if SILENCE.search(sql):
            return self._until_the_client_leaves()
        if _FORMAT.search(sql) is None:
            return self._answer(200, connection.query(sql, "TabSeparated").bytes(), {})
        pieces = Pieces(connection, _FORMAT.sub("", sql))
        held: list[bytes] = []
        following = iter(pieces)
        ended = True
        for piece in following:
            held.append(piece)
            if sum(map(len, held)) > HELD_BYTES:
                ended = False
                break
        self._begin(200, {"X-ClickHouse-Summary": json.dumps(pieces.summary), "Transfer-Encoding": "chunked"})
        try:
            self._chunk(b"".join(held))
            if BREAK.search(sql):
                self.close_connection = True
                return None
            if FALL_SILENT.search(sql):
                return self._until_the_client_leaves()
            if not ended:
                for piece in following:
                    self._chunk(piece)
            self.wfile.write(b"0\r\n\r\n")
        except (ChdbError, RuntimeError) as error:
            self._chunk(f"\r\n__exception__\r\n{self.tag}\r\n{error}\r\n{len(str(error))} {self.tag}".encode())
            self._chunk(b"\r\n__exception__\r\n")
            self.close_connection = True

    def _until_the_client_leaves(self) -> None:
        self.rfile.read(1)
        self.close_connection = True

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._begin(status, {**headers, "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.tag = secrets.token_hex(8)
        self.send_response(status)
        for name, value in {**headers, "X-ClickHouse-Exception-Tag": self.tag}.items():
            self.send_header(name, value)
        self.end_headers()


class Pieces:
    """A result as the pieces of one Arrow stream; chdb itself begins a stream anew with every block."""

    def __init__(self, connection: Any, sql: str) -> None:
        self._stream = connection.send_query(sql, "Arrow")
        self._rows = self._bytes = 0

    @property
    def summary(self) -> dict[str, str]:
        return {"read_rows": str(self._rows), "read_bytes": str(self._bytes)}

    def __iter__(self) -> Iterator[bytes]:
        written = io.BytesIO()
        writer = None
        while True:
            chunk = self._stream._conn.streaming_fetch_result(self._stream._result)
            self._rows += int(chunk.storage_rows_read())
            self._bytes += int(chunk.storage_bytes_read())
            content, rows = chunk.bytes(), int(chunk.rows_read())
            if content:
                with pa.ipc.open_file(content) as file:
                    writer = writer or pa.ipc.new_stream(written, file.schema)
                    for number in range(file.num_record_batches):
                        writer.write_batch(file.get_batch(number))
            if not rows:
                break
            yield written.getvalue()
            written.seek(0)
            written.truncate()
        if writer is not None:
            writer.close()
        yield written.getvalue()


class Bridge(ThreadingHTTPServer):
    """The server of one folder."""

    daemon_threads = True

    def __init__(self, path: str, port: int) -> None:
        self.sessions = Sessions(path)
        self.machine = Machine(Path(f"{path}.cluster"))
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news."""


def main() -> None:
    bridge = Bridge(sys.argv[1], int(sys.argv[2]))
    if len(sys.argv) > 3:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[3:])
        bridge.socket = context.wrap_socket(bridge.socket, server_side=True)
    threading.Thread(target=bridge.serve_forever, daemon=True).start()
    print(bridge.server_address[1], flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
