"""A hub that serves one file with ranges and breaks off where a test says."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DOWNLOAD = "0190b0a4-3c1f-7c7a-9a53-0d6a0f0c8f5e"


class FileServer(http.server.ThreadingHTTPServer):
    """``cuts`` are bytes of the file after which connections end, one after the other; then none ends early.

    ``making`` is how often it answers that the file is being made. ``flip`` damages a byte on the way, ``pace`` waits
    that many seconds between pieces of ``piece`` bytes. ``lies`` are said of a download instead of the truth.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, content: bytes, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.files = {"worm-a-v2.tar.xz": content}
        self.format = "tar.xz"
        self.cuts: list[int] = []
        self.flip: int | None = None
        self.announce = True
        self.making = 0
        self.pace = 0.0
        self.piece = 1 << 16
        self.statuses: list[str] = []
        self.lies: dict[str, Any] = {}
        self.requests: list[tuple[str, str]] = []
        self.sent = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def download(self, status: str = "completed") -> dict[str, Any]:
        return {
            "download_id": DOWNLOAD,
            "dataset": "worm-a",
            "dataset_id": DOWNLOAD,
            "version": 2,
            "content_hash": "ab" * 32,
            "announced_by": "worm-lab",
            "format": self.format,
            "folder": "worm-a-v2",
            "status": status,
            "files": [
                {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, content in self.files.items()
            ],
            "error_message": "worm-a is not shared",
            "error_code": "policy_refused",
            "error_hint": None,
            **self.lies,
        }


class Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.requests.append((f"{self.command} {self.path}", self.headers.get("range") or ""))
        name = self.path.partition("/files/")[2].partition("?")[0]
        if name:
            self._file(self.server.files[name])
        else:
            self._json()

    do_POST = do_GET  # noqa: N815 - the name http.server looks for

    def _json(self) -> None:
        status = self.server.statuses.pop(0) if self.server.statuses else "completed"
        answer = self.server.download("pending" if status == "gone" else status)
        body = json.dumps({"error": "no such download", "code": "not_found"} if status == "gone" else answer).encode()
        self.send_response(404 if status == "gone" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, content: bytes) -> None:
        if self.server.making:
            self.server.making -= 1
            self.send_response(202)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or "")
        start = int(asked[1]) if asked and self.headers.get("if-range") == etag else 0
        if asked and start >= len(content):
            self.send_response(416)
            self.send_header("content-range", f"bytes */{len(content)}")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.announce:
            self.send_header("etag", etag)
        self.send_header("content-length", str(len(content) - start))
        self.end_headers()
        end = self.server.cuts.pop(0) if self.server.cuts else len(content)
        sent = bytearray(content)
        if self.server.flip is not None:
            sent[self.server.flip] ^= 1
        for at in range(start, max(start, end), self.server.piece):
            self.wfile.write(sent[at : min(at + self.server.piece, end)])
            self.wfile.flush()
            self.server.sent.set()
            time.sleep(self.server.pace)
        if end < len(content):
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(content: bytes, port: int = 0) -> Iterator[FileServer]:
    """A server that runs while the block does."""
    with FileServer(content, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
