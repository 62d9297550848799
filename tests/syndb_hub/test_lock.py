"""One hub to a folder, and the way to the one that runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from syndb_common.errors import ConfigError, Unavailable
from syndb_hub import lock

HOLDER = """
import os, signal, sys
from pathlib import Path
from syndb_hub import lock

# Not by print, which may not interrupt itself.
signal.signal(signal.SIGHUP, lambda *_: os.write(1, b"reload\\n"))
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is the hub of the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_hub_is_refused(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(ConfigError, match="in use by another process"), lock.hold(tmp_path):
        pass


def test_the_running_hub_is_known_and_told_to_reload(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    assert lock.running(tmp_path) == holder.pid
    lock.tell_to_reload(tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "reload\n"


def test_a_hub_that_was_killed_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait(20)
    assert lock.running(tmp_path) is None
    with lock.hold(tmp_path):
        assert lock.running(tmp_path) == os.getpid()
    assert lock.running(tmp_path) is None


def test_where_no_hub_runs_nobody_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no hub is running"):
        lock.tell_to_reload(tmp_path)
    with pytest.raises(ConfigError), lock.hold(tmp_path / "missing"):
        pass
