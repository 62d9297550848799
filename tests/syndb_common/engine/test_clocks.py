"""The clock of the machine may be set, by hours and in either direction: nothing is timed by it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import syndb_common

ROOT = Path(syndb_common.__file__).parent
MODULES = sorted(path for part in ("engine", "flight") for path in (ROOT / part).rglob("*.py"))
STAMPS = {("archive.py", "time.time")}
"""Where a time is written down and never compared: of files in an archive."""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_durations_are_measured_by_a_clock_that_only_goes_forward(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {(path.name, name) for name in used & {"time.time", "time.time_ns"}} <= STAMPS
    assert not named & {"time", "time_ns"} or "time.time" in used
    differences = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)]
    assert not [node for node in differences if "datetime.now" in ast.unparse(node)], "a date is for people"
