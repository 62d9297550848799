"""Start and end daemons as an operator would: by their commands, with a folder and a configuration file each."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
STOP_SECONDS = 15.0
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class DemoError(Exception):
    """The demonstration cannot go on; the message says why and where the log is."""


class Place:
    """Where a daemon runs. This one is this machine; subclasses may be other hosts.

    Attributes:
        address: the IP address at which others reach it.
    """

    address: str = "127.0.0.1"

    def words(self, words: list[str]) -> list[str]:
        """The command line that runs ``words`` there."""
        return words

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Sockets opened in the block are sockets of that place."""
        return contextlib.nullcontext()


@dataclass
class Daemon:
    """One daemon of the demonstration: its command, its folder, its log."""

    name: str
    command: list[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it gets SIGTERM when this process dies, however it dies."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.environment},
                preexec_fn=end_with_parent,
            )

    def check(self) -> None:
        """Raise when it ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
            raise DemoError(f"{self.name} ended with exit code {self.process.returncode}. Its log {self.log}:\n{tail}")

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class Daemons:
    """All daemons; the last one started is stopped first."""

    running: list[Daemon] = field(default_factory=list)

    def start(self, name: str, command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> Daemon:
        """Start one and remember it."""
        daemon = Daemon(name, command, log, environment or {})
        daemon.start()
        self.running.append(daemon)
        return daemon

    def check(self) -> None:
        """Raise when any ended by itself."""
        for daemon in self.running:
            daemon.check()

    def stop(self) -> None:
        """End all: SIGTERM, some seconds of grace, then SIGKILL."""
        processes = [daemon.process for daemon in reversed(self.running) if daemon.process is not None]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS
        for process in processes:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def daemons() -> Iterator[Daemons]:
    """Daemons that are ended when the block is left, whatever the reason."""
    all_of_them = Daemons()
    try:
        yield all_of_them
    finally:
        all_of_them.stop()


def command(name: str, *arguments: str) -> list[str]:
    """A command of the installed package."""
    return [str(BIN / name), *arguments]


def run(words: list[str], *, environment: dict[str, str] | None = None, seconds: float = 300) -> str:
    """Run a command to its end and return what it printed."""
    shown = " ".join([Path(words[0]).name, *words[1:]])
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        raise DemoError(f"`{shown}` did not end within {seconds:g} s") from None
    if done.returncode:
        raise DemoError(f"`{shown}` ended with exit code {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


def port_is_free(port: int) -> bool:
    """Whether nobody listens on this TCP port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Ports that are free now for TCP and for UDP."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            tcp = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            udp = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            with contextlib.suppress(OSError):
                udp.bind(("127.0.0.1", port))
                found.append(port)
    return found


def end_with_parent() -> None:
    """For ``preexec_fn``: the new process gets SIGTERM when the one that started it dies."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
