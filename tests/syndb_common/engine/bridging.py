"""Starting the test bridge."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from syndb_common.engine.settings import Server


@contextmanager
def bridged(folder: Path, *tls: Path, port: int = 0) -> Iterator[Server]:
    """A ClickHouse server on the data in ``folder``, played by the bridge; HTTPS with a certificate and its key."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.syndb_common.engine.bridge", str(folder / "data"), str(port), *map(str, tls)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Server(f"{'https' if tls else 'http'}://127.0.0.1:{port}", "tester", "secret")
    finally:
        process.kill()
        process.communicate()
