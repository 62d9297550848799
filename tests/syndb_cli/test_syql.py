"""``syndb syql``: where a result goes, and what is said about it."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from syndb_cli.main import app

JOB = "01a1f8e9-0bf5-70f9-b0bf-9b69c6b7bf17"
QUERY = "FROM neurons SELECT name"
PROVENANCE = {"rows": 2, "versions": [{}], "nodes": [], "seconds": 0.1, "plan_hash": "0" * 64, "scope": "local"}
RESULTS = {
    "json": b'{"columns": [{"name": "name", "type": "string"}], "rows": [["AVA [x]"], [null]]}',
    "csv": b'name\n"AVA"\n',
    "arrow": b"ARROW1",
    "parquet": b"PAR1",
}


class Hub(http.server.ThreadingHTTPServer):
    """Answers as a hub with one job; ``missing`` bytes of each result are announced and never sent."""

    daemon_threads = True
    missing = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.job: dict[str, Any] = {"job_id": JOB, "status": "completed", "provenance": PROVENANCE}
        self.asked: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        self.rfile.read(int(self.headers.get("content-length") or 0))
        _, _, form = self.path.partition("/result?format=")
        content = RESULTS[form] if form else json.dumps(self.server.job).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content) + (self.server.missing if form else 0)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815 - the name http.server looks for

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("SYNDB_SERVER_URL", f"http://127.0.0.1:{server.server_address[1]}")
        yield server
        server.shutdown()
        thread.join()


def syql(*words: object) -> Result:
    return CliRunner().invoke(app, ["syql", *map(str, words)])


@pytest.mark.parametrize("form", RESULTS)
def test_a_file_has_the_format_of_its_name(hub: Hub, tmp_path: Path, form: str) -> None:
    done = syql(QUERY, "--output", tmp_path / f"result.{form}")
    assert (done.exit_code, done.stdout) == (0, "")
    assert (tmp_path / f"result.{form}").read_bytes() == RESULTS[form]
    assert f"({len(RESULTS[form])} bytes)" in done.stderr


def test_a_format_that_is_told_wins_over_the_name(hub: Hub, tmp_path: Path) -> None:
    assert syql(QUERY, "--output", tmp_path / "result.txt", "--format", "csv").exit_code == 0
    assert (tmp_path / "result.txt").read_bytes() == RESULTS["csv"]


@pytest.mark.parametrize(
    "words",
    [
        [QUERY, "--output", "result.txt"],
        [QUERY, "--output", "result"],
        [QUERY, "--output", "result.csv", "--format", "table"],
        [QUERY, "--output", "result.json", "--json"],
        [QUERY, "--format", "csv", "--json"],
        [QUERY, "--output", "result.csv", "--explain"],
        [QUERY, "--output", "nowhere/result.csv"],
        [QUERY, "--output", "/dev/null", "--format", "csv"],
        [QUERY, "--job", JOB],
        ["--job", JOB, "--explain"],
        [],
    ],
)
def test_what_cannot_be_done_is_refused_before_the_hub_is_asked(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = syql(*words)
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert hub.asked == []
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_ends_early_leaves_what_was_there(hub: Hub, tmp_path: Path) -> None:
    hub.missing = 5
    (tmp_path / "result.csv").write_text("earlier")
    done = syql(QUERY, "--output", tmp_path / "result.csv")
    assert done.exit_code == 10
    assert "ended early" in done.stderr
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("result.csv", "earlier")]


def test_without_a_file_the_result_goes_to_standard_output(hub: Hub) -> None:
    assert syql(QUERY, "--format", "csv").stdout_bytes == RESULTS["csv"]
    assert "AVA [x]" in syql(QUERY).stdout
    assert json.loads(syql(QUERY, "--json").stdout)["rows"] == [["AVA [x]"], [None]]


def test_after_the_timeout_it_says_how_to_get_the_result_and_that_works(hub: Hub) -> None:
    hub.job["status"] = "running"
    late = syql(QUERY, "--timeout", "0.1")
    assert late.exit_code == 9
    assert f"syndb syql --job {JOB}" in late.stderr
    hub.job["status"] = "completed"
    hub.asked.clear()
    assert "AVA [x]" in syql("--job", JOB).stdout
    assert not any(line.startswith("POST") for line in hub.asked)


@pytest.mark.parametrize(
    ("scope", "versions", "told"), [("local", [], True), ("local", [{}], False), ("federation", [], False)]
)
def test_a_hub_without_such_data_says_how_to_ask_the_nodes(
    hub: Hub, scope: str, versions: list[Any], told: bool
) -> None:
    hub.job["provenance"] = {**PROVENANCE, "scope": scope, "versions": versions}
    assert ("add SCOPE federation" in syql(QUERY).stderr) is told
