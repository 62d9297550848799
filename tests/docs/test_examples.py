"""The commands of the pages, run as they stand against a federation of real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo.local import LocalFederation
from tests.docs.pages import ROOT, examples

pytestmark = pytest.mark.slow

NODES = {"cook-hermaphrodite": "herm", "cook-male": "male", "witvliet-development": "dev"}
"""Names of the demonstration's nodes and of those that stand in for them here."""
PRELUDE = 'set -euo pipefail\ncurl() { command curl --fail-with-body "$@"; }\n'


@pytest.fixture
def checkout(federation: LocalFederation, tmp_path: Path) -> Path:
    """A folder that looks like the checkout while the demonstration runs."""
    (tmp_path / "demo-data").symlink_to(federation.folder)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def run(words: list[str], script: str, federation: LocalFederation, folder: Path) -> str:
    script = script.replace("127.0.0.1:8080", federation.url.removeprefix("http://"))
    # The demonstration's port is the default of `syndb`; this federation has another one.
    environment = {**os.environ, "SYNDB_SERVER_URL": federation.url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*words, script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def assert_shown(shown: str, printed: str) -> None:
    """Every line shown in a page was printed; an ellipsis stands for anything."""
    for name, stand_in in NODES.items():
        shown = shown.replace(name, stand_in)
    for line in filter(None, shown.splitlines()):
        pattern = re.escape(line.rstrip()).replace("…", ".*")
        assert re.search(f"^{pattern}\\s*$", printed, re.MULTILINE), f"{line}\nis not in\n{printed}"


@pytest.mark.parametrize("page", ["README.md", "docs/users.md", "docs/api.md"])
def test_commands_do_what_the_page_shows(page: str, federation: LocalFederation, checkout: Path) -> None:
    commands = examples(page, "sh")
    printed = run(["bash", "-c"], PRELUDE + "\n".join(command for command, _ in commands), federation, checkout)
    assert commands
    for _, shown in commands:
        assert_shown(shown, printed)


@pytest.mark.parametrize("page", ["README.md", "docs/contributing.md", "docs/flight.md"])
def test_python_does_what_the_page_shows(page: str, federation: LocalFederation, checkout: Path) -> None:
    programs = examples(page, "python")
    assert programs
    for program, shown in programs:
        assert_shown(shown, run([sys.executable, "-c"], program, federation, checkout))


@pytest.mark.parametrize("query", [query for query, _ in examples("docs/syql.md", "sql")])
def test_queries_of_the_syql_page_are_answered(query: str, federation: LocalFederation) -> None:
    scope = {} if "SCOPE " in query.replace("'%SCOPE remote%'", "") else {"scope": "federation"}
    job = federation.query(query, **scope)
    assert job["status"] == "completed", job["error_message"]
    assert job["provenance"]["complete"]
