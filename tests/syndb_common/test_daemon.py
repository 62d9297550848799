"""What every daemon does around its work: exit codes, signals, and what systemd hears."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syndb_common import daemon
from syndb_common.daemon import first_error, notify, report_errors
from syndb_common.errors import ConfigError, EngineUnavailable, SynDBError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConfigError("no file", hint="write one"), 2, "error: no file\n  write one\n"),
        (EngineUnavailable("gone"), 10, "error: gone\n"),
        (ExceptionGroup("nursery", [ExceptionGroup("inner", [ConfigError("deep")])]), 2, "error: deep\n"),
        (KeyboardInterrupt(), 130, ""),
        (BaseExceptionGroup("nursery", [ConfigError("first"), KeyboardInterrupt()]), 2, "error: first\n"),
    ],
)
def test_an_error_of_ours_is_one_line_and_its_exit_code(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with report_errors() as outcome:
        raise error
    assert outcome.code == code
    assert capsys.readouterr().err == says


def test_an_error_nobody_foresaw_is_logged_whole_and_exits_1(capfd: pytest.CaptureFixture[str]) -> None:
    with report_errors() as outcome:
        raise ZeroDivisionError("a mistake of ours")
    assert outcome.code == 1


def test_the_end_of_the_interpreter_is_not_an_error() -> None:
    with pytest.raises(SystemExit), report_errors():
        sys.exit(5)


def test_success_is_0() -> None:
    with report_errors() as outcome:
        pass
    assert outcome.code == 0


def test_the_cause_that_a_person_can_act_on_is_found_behind_others() -> None:
    error = RuntimeError("the tree gave up")
    error.__cause__ = ConfigError("the port is taken")
    found = first_error(ExceptionGroup("nursery", [error]))
    assert isinstance(found, SynDBError)
    assert found.message == "the port is taken"
    assert first_error(RuntimeError("nothing of ours")) is None


def test_causes_in_a_circle_end() -> None:
    first, second = RuntimeError(), RuntimeError()
    first.__cause__, second.__cause__ = second, first
    assert first_error(first) is None


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(20)
        yield sock


def test_systemd_is_told(supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", supervisor.getsockname())
    notify("READY=1")
    assert supervisor.recv(100) == b"READY=1"


def test_an_abstract_socket_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0syndb-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@syndb-test-{os.getpid()}")
        notify("STOPPING=1")
        sock.settimeout(5)
        assert sock.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all"])
def test_without_systemd_nothing_happens(
    address: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    with report_errors() as outcome:
        notify("READY=1")
    assert outcome.code == 0
    assert capfd.readouterr() == ("", "")


QUICK = "task_status.started(); await trio.sleep_forever()"
STUBBORN = """
task_status.started()
with trio.CancelScope(shield=True):
    await trio.sleep_forever()
"""
BLOCKED = """
task_status.started()
try:
    await trio.sleep_forever()
finally:
    import time; time.sleep(600)
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(supervisor: socket.socket) -> Iterator[Start]:
    """Starts a daemon whose ``serve`` has this body, and waits until it is ready."""
    started: list[subprocess.Popen[str]] = []

    def start_daemon(body: str, *, stop_seconds: float = 60, **environment: str) -> subprocess.Popen[str]:
        program = textwrap.dedent(
            """
            import sys, trio
            from syndb_common import daemon
            from syndb_common.errors import ConfigError
            daemon.STOP_SECONDS = {stop_seconds}
            async def serve(task_status):
            {body}
            sys.exit(daemon.run_daemon(serve))
            """
        ).format(stop_seconds=stop_seconds, body=textwrap.indent(body.strip(), "    "))
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": supervisor.getsockname(), **environment},
        )
        started.append(process)
        return process

    yield start_daemon
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_daemon_well(start: Start, supervisor: socket.socket, number: signal.Signals) -> None:
    process = start(QUICK)
    assert supervisor.recv(100) == b"READY=1"
    process.send_signal(number)
    assert supervisor.recv(100) == b"STOPPING=1"
    assert process.wait(20) == 0


def test_the_watchdog_is_fed_while_the_loop_turns(start: Start, supervisor: socket.socket) -> None:
    start(QUICK, WATCHDOG_USEC="200000")
    heard = [supervisor.recv(100) for _ in range(4)]
    assert sorted(set(heard)) == [b"READY=1", b"WATCHDOG=1"]
    assert heard.count(b"READY=1") == 1


def test_systemd_does_not_hear_ready_from_a_daemon_that_cannot_start(start: Start, supervisor: socket.socket) -> None:
    process = start('raise ConfigError("the port is taken", hint="take another")')
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert said == "error: the port is taken\n  take another\n"
    supervisor.setblocking(False)
    with pytest.raises(BlockingIOError):
        supervisor.recv(100)


def test_a_signal_while_starting_ends_a_daemon_well(start: Start, supervisor: socket.socket) -> None:
    process = start('daemon.notify("starting"); await trio.sleep_forever()')
    assert supervisor.recv(100) == b"starting"
    process.terminate()
    assert process.wait(20) == 0


def test_a_part_that_fails_ends_the_daemon_with_its_error(start: Start, supervisor: socket.socket) -> None:
    process = start('task_status.started(); await trio.sleep(0.1); raise ConfigError("too late")')
    assert supervisor.recv(100) == b"READY=1"
    assert process.wait(20) == 2


@pytest.mark.parametrize("body", [STUBBORN, BLOCKED], ids=["shielded", "blocking the loop"])
def test_a_second_signal_ends_a_daemon_that_takes_too_long(start: Start, supervisor: socket.socket, body: str) -> None:
    process = start(body)
    assert supervisor.recv(100) == b"READY=1"
    process.terminate()
    assert supervisor.recv(100) == b"STOPPING=1"
    process.terminate()
    assert process.wait(20) == -signal.SIGTERM


@pytest.mark.parametrize("body", [STUBBORN, BLOCKED], ids=["shielded", "blocking the loop"])
def test_a_daemon_that_does_not_stop_in_its_time_is_ended(start: Start, supervisor: socket.socket, body: str) -> None:
    process = start(body, stop_seconds=0.3)
    assert supervisor.recv(100) == b"READY=1"
    process.terminate()
    assert process.wait(20) == -signal.SIGALRM


def test_stopping_takes_less_than_systemd_waits() -> None:
    units = (ROOT / "systemd").glob("*.service")
    for unit in units:
        [line] = [each for each in unit.read_text().splitlines() if each.startswith("TimeoutStopSec=")]
        assert float(line.partition("=")[2]) > daemon.STOP_SECONDS
