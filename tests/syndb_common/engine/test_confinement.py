"""What SQL can reach from inside the engine process: its own folder, whatever the statement; and what it says when the
kernel cannot see to that."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from syndb_common.engine import landlock, lock
from syndb_common.engine.local import LocalEngine
from syndb_common.errors import SynDBError
from tests.syndb_common.engine.bridging import bridged


def _needs(abi: int, what: str) -> pytest.MarkDecorator:
    """Skips where the kernel cannot do it. Where changes are tried before they are taken (``CI`` is set), a kernel that
    has Landlock but too old a one is a failure: nobody would see that nothing was tried.
    """
    found = landlock.abi()
    there = found >= abi or bool(found and os.environ.get("CI"))
    return pytest.mark.skipif(not there, reason=f"this kernel has no Landlock with rules for {what}")


@pytest.mark.parametrize(("found", "ci", "skipped"), [(0, "1", True), (3, "", True), (3, "1", False), (4, "", False)])
def test_where_changes_are_tried_a_kernel_with_too_old_a_landlock_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, found: int, ci: str, skipped: bool
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: found)
    monkeypatch.setenv("CI", ci)
    assert _needs(4, "TCP").args == (skipped,)


SECRET = "f0e1d2c3 the key of another daemon"


@pytest.fixture
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the same user that is not the engine's, with a key in it."""
    folder = tmp_path_factory.mktemp("other-daemon")
    (folder / "identity.key").write_text(SECRET)
    (folder / "identity.key").chmod(0o600)
    return folder


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody on this machine who would take a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        yield server


@_needs(4, "TCP")
async def test_no_sql_reaches_beyond_the_engines_folder(
    engine: LocalEngine, foreign: Path, listener: socket.socket, tmp_path: Path
) -> None:
    at = f"127.0.0.1:{listener.getsockname()[1]}"
    key, new = foreign / "identity.key", foreign / "new"
    secrets = (tmp_path / "upload-token", tmp_path / "flight" / "flight.key")  # the owner's: also out of its reach
    assert {secret.stat().st_mode & 0o777 for secret in secrets} == {0o600}
    link = tmp_path / "clickhouse" / "data" / "user_files" / "link"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(key)
    into = "CREATE TABLE syndb.found ENGINE = Memory AS "
    statements = [
        f"{into}SELECT * FROM file('/etc/passwd', 'LineAsString')",
        f"{into}SELECT * FROM file('/proc/{os.getpid()}/environ', 'RawBLOB')",
        f"{into}SELECT * FROM file('{key}', 'RawBLOB')",
        f"{into}SELECT * FROM file('{foreign}/*', 'RawBLOB')",
        *(f"{into}SELECT * FROM file('{secret}', 'RawBLOB')" for secret in secrets),
        f"{into}SELECT * FROM file('{link}', 'RawBLOB')",
        f"{into}SELECT * FROM filesystem('{foreign}') WHERE name = 'identity.key'",
        f"{into}SELECT content FROM filesystem('{key}') WHERE isNotNull(content)",  # that it is there can be seen
        f"{into}SELECT * FROM sqlite('{key}', 'x')",
        f"{into}SELECT * FROM executable('cat {key}', 'LineAsString', 'line String')",
        f"{into}SELECT * FROM executable('/bin/cat', 'LineAsString', 'line String', (SELECT '{key}'))",
        f"{into}SELECT * FROM url('http://{at}/', 'LineAsString', 'line String') SETTINGS http_max_tries = 1",
        f"{into}SELECT * FROM remote('{at}', system.one) SETTINGS connections_with_failover_max_tries = 1",
        f"{into}SELECT * FROM s3('http://{at}/b/k', 'a', 'b', 'LineAsString', 'line String') "
        "SETTINGS s3_retry_attempts = 0, s3_max_single_read_retries = 0",
        f"SELECT 1 INTO OUTFILE '{new}'",
        f"INSERT INTO FUNCTION file('{new}', 'CSV', 'a UInt8') SELECT 1",
        f"INSERT INTO FUNCTION url('http://{at}/', 'CSV', 'a UInt8') SETTINGS http_max_tries = 1 SELECT 1",
        f"CREATE TABLE syndb.out (a UInt8) ENGINE = MergeTree ORDER BY a "
        f"SETTINGS disk = disk(type = local, path = '{new}/')",
        f"BACKUP TABLE syndb.neurons TO File('{new}')",
    ]
    passed = [sql for sql in statements if await _reaches(engine, sql)]
    assert passed == []
    assert os.listdir(foreign) == ["identity.key"]
    assert key.read_text() == SECRET
    with pytest.raises(BlockingIOError):
        listener.accept()


