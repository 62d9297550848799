"""Files from the hub: whole and checked or not there, whatever breaks on the way."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syndb_cli import client, fetching
from syndb_cli.client import Connection
from syndb_cli.fetching import Fetched, fetch
from syndb_common.errors import Conflict, DataError, DeadlineExceeded, IncompleteResult, InvalidRequest, Unavailable
from tests.small_disk import enlarge, small_disk
from tests.syndb_cli.file_server import FileServer, serving

PATH = "/v1/neurodata/downloads/x/files/worm-a-v2.tar.xz"
CONTENT = random.Random(5).randbytes(300_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(fetching, "PAUSE_SECONDS", 0.001)
    with serving(CONTENT) as started:
        yield started


def get(server: FileServer, target: Path, patience: float = 0.0) -> Fetched:
    return fetch(Connection(server.url, ""), PATH, target, patience=patience)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(deadline=None, max_examples=12)
@given(cuts=st.lists(st.integers(0, len(CONTENT) - 1), max_size=3).map(sorted), data=st.data())
def test_a_file_is_the_same_wherever_connections_and_clients_end(cuts: list[int], data: st.DataObject) -> None:
    """Every command ends at a cut, as one without patience does; the next one goes on at what has come."""
    with tempfile.TemporaryDirectory() as folder, serving(CONTENT) as server:
        target = Path(folder) / "rows"
        server.cuts = list(cuts)
        while server.cuts:
            with pytest.raises(Unavailable):
                get(server, target, patience=0)
            assert not target.exists()
            part = target.with_name(".rows.part")
            if part.exists():  # what a killed client wrote last may not have reached the disk
                os.truncate(part, data.draw(st.integers(0, part.stat().st_size)))
        fetched = get(server, target)
        assert target.read_bytes() == CONTENT
        assert fetched.sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert names(Path(folder)) == ["rows"]


def test_a_patient_command_survives_many_breaks_and_sends_nothing_twice(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [100, 5_000, 5_000, 200_000]
    assert get(server, tmp_path / "rows", patience=20).bytes == len(CONTENT)
    assert (tmp_path / "rows").read_bytes() == CONTENT
    starts = [asked for _, asked in server.requests]
    assert starts == ["", "bytes=100-", "bytes=5000-", "bytes=5000-", "bytes=200000-"]


def test_a_hub_that_comes_back_within_the_patience_is_gone_on_with(tmp_path: Path) -> None:
    with serving(CONTENT) as first:
        first.cuts = [70_000]
        with pytest.raises(IncompleteResult, match="70,000 bytes came"):
            get(first, tmp_path / "rows")
        port = first.server_address[1]
    assert names(tmp_path) == [".rows.part", ".rows.part.json"]
    with pytest.raises(Unavailable):
        fetch(Connection(f"http://127.0.0.1:{port}", ""), PATH, tmp_path / "rows", patience=0)
    with serving(CONTENT, port) as again:
        assert get(again, tmp_path / "rows").resumed_at == 70_000
        assert again.requests[0][1] == "bytes=70000-"
    assert (tmp_path / "rows").read_bytes() == CONTENT


def test_a_hub_that_makes_the_file_first_is_asked_again(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAKING_PAUSE_SECONDS", 0.0)
    server.making = 2
    assert get(server, tmp_path / "rows").bytes == len(CONTENT)
    server.making = 1
    monkeypatch.setattr(client, "MAKING_SECONDS", -1.0)
    with pytest.raises(DeadlineExceeded, match="not made the file"):
        get(server, tmp_path / "other")
    assert names(tmp_path) == ["rows"]


@pytest.mark.parametrize("flip", [0, 150_000, len(CONTENT) - 1])
def test_a_damaged_byte_is_found_and_nothing_is_kept(server: FileServer, tmp_path: Path, flip: int) -> None:
    (tmp_path / "rows").write_text("earlier")
    server.flip = flip
    with pytest.raises(DataError, match="came damaged"):
        get(server, tmp_path / "rows")
    assert (tmp_path / "rows").read_text() == "earlier"
    assert names(tmp_path) == ["rows"]


def test_a_byte_that_was_damaged_here_meanwhile_is_found(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [100_000]
    with pytest.raises(Unavailable):
        get(server, tmp_path / "rows")
    part = tmp_path / ".rows.part"
    part.write_bytes(part.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DataError):
        get(server, tmp_path / "rows")
    assert names(tmp_path) == []
    assert get(server, tmp_path / "rows").bytes == len(CONTENT)


def test_a_part_of_something_else_is_not_gone_on_with(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [100_000]
    with pytest.raises(Unavailable):
        get(server, tmp_path / "rows")
    server.files["worm-a-v2.tar.xz"] = other = CONTENT[::-1][:1000]
    assert get(server, tmp_path / "rows").bytes == 1000
    assert (tmp_path / "rows").read_bytes() == other


def test_a_part_that_is_whole_is_checked_and_taken(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [100_000]
    with pytest.raises(Unavailable):
        get(server, tmp_path / "rows")
    (tmp_path / ".rows.part").write_bytes(CONTENT)
    assert get(server, tmp_path / "rows").resumed_at == len(CONTENT)
    assert (tmp_path / "rows").read_bytes() == CONTENT


def test_a_hub_that_announces_no_checksum_leaves_no_part(server: FileServer, tmp_path: Path) -> None:
    server.announce = False
    server.cuts = [100_000]
    with pytest.raises(IncompleteResult):
        get(server, tmp_path / "rows", patience=20)
    assert names(tmp_path) == []
    assert get(server, tmp_path / "rows").bytes == len(CONTENT)


def test_two_commands_do_not_write_the_same_file(server: FileServer, tmp_path: Path) -> None:
    def meanwhile(done: int, total: int | None) -> None:
        with pytest.raises(Conflict, match="another command"):
            get(server, tmp_path / "rows")

    fetch(Connection(server.url, ""), PATH, tmp_path / "rows", progress=meanwhile)
    assert (tmp_path / "rows").read_bytes() == CONTENT


def test_a_place_that_cannot_be_written_is_an_error_of_the_request(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot write"):
        get(server, tmp_path / "no" / "rows")


def test_a_disk_that_is_full_is_said_and_gone_on_with_when_there_is_room(server: FileServer, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 100) as disk:
        with pytest.raises(Unavailable, match="No space left on device") as full:
            get(server, disk / "rows", patience=20)
        assert "Make room" in full.value.hint
        assert names(disk) == [".rows.part", ".rows.part.json"]
        enlarge(disk, 1000)
        assert get(server, disk / "rows").resumed_at > 50_000
        assert (disk / "rows").read_bytes() == CONTENT
        assert names(disk) == ["rows"]


def test_a_killed_client_leaves_nothing_that_looks_whole_and_the_next_one_goes_on(
    server: FileServer, tmp_path: Path
) -> None:
    server.pace, server.piece = 0.05, 30_000
    target = tmp_path / "rows"
    script = (
        "from pathlib import Path; from syndb_cli.client import Connection; from syndb_cli.fetching import fetch\n"
        f"fetch(Connection({server.url!r}, ''), {PATH!r}, Path({str(target)!r}), "
        "progress=lambda done, total: print(done, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    server.pace = 0.0
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert names(tmp_path) == ["rows"]
