"""The hub's REST API as the command line sees it: one place for address, token, errors and waiting.

httpx is loaded when something is asked: `syndb --help` needs none of it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from syndb_common.errors import ConfigError, DeadlineExceeded, ErrorBody, IncompleteResult, SynDBError, Unavailable

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8080"
MAKING_SECONDS = 3600.0
"""How long the hub may take to make a file that it then sends."""
MAKING_PAUSE_SECONDS = 1.0
POLL_SECONDS = 10.0
"""How long one request waits at the hub for a job to finish, before the progress display is refreshed."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the hub is and who asks; the token never appears in a ``repr``."""

    url: str
    _token: str

    def __repr__(self) -> str:
        return f"Connection({self.url})"

    @classmethod
    def from_environment(cls, url: str | None = None, token_file: Path | None = None) -> Connection:
        """Address and token from the options or the environment.

        Address: ``--server-url``, SYNDB_SERVER_URL, SYNDB_HUB_URL, else this machine. Token: ``--token-file``,
        SYNDB_TOKEN, SYNDB_TOKEN_FILE, else ``token`` in the configuration folder.
        """
        environ = os.environ
        address = url or environ.get("SYNDB_SERVER_URL") or environ.get("SYNDB_HUB_URL") or DEFAULT_URL
        token = "" if token_file else environ.get("SYNDB_TOKEN", "")
        path = token_file or (Path(environ["SYNDB_TOKEN_FILE"]) if environ.get("SYNDB_TOKEN_FILE") else None)
        if not token and path is None and (config_folder() / "token").is_file():
            path = config_folder() / "token"
        if not token and path is not None:
            try:
                token = path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                cause = error.strerror if isinstance(error, OSError) else "it is no text"
                raise ConfigError(f"cannot read the token file {path}: {cause}") from error
        if not (token.isascii() and token.isprintable()):
            raise ConfigError("the token is not one: it has characters that no token has")
        return cls(address.rstrip("/"), token)

    def request(self, method: str, path: str, *, seconds: float = 60.0, **options: Any) -> httpx.Response:
        """Send one request.

        Raises:
            SynDBError: the error the hub answered with.
            Unavailable: nobody listens at the address.
            DeadlineExceeded: no answer within ``seconds``.
            ConfigError: a variable names a proxy that cannot be used.
        """
        import httpx

        with self._failures(seconds):
            response = httpx.request(method, self.url + path, headers=self._headers, timeout=seconds, **options)
        if response.is_error:
            raise error_of(response)
        return response

    def download(self, path: str, *, seconds: float = 60.0, **options: Any) -> Iterator[bytes]:
        """GET piece by piece, so that a result of any size needs little memory.

        Raises:
            SynDBError: as of :meth:`request`; ``seconds`` is for each piece.
            IncompleteResult: the connection ended before the answer did.
        """
        with self.reading(path, seconds=seconds, **options) as got:
            yield from got.iter_bytes()

    @contextlib.contextmanager
    def reading(
        self, path: str, *, seconds: float = 60.0, headers: dict[str, str] | None = None, **options: Any
    ) -> Iterator[httpx.Response]:
        """GET, to be read while the block lasts; 416, which says that no more is there, is an answer too.

        While the hub answers that it makes the file, it is asked again.

        Raises:
            SynDBError, IncompleteResult: as of :meth:`download`.
            DeadlineExceeded: also where the file was not made within an hour.
        """
        import httpx

        sent = {**self._headers, "accept-encoding": "identity", **(headers or {})}
        until = time.monotonic() + MAKING_SECONDS
        with self._failures(seconds), contextlib.ExitStack() as stack:
            while True:
                got = stack.enter_context(
                    httpx.stream("GET", self.url + path, headers=sent, timeout=seconds, **options)
                )
                if got.status_code != 202:
                    break
                stack.pop_all().close()
                if time.monotonic() > until:
                    raise DeadlineExceeded(
                        f"{self.url} has not made the file within {MAKING_SECONDS:g} s",
                        hint="It goes on; ask again later.",
                    )
                time.sleep(MAKING_PAUSE_SECONDS)
            if got.is_error and got.status_code != 416:
                got.read()
                raise error_of(got)
            try:
                yield got
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                raise IncompleteResult(f"the answer of {self.url} ended early", hint="Ask for it again.") from error

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    @contextlib.contextmanager
    def _failures(self, seconds: float) -> Iterator[None]:
        import httpx

        from syndb_common.proxies import named_proxies

        try:
            with named_proxies():
                yield
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"no answer from {self.url} within {seconds:g} s") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"cannot reach the hub at {self.url}: {error}",
                hint="Is syndb-hub running? Name another address with --server-url or SYNDB_SERVER_URL.",
            ) from error

    def get(self, path: str, **options: Any) -> Any:
        """GET and decode JSON."""
        return _json(self.request("GET", path, **options))

    def post(self, path: str, body: object, **options: Any) -> Any:
        """POST JSON and decode JSON."""
        return _json(self.request("POST", path, json=body, **options))

    def wait_for_job(self, job_id: str, seconds: float, on_status: Callable[[str], None]) -> dict[str, Any]:
        """Poll a job until it has ended; ``on_status`` hears every status.

        Raises:
            DeadlineExceeded: it still runs after ``seconds``; it goes on, and its id is in the message.
        """
        until = time.monotonic() + seconds
        pause = 0.05
        while True:
            job: dict[str, Any] = self.get(f"/v1/jobs/{job_id}")
            on_status(job["status"])
            if job["status"] in ("completed", "failed", "cancelled"):
                return job
            if time.monotonic() > until:
                raise DeadlineExceeded(
                    f"job {job_id} still runs", hint=f"Get its result later: syndb syql --job {job_id}"
                )
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)


def error_of(response: httpx.Response) -> SynDBError:
    """The error a response carries, also when what answered is not a hub."""
    try:
        return SynDBError.from_body(ErrorBody.model_validate(response.json()))
    except (ValueError, ValidationError):
        return _stranger(response)


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise _stranger(response) from None


def _stranger(response: httpx.Response) -> Unavailable:
    return Unavailable(
        f"{response.url} answered {response.status_code} and is no SynDB hub", hint="Check the server URL."
    )


def config_folder() -> Path:
    """Folder of the user's own SynDB files."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "syndb"
