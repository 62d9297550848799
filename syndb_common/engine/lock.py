"""The lock on an engine's folder: held by the engine process for as long as it lives, whatever its daemon does."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

FOLDER = "clickhouse"
"""Folder of the lock and of ClickHouse's files, below the engine's own."""
_NAME = "lock"

LOCK_SECONDS = 5.0
"""How long to wait for the lock: a predecessor whose daemon was killed needs a moment to notice."""


def take(folder: Path) -> int | None:
    """Take the folder's lock for the life of this process; None when another process keeps it."""
    handle = os.open(folder / _NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                return None
            time.sleep(0.02)
        else:
            return handle


def is_held(base: Path) -> bool:
    """Whether an engine process works on the folder ``base`` of an embedded engine.

    Raises:
        OSError: the lock cannot be looked at, for instance because it is another user's.
    """
    try:
        with (base / FOLDER / _NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
