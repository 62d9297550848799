"""One hub to a data folder, and the way to reach the one that runs there.

The hub holds a lock on a file that also says its process id; the system drops the lock with the process, however that
ends, so a process id beside a held lock is never an old one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from syndb_common.errors import ConfigError, Unavailable

_NAME = "hub.lock"


@contextlib.contextmanager
def hold(data_dir: Path) -> Iterator[None]:
    """Be the hub of this folder.

    Raises:
        ConfigError: another process is, or the folder cannot be written.
    """
    path = data_dir / _NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint="Correct data_dir.") from error
    with os.fdopen(descriptor, "r+") as file:
        if not _locked(file):
            raise ConfigError(
                f"{data_dir} is in use by another process",
                hint="Stop the other hub, or give this one its own data_dir.",
            )
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _locked(file: TextIO) -> bool:
    """Whether the lock is ours now. A command that looks whether a hub runs has it for a moment."""
    for _ in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def running(data_dir: Path) -> int | None:
    """The process id of the hub that runs on this folder; None when none does.

    Raises:
        ConfigError: the folder cannot be read.
        Unavailable: a hub is just starting or stopping.
    """
    path = data_dir / _NAME
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.readline().strip()
                if not text.isdigit():
                    raise Unavailable("the hub is starting or stopping", hint="Try again in a moment.") from None
                return int(text)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="Run this as the hub's user.") from error
    return None


def tell_to_reload(data_dir: Path) -> None:
    """Have the running hub read its configuration again.

    Raises:
        Unavailable: no hub runs on this folder.
        ConfigError: it runs as another user.
    """
    pid = running(data_dir)
    if pid is None:
        raise Unavailable("no hub is running on this folder", hint="It reads its configuration when it starts.")
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        raise Unavailable("the hub has just stopped", hint="It reads its configuration when it starts.") from None
    except PermissionError:
        raise ConfigError("the hub runs as another user", hint="Run this as that user or as root.") from None
