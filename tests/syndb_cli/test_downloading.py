"""``syndb dataset download``: what lands where, what is said, and what happens when it cannot be done."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from syndb_cli import downloading, fetching
from syndb_cli.main import app
from tests.syndb_cli.file_server import DOWNLOAD, FileServer, serving

CONTENT = bytes(range(256)) * 500


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    monkeypatch.setattr(fetching, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(downloading, "AWAY_SECONDS", 0.01)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with serving(CONTENT) as started:
        monkeypatch.setenv("SYNDB_SERVER_URL", started.url)
        yield started


def download(*words: str) -> Result:
    return CliRunner().invoke(app, ["dataset", "download", *words])


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def test_an_archive_is_named_after_data_set_and_version(server: FileServer) -> None:
    done = download("worm-a@2")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "wrote worm-a-v2.tar.xz (128,000 bytes): worm-a version 2" in done.stderr
    assert names() == ["worm-a-v2.tar.xz"]
    assert Path("worm-a-v2.tar.xz").read_bytes() == CONTENT


def test_tables_come_into_a_folder_that_appears_when_it_is_whole(server: FileServer) -> None:
    server.format = "csv"
    server.files = {"neurons.csv": b"name\nAVA\n", "synapses.csv": CONTENT, "metadata.json": b"{}"}
    server.cuts = [9, 77_777]
    broken = download("worm-a", "--format", "csv", "--output", "rows")
    assert broken.exit_code == 10
    assert "Run the same command again" in broken.stderr
    assert names() == [f".rows.{DOWNLOAD}.part"]
    asked = len(server.requests)
    done = download("worm-a", "--format", "csv", "--output", "rows")
    assert done.exit_code == 0, done.output
    assert "synapses.csv: went on after 77,777 bytes" in done.stderr
    assert [path for path, _ in server.requests[asked:] if "neurons" in path] == []
    assert names() == ["rows"]
    assert {path.name: path.read_bytes() for path in Path("rows").iterdir()} == server.files


def test_what_was_fetched_is_told_as_json(server: FileServer) -> None:
    told = json.loads(download("worm-a", "--json").stdout)
    assert (told["dataset"], told["version"], told["format"]) == ("worm-a", 2, "tar.xz")
    assert (told["content_hash"], told["announced_by"]) == ("ab" * 32, "worm-lab")
    assert told["files"] == [
        {
            "path": "worm-a-v2.tar.xz",
            "bytes": len(CONTENT),
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
            "resumed_at": 0,
        }
    ]


def test_fetching_again_what_is_there_asks_for_no_byte_of_it(server: FileServer) -> None:
    download("worm-a")
    server.requests.clear()
    again = download("worm-a")
    assert (again.exit_code, "there already" in again.stderr) == (0, True)
    assert not any("/files/" in path for path, _ in server.requests)


def test_a_hub_that_forgot_the_download_is_asked_anew(server: FileServer) -> None:
    server.statuses = ["pending", "running", "gone", "pending"]
    assert download("worm-a").exit_code == 0
    assert [path.split()[0] for path, _ in server.requests] == ["POST", "GET", "GET", "POST", "GET", "GET"]


@pytest.mark.parametrize(
    ("status", "code", "says"), [("failed", 4, "worm-a is not shared"), ("cancelled", 8, "was cancelled")]
)
def test_a_download_that_cannot_be_had_says_why(server: FileServer, status: str, code: int, says: str) -> None:
    server.statuses = ["pending", status]
    done = download("worm-a")
    assert done.exit_code == code
    assert says in done.stderr
    assert names() == []


def test_a_hub_that_takes_too_long_is_not_waited_for(server: FileServer) -> None:
    server.statuses = ["running"] * 10_000
    done = download("worm-a", "--timeout", "0.1")
    assert done.exit_code == 9
    assert "run the same command again later" in done.stderr


def test_a_damaged_download_has_an_exit_code_of_its_own_and_json_tells_it(server: FileServer) -> None:
    server.flip = 5
    done = download("worm-a", "--json")
    assert (done.exit_code, json.loads(done.stdout)["code"]) == (3, "data_invalid")
    assert names() == []


@pytest.mark.parametrize("form", ["csv", "tar.xz"])
@pytest.mark.parametrize(
    "lie",
    [
        {"folder": "../victim"},
        {"folder": "*"},
        {"folder": ".ssh"},
        {"folder": "-rf"},
        {"folder": ""},
        {"folder": None},
        {"download_id": f"{DOWNLOAD}/../victim"},
        {"dataset": "worm\x1b[2J"},
        {"content_hash": "ab"},
        {"status": "undone"},
        {"files": []},
        {"files": "none"},
    ],
    ids=str,
)
def test_what_a_hub_says_of_a_download_names_nothing_else_here(
    server: FileServer, lie: dict[str, object], form: str
) -> None:
    server.format, server.lies = form, lie
    done = download("worm-a", "--format", form)
    assert (done.exit_code, "is no download" in done.stderr) == (3, True), done.output
    assert names() == []


@pytest.mark.parametrize(
    "name", ["{there}/victim", "../victim", "a/../../victim", "..", ".bashrc", "a/b", "a\x00b", "-x", "a\nb", ""]
)
def test_the_files_of_a_hub_land_in_the_folder_of_the_download_and_nowhere_else(
    server: FileServer, tmp_path: Path, name: str
) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "here/victim").write_text("mine")
    server.format = "csv"
    server.files = {name.replace("{there}", str(tmp_path)): CONTENT}
    done = download("worm-a", "--format", "csv", "--output", "rows")
    assert (done.exit_code, "is no download" in done.stderr) == (3, True), done.output
    assert [path.read_text() for path in (tmp_path / "victim", Path("victim"))] == ["mine", "mine"]
    assert names() == ["victim"]


def test_what_is_cleared_away_is_of_an_earlier_download_to_the_same_place(server: FileServer) -> None:
    server.format = "csv"
    earlier = ".[a-z]ows.0190b0a4-0000-7c7a-9a53-0d6a0f0c8f5e.part"
    others = [".rows.0190b0a4-0000-7c7a-9a53-0d6a0f0c8f5e.part", ".[a-z]ows.my-own.part"]
    for name in (earlier, *others):
        Path(name).mkdir()
    assert download("worm-a", "--format", "csv", "--output", "[a-z]ows").exit_code == 0
    assert names() == sorted([*others, "[a-z]ows"])


@pytest.mark.parametrize(
    "words",
    [
        ["worm-a@x"],
        ["@2"],
        ["worm-a", "--output", "nowhere/x.tar.xz"],
        ["worm-a", "--output", "folder"],
        ["worm-a", "--output", "folder", "--format", "csv"],
        ["worm-a", "--output", "file", "--format", "csv"],
    ],
)
def test_what_cannot_be_done_is_refused_before_the_hub_is_asked(server: FileServer, words: list[str]) -> None:
    Path("folder").mkdir()
    Path("folder/mine").touch()
    Path("file").touch()
    done = download(*words)
    assert done.exit_code == 2, done.output
    assert server.requests == []
    assert names() == ["file", "folder"]


def test_ctrl_c_says_how_to_go_on_and_the_next_command_does(server: FileServer) -> None:
    """Ctrl-C in a process of its own, as a shell sends it."""
    server.pace, server.piece = 0.05, 8_000
    words = [sys.executable, "-m", "syndb_cli.main", "dataset", "download", "worm-a"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while not Path(".worm-a-v2.tar.xz.part").exists() or not Path(".worm-a-v2.tar.xz.part").stat().st_size:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, "run the same command again" in said, "Traceback" in said) == (130, True, False), said
    assert not Path("worm-a-v2.tar.xz").exists()
    server.pace = 0.0
    done = download("worm-a")
    assert "went on after" in done.stderr
    assert Path("worm-a-v2.tar.xz").read_bytes() == CONTENT
    assert names() == ["worm-a-v2.tar.xz"]


def test_no_hub_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(b"") as gone:
        url = gone.url
    done = download("worm-a", "--server-url", url)
    assert done.exit_code == 10
    assert names() == []
