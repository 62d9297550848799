"""Files that are whole or not there, and whose checksum is known from writing them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from syndb_common.errors import LimitExceeded, Unavailable

PART = ".part"
"""How the name of a file ends while it is being written."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A file as it was written: its bytes and their SHA-256, and the rows in it (0 where it has none)."""

    bytes: int
    sha256: str
    rows: int


class Sink(io.RawIOBase):
    """A file that can be written only, counts and hashes what is written, and takes no more than it may."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self.written = 0

    @property
    def sha256(self) -> str:
        """Of everything written so far."""
        return self._digest.hexdigest()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Write all of it.

        Raises:
            LimitExceeded: the file would be larger than it may be.
        """
        size = memoryview(data).nbytes
        if self.written + size > self._max_bytes:
            raise LimitExceeded(
                f"the file would have more than {self._max_bytes:,} bytes",
                hint="Take another format, fewer tables, columns or rows.",
                limit=self._max_bytes,
            )
        self._file.write(data)
        self._digest.update(data)
        self.written += size
        return size

    def tell(self) -> int:
        """Bytes written so far."""
        return self.written


def save(path: Path, produce: Callable[[Sink], int], *, max_bytes: int) -> Saved:
    """Let ``produce`` write a file, which appears under its name when it is whole and on disk; blocks.

    Args:
        path: where it will stand; its folder exists.
        produce: writes everything and returns the number of rows.
        max_bytes: how large it may become.

    Raises:
        LimitExceeded: it would become larger.
        Unavailable: the disk is full or cannot be written.
    """
    part = path.with_name(path.name + PART)
    try:
        with part.open("wb") as file:
            sink = Sink(file, max_bytes)
            rows = produce(sink)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise Unavailable(
            f"{path.name} cannot be written: {error.strerror or error}", hint="Check free space on the hub's disk."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return Saved(sink.written, sink.sha256, rows)
