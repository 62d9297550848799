"""Fetching a file from the hub so that nothing is lost: in pieces, through breaks, checked at the end.

What has come so far stands beside the file as ``.NAME.part``, and ``.NAME.part.json`` says of what it is a part. The
file itself appears when all of it is there and its SHA-256 is the one the hub announced. A hub that announces none
(an earlier release, or rows made while they are sent) is asked for the whole at once.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syndb_cli.client import Connection
from syndb_common.errors import Conflict, DataError, DeadlineExceeded, IncompleteResult, InvalidRequest, Unavailable

if TYPE_CHECKING:
    import httpx

PATIENCE_SECONDS = 30.0
"""How long the hub may be away while a file is fetched: a restart takes a few seconds."""
PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 3.0
STALL_SECONDS = 60.0
"""How long the hub may send nothing."""
_BLOCK = 1024 * 1024
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHECKSUM = re.compile(r'"([0-9a-f]{64})"')

Progress = Callable[[int, int | None], None]
"""Told how many bytes there are, and of how many, if that is known."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is now there: its size and SHA-256, and where a part that was there already ended."""

    path: Path
    bytes: int
    sha256: str
    resumed_at: int = 0


def fetch(
    hub: Connection,
    path: str,
    target: Path,
    *,
    params: dict[str, str] | None = None,
    patience: float | None = None,
    progress: Progress = lambda done, total: None,
) -> Fetched:
    """Bring a file here, going on where an earlier attempt ended.

    Args:
        hub: where from.
        path: of the file at the hub.
        target: where to; it appears, or is replaced, when the file is whole.
        params: further parameters of the request.
        patience: seconds without any progress after which a break is final (30 without one); what has come stays for
            the next time.
        progress: told of every piece.

    Raises:
        IncompleteResult: the connection broke and the hub did not come back in time.
        DataError: what came is not what the hub announced; it was deleted.
        Unavailable: there is no room here; what has come stays for the next time.
        InvalidRequest: the file cannot be written here.
        SynDBError: the hub refused.
    """
    part = _Part(target, {"path": path, "params": params or {}})
    try:
        return _fetch(hub, path, part, params or {}, PATIENCE_SECONDS if patience is None else patience, progress)
    except OSError as error:
        said = f"cannot write {target}: {error.strerror or error}"
        if error.errno in _NO_ROOM:
            raise Unavailable(said, hint="Make room and run the same command again: it goes on from there.") from error
        raise InvalidRequest(said) from error
    finally:
        part.close()


class _Part:
    """What has come of a file."""

    def __init__(self, target: Path, source: dict[str, Any]) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self._about = target.with_name(f".{target.name}.part.json")
        self._source = source
        self._file: Any = None
        self.checksum = ""
        self.size = 0
        self.digest = hashlib.sha256()

    def open(self) -> None:
        """Take up what an earlier attempt has left, if it is a part of the same."""
        about = _read_json(self._about)
        same = about is not None and about.get("source") == self._source and _is_checksum(about.get("sha256"))
        self._file = self.path.open("r+b" if self.path.is_file() else "w+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            self._file = None
            raise Conflict(f"{self.target.name} is being fetched by another command") from None
        if same and about is not None:
            self.checksum = about["sha256"]
            while block := self._file.read(_BLOCK):
                self.digest.update(block)
                self.size += len(block)

    def restart(self, checksum: str) -> None:
        """Begin anew, with a part of another content; an empty checksum cannot be resumed."""
        self._file.seek(0)
        self._file.truncate()
        self.size, self.digest, self.checksum = 0, hashlib.sha256(), checksum
        if checksum:
            self._about.write_text(json.dumps({"source": self._source, "sha256": checksum}), encoding="utf-8")
        else:
            self._about.unlink(missing_ok=True)

    def add(self, piece: bytes) -> None:
        """What comes next."""
        rest = memoryview(piece)
        while rest:
            taken = rest[: self._file.write(rest)]
            self.digest.update(taken)
            self.size += len(taken)
            rest = rest[len(taken) :]

    def finish(self) -> str:
        """Check all of it and give it its name."""
        found = self.digest.hexdigest()
        if self.checksum and found != self.checksum:
            self.delete()
            raise DataError(
                f"{self.target.name} came damaged: its SHA-256 is not the one the hub announced",
                hint="Fetch it again; nothing of it was kept.",
            )
        os.fsync(self._file.fileno())
        self.path.replace(self.target)
        self._about.unlink(missing_ok=True)
        return found

    def delete(self) -> None:
        """Keep nothing of it."""
        self.path.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what can be resumed."""
        if self._file is not None:
            self._file.close()
            if not self.checksum or not self.size:
                self.delete()


def _fetch(
    hub: Connection, path: str, part: _Part, params: dict[str, str], patience: float, progress: Progress
) -> Fetched:
    part.open()
    resumed_at, pause = part.size, PAUSE_SECONDS
    until = time.monotonic() + patience
    while True:
        before = part.size
        try:
            if _take(hub, path, part, params, progress):
                return Fetched(part.target, part.size, part.finish(), resumed_at)
            broken: Unavailable | DeadlineExceeded = IncompleteResult("the answer of the hub ended early")
        except (Unavailable, DeadlineExceeded) as error:
            broken = error
        if part.size > before:
            until, pause = time.monotonic() + patience, PAUSE_SECONDS
        if not part.checksum:  # nothing to go on from
            raise broken
        if time.monotonic() + pause > until:
            raise IncompleteResult(
                f"{part.target.name}: {part.size:,} bytes came, then: {broken.message}",
                hint="Run the same command again: it goes on from there.",
            ) from broken
        time.sleep(pause)
        pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)


def _take(hub: Connection, path: str, part: _Part, params: dict[str, str], progress: Progress) -> bool:
    """Read on as long as the hub sends; whether the whole is there."""
    headers = {"range": f"bytes={part.size}-", "if-range": f'"{part.checksum}"'} if part.size else {}
    with hub.reading(path, params=params, headers=headers, seconds=STALL_SECONDS) as answer:
        if answer.status_code == 416 and _total(answer) == part.size:
            return True  # all of it came before, and nothing was left but to check it
        goes_on = answer.status_code == 206 and _goes_on(answer, part)
        if goes_on or answer.status_code == 200:
            if not goes_on:
                part.restart(_announced(answer))
            total = _total(answer)
            for piece in answer.iter_raw():
                part.add(piece)
                progress(part.size, total)
            return total is None or part.size >= total
    if not headers:
        raise DataError("the hub answered with a part of a file when it was asked for the whole")
    part.restart("")  # what is here is a part of something else
    return _take(hub, path, part, params, progress)


def _goes_on(answer: httpx.Response, part: _Part) -> bool:
    """Whether the answer begins where the part ends."""
    place = answer.headers.get("content-range", "")
    return _announced(answer) == part.checksum and place.startswith(f"bytes {part.size}-")


def _total(answer: httpx.Response) -> int | None:
    """Bytes of the whole file; None when the hub does not say."""
    size = answer.headers.get("content-range", "").rpartition("/")[2] or answer.headers.get("content-length", "")
    return int(size) if size.isdigit() else None


def _announced(answer: httpx.Response) -> str:
    """The SHA-256 the hub announces for the whole; empty when it announces none."""
    found = _CHECKSUM.fullmatch(answer.headers.get("etag", ""))
    return found[1] if found else ""


def _is_checksum(value: object) -> bool:
    return isinstance(value, str) and _CHECKSUM.fullmatch(f'"{value}"') is not None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