async def _reaches(engine: LocalEngine, sql: str) -> bool:
    """Whether a statement does what it should not; a pattern that finds no file is an empty answer and no error."""
    try:
        await engine.execute(sql)
    except SynDBError as error:
        return SECRET in error.message
    if not sql.startswith("CREATE TABLE syndb.found"):
        return True
    found = (await engine.query("SELECT * FROM syndb.found")).table.num_rows
    await engine.execute("DROP TABLE syndb.found")
    return found > 0


CONFINED = """
    import ctypes, os, signal, socket, subprocess, sys
    from pathlib import Path
    from syndb_common.engine.landlock import confine

    folder, key, port, pid = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    (folder / "program").write_text("#!/bin/sh\\n")
    (folder / "program").chmod(0o700)
    assert confine(folder, 0)

    def attempt(what, action):
        try:
            action()
        except PermissionError:
            print(what, "refused")
        else:
            print(what, "done")

    attempt("read", key.read_text)
    attempt("write", lambda: (key.parent / "new").write_text("x"))
    attempt("remove", key.unlink)
    attempt("start", lambda: subprocess.run(["/bin/true"]))
    attempt("start own", lambda: subprocess.run([folder / "program"]))
    attempt("connect", lambda: socket.create_connection(("127.0.0.1", port)))
    attempt("signal", lambda: os.kill(pid, signal.SIGCONT))
    attempt("own file", lambda: (folder / "mine").write_text("x"))
    attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)))
"""


@_needs(6, "signals")
def test_the_process_itself_can_do_no_more_than_its_sql(foreign: Path, listener: socket.socket, tmp_path: Path) -> None:
    """Also if ClickHouse had a hole: this is what code that runs in its process can do."""
    words = [str(tmp_path), str(foreign / "identity.key"), str(listener.getsockname()[1]), str(os.getpid())]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CONFINED), *words], capture_output=True, text=True, check=True
    )
    forbidden = ("read", "write", "remove", "start", "start own", "connect", "signal")
    assert done.stdout.splitlines() == [f"{what} refused" for what in forbidden] + ["own file done", "listen done"]


TRYING = """
    import json, socket, sys
    from pathlib import Path

    sys.argv = sys.argv[sys.argv.index("syndb_common.engine.process"):]
    from syndb_common.engine import landlock, process

    def attempt(action):
        try:
            action()
        except PermissionError:
            return "refused"
        return "done"

    def confine_and_try(folder, *arguments, **named):
        confined = confine(folder, *arguments, **named)
        port, other, key = json.loads((folder / "try").read_text())
        tried = {
            "server": attempt(lambda: socket.create_connection(("127.0.0.1", port)).close()),
            "other": attempt(lambda: socket.create_connection(("127.0.0.1", other)).close()),
            "key": attempt(Path(key).read_text),
            "hosts": attempt(Path("/etc/hosts").read_text),
        }
        (folder / "tried").write_text(json.dumps(tried))
        return confined

    confine, landlock.confine = landlock.confine, confine_and_try
    process.main()
"""


@pytest.mark.slow
@_needs(4, "TCP")
async def test_an_engine_with_a_server_reaches_its_port_and_nothing_else(
    foreign: Path, listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    with bridged(tmp_path / "bridge") as server:
        folder, trying, interpreter = tmp_path / lock.FOLDER, tmp_path / "trying.py", tmp_path / "python"
        folder.mkdir(mode=0o700)
        (folder / "try").write_text(json.dumps([server.port, listener.getsockname()[1], str(foreign / "identity.key")]))
        trying.write_text(textwrap.dedent(TRYING))
        interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{trying}" "$@"\n')
        interpreter.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(interpreter))
        engine = LocalEngine(tmp_path, server=server)
        await nursery.start(engine.run)
        assert (await engine.query("SELECT 42 AS n")).table.to_pylist() == [{"n": 42}]
        tried = json.loads((folder / "tried").read_text())
        assert tried == {"server": "done", "other": "refused", "key": "refused", "hosts": "done"}
        nursery.cancel_scope.cancel()


WITHOUT_LANDLOCK = """
    import ctypes, struct, sys
    from pathlib import Path
    import trio
    from syndb_common.daemon import configure_logging
    from syndb_common.engine.local import LocalEngine

    # A filter of system calls: landlock_create_ruleset (444) fails with ENOSYS, as on a kernel without Landlock.
    code = struct.pack("HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, 444, 0x06, 0, 0, 0x00050026, 0x06, 0, 0, 0x7FFF0000)
    filters = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", 4, ctypes.addressof(filters))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0, ctypes.get_errno()

    async def main():
        engine = LocalEngine(Path(sys.argv[1]))
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            print((await engine.query("SELECT 42 AS n")).table.to_pylist())
            nursery.cancel_scope.cancel()

    configure_logging("warning")
    trio.run(main)
"""


def test_an_engine_that_the_kernel_cannot_confine_works_and_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT_LANDLOCK), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[{'n': 42}]\n"
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["level"], line["event"]) == ("warning", "engine is not confined: this kernel has no Landlock")
