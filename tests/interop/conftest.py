"""Peers of other languages. They are slow: everything in this folder is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
NO_REGISTRY = re.compile(r"npm error code (E(NOTFOUND|AI_AGAIN|CONNREFUSED|CONNRESET|TIMEDOUT|NETUNREACH))")
OLDEST_NODE = 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def foreign_peer(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the js-libp2p peer, installed from its lock file outside the checkout."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"Node {version} is older than {OLDEST_NODE}")
    folder = tmp_path_factory.mktemp("foreign-peer") / "peer"
    shutil.copytree(FOLDER / "peer", folder, ignore=shutil.ignore_patterns("node_modules"))
    words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode and (reason := NO_REGISTRY.search(done.stderr)):
        pytest.skip(f"the packages of the foreign peer cannot be fetched: {reason[1]}")
    assert done.returncode == 0, done.stderr
    return ["node", str(folder / "main.mjs")]
