"""Looking at processes from outside, as an operator would."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from demo.processes import Daemon


def engines_of(daemon: Daemon) -> list[int]:
    """Process ids of a daemon's engine processes."""
    assert daemon.process is not None
    return [pid for pid in _children(daemon.process.pid) if b"syndb_common.engine.process" in _command_line(pid)]


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def memory_bytes(daemon: Daemon) -> int:
    """Memory of a daemon's own process; pages that it shares count in part."""
    assert daemon.process is not None
    lines = Path(f"/proc/{daemon.process.pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def memory_of_all(daemon: Daemon) -> int:
    """Memory of a daemon with all processes below it; pages that they share count once."""
    assert daemon.process is not None
    pids = [daemon.process.pid]
    for pid in pids:
        pids.extend(_children(pid))
    found = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            found += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return found


def eventually(done: Callable[[], bool], *, seconds: float) -> bool:
    """Whether something becomes true in time."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _children(parent: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == parent:
                found.append(int(entry))
    return found


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
