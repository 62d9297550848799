"""The ``syndb`` command: quick to start, explained everywhere, and without tracebacks."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
import typer.core

import syndb_cli.main
import syndb_hub.main
import syndb_node.main
from syndb_cli.client import Connection
from syndb_common import errors
from syndb_common.errors import ConfigError

BIN = Path(sys.executable).parent
QUERY = ["syql", "FROM synapses SELECT COUNT(*)"]
PROGRAMS = {
    "syndb": syndb_cli.main.app,
    "syndb-hub": syndb_hub.main.app,
    "syndb-node": syndb_node.main.app,
}


def run(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program as a user starts it, with an environment of its own."""
    return subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), **environment},
    )


@contextmanager
def answering(status: int, body: bytes, content_type: str = "application/json") -> Iterator[str]:
    """A web server that answers everything alike; yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name http.server looks for

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("words", [QUERY, ["federation", "clusters"], ["federation", "sync-schema"]])
def test_without_a_hub_a_command_says_what_to_check(tmp_path: Path, words: list[str]) -> None:
    done = run("syndb", *words, "--server-url", nobody(), folder=tmp_path)
    assert done.returncode == 10
    assert done.stderr.startswith("error: cannot reach the hub at http://127.0.0.1")
    assert "Is syndb-hub running?" in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_are_json_for_those_who_asked_for_json(tmp_path: Path) -> None:
    done = run("syndb", *QUERY, "--json", "--server-url", nobody(), folder=tmp_path)
    assert done.returncode == 10
    body = json.loads(done.stdout)
    assert body["code"] == "unavailable"
    assert body["hint"]


ERRORS = sorted(
    (kind for kind in errors._by_code().values() if kind.__module__ == errors.__name__), key=lambda kind: kind.code
)


def test_a_request_that_took_too_long_is_no_answer_in_time(tmp_path: Path) -> None:
    body = b'{"error": "the request took too long", "code": "request_timeout"}'
    with answering(408, body) as url:
        done = run("syndb", *QUERY, "--server-url", url, folder=tmp_path)
    assert done.returncode == 9


@pytest.mark.parametrize("kind", ERRORS)
def test_the_hubs_errors_arrive_as_what_they_are(kind: type[errors.SynDBError]) -> None:
    body = kind("what happened", hint="what to do").to_body()
    with answering(kind.http_status, body.model_dump_json().encode()) as url, pytest.raises(kind, match="happened"):
        Connection(url, "").get("/")


@pytest.mark.parametrize("kind", [errors.Unauthenticated, errors.SyQLSyntaxError, errors.LimitExceeded])
def test_an_error_is_one_line_a_hint_and_its_exit_code(tmp_path: Path, kind: type[errors.SynDBError]) -> None:
    body = kind("what happened", hint="what to do").to_body()
    with answering(kind.http_status, body.model_dump_json().encode()) as url:
        done = run("syndb", *QUERY, "--server-url", url, folder=tmp_path)
    assert done.returncode == kind.exit_code
    assert done.stderr == "error: what happened\n  what to do\n"


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>a router</html>"), (200, b""), (500, b"oops"), (404, b'{"detail": "Not Found"}'), (502, b"[]")],
)
def test_what_is_no_hub_is_called_so(tmp_path: Path, status: int, body: bytes) -> None:
    with answering(status, body, "text/html") as url:
        done = run("syndb", "federation", "clusters", "--server-url", url, folder=tmp_path)
    assert done.returncode == 10
    assert "is no SynDB hub" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("token", ["tökén", "two\nlines", "bell\x07"])
def test_a_token_that_is_none_is_refused_before_anything_is_sent(tmp_path: Path, token: str) -> None:
    path = tmp_path / "token"
    path.write_text(token, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        Connection.from_environment("http://127.0.0.1:1", path)
    assert token not in error.value.message


@pytest.mark.parametrize("damage", ["missing", "folder", "binary"])
def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    if damage == "folder":
        (tmp_path / "token").mkdir()
    elif damage == "binary":
        (tmp_path / "token").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="token file"):
        Connection.from_environment(None, tmp_path / "token")


def test_where_address_and_token_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYNDB_SERVER_URL", "SYNDB_HUB_URL", "SYNDB_TOKEN", "SYNDB_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def found(url: str | None = None, file: Path | None = None) -> tuple[str, str]:
        connection = Connection.from_environment(url, file)
        return connection.url, connection._token

    assert found() == ("http://127.0.0.1:8080", "")
    for folder, name in (("syndb", "own"), (".", "named"), (".", "option")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / ("token" if name == "own" else name)).write_text(f"{name}-token\n")
    assert found()[1] == "own-token"
    monkeypatch.setenv("SYNDB_TOKEN_FILE", str(tmp_path / "named"))
    assert found()[1] == "named-token"
    monkeypatch.setenv("SYNDB_TOKEN", "env-token")
    monkeypatch.setenv("SYNDB_HUB_URL", "http://hub/")
    assert found() == ("http://hub", "env-token")
    monkeypatch.setenv("SYNDB_SERVER_URL", "http://server")
    assert found("http://option", tmp_path / "option") == ("http://option", "option-token")
    assert found()[0] == "http://server"
    assert "env-token" not in repr(Connection.from_environment())


def commands(
    command: typer.core.TyperCommand, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], typer.core.TyperCommand]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


EVERY = [
    pytest.param(command, id=" ".join(path))
    for program, app in PROGRAMS.items()
    for path, command in commands(typer.main.get_command(app), (program,))
]


@pytest.mark.parametrize("command", EVERY)
def test_every_command_and_option_is_explained(command: typer.core.TyperCommand) -> None:
    assert command.help or command.short_help
    for parameter in command.params:
        if not getattr(parameter, "hidden", False) and parameter.name != "help":
            assert getattr(parameter, "help", None), f"{command.name} {parameter.name}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_shows_its_help_and_its_version(tmp_path: Path, program: str) -> None:
    assert run(program, "--help", folder=tmp_path).returncode == 0
    shown = run(program, "--version", folder=tmp_path)
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"{program} ")


def test_an_option_that_does_not_exist_is_a_wrong_request(tmp_path: Path) -> None:
    done = run("syndb", *QUERY, "--frmat", "csv", folder=tmp_path)
    assert done.returncode == 2
    assert "--format" in done.stderr
