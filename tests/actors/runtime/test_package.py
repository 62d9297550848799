"""The package as something to publish: what it imports, and whether its example runs."""

from __future__ import annotations

import ast
import doctest
import sys
from pathlib import Path

import pytest

import actors.runtime

MODULES = sorted(Path(actors.runtime.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_imports_only_the_standard_library_trio_and_the_package_itself(module):
    allowed = sys.stdlib_module_names | {"trio"}
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module or ""]
        else:
            continue
        for name in names:
            assert name.split(".")[0] in allowed or name.startswith("actors.runtime."), name


def test_the_example_in_the_package_docstring_runs():
    assert doctest.testmod(actors.runtime).attempted > 0
    assert doctest.testmod(actors.runtime).failed == 0


def test_every_public_name_is_documented():
    for name in actors.runtime.__all__:
        assert getattr(actors.runtime, name).__doc__, name
