"""The tree is the architecture: who may import whom, and what a start of a program may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    # package: what of ours it may import
    "syndb_common": {"syndb_common"},
    "actors": {"actors", "syndb_common"},
    "syndb_node": {"syndb_node", "actors", "syndb_common"},
    "syndb_hub": {"syndb_hub", "actors", "syndb_common"},
    "syndb_cli": {"syndb_cli", "actors", "syndb_common"},
}
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """The full names of the modules a file imports, also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield ".".join([*above, *([node.module] if node.module else [])])


def test_dependencies_point_one_way() -> None:
    foreign = {*PACKAGES, "tests", "demo", "bench", "tools"}
    for path in MODULES:
        allowed = PACKAGES[path.relative_to(ROOT).parts[0]]
        assert {name.partition(".")[0] for name in imports(path)} & foreign <= allowed, name_of(path)


def test_the_actor_runtime_imports_nothing_but_trio() -> None:
    for path in (ROOT / "actors" / "runtime").rglob("*.py"):
        for name in imports(path):
            top = name.partition(".")[0]
            assert top in {*sys.stdlib_module_names, "trio"} or name.startswith("actors.runtime"), name_of(path)


@pytest.mark.parametrize(
    ("library", "place"),
    [
        ("chdb", "syndb_common.engine.embedded_backend"),
        ("clickhouse_connect", "syndb_common.engine.server_backend"),
    ],
)
def test_one_module_speaks_to_each_kind_of_clickhouse(library: str, place: str) -> None:
    loading = {name_of(path) for path in MODULES if any(name.partition(".")[0] == library for name in imports(path))}
    assert loading == {place}


def test_parts_meet_in_the_two_trees_and_nowhere_else() -> None:
    composed = {"actors.registry", "actors.cluster", "actors.analytics_delegate", "actors.health_monitor"}
    for package, place in (("syndb_hub", {"tree", "control"}), ("syndb_node", {"tree"}), ("syndb_cli", set())):
        for path in (ROOT / package).rglob("*.py"):
            assert path.stem in place or not composed & set(imports(path)), name_of(path)


def test_every_module_says_what_it_is() -> None:
    for path in MODULES:
        documentation = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert len(documentation.split()) >= 3, name_of(path)


def test_what_is_public_is_documented() -> None:
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                assert node.name.startswith("_") or ast.get_docstring(node), f"{name_of(path)}.{node.name}"


def test_a_module_holds_one_noun() -> None:
    for path in MODULES:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 450, name_of(path)


def loaded_by(program: str) -> set[str]:
    """The modules in a fresh interpreter after it has run ``program``."""
    code = f"{program}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["syndb_cli.main", "syndb_hub.main", "syndb_node.main"])
def test_a_program_starts_without_its_network_and_its_engine(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert module in loaded
    assert not loaded & {"libp2p", "chdb", "pyarrow.flight", "scipy", "sqlglot", "starlette", "hypercorn"}


def test_a_users_command_starts_without_what_only_daemons_and_importers_need() -> None:
    heavy = {"numpy", "pyarrow", "sqlalchemy", "trio", "structlog", "openpyxl", "cryptography"}
    heavy |= {"httpx", "rich.progress", "opentelemetry", "prometheus_client"}
    assert not loaded_by("import syndb_cli.main") & heavy


@pytest.mark.parametrize("module", ["syndb_hub.tree", "syndb_node.tree"])
def test_no_daemon_loads_clickhouse(module: str) -> None:
    assert not loaded_by(f"import {module}") & {"chdb", "clickhouse_connect"}
