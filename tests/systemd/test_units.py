"""The units are what systemd accepts, and every directive that restricts stands beside its reason."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from syndb_common.engine import landlock

UNITS = sorted((Path(__file__).parents[2] / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit_without_a_warning(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_little_that_the_unit_leaves_open(unit: Path) -> None:
    """Its scale goes from 0, nothing, to 100; without these directives a service has 96."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(unit)]
    checked = subprocess.run(words, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_engine_process_may_confine_itself(unit: Path) -> None:
    (allowed,) = [line for line in unit.read_text().splitlines() if line.startswith("SystemCallFilter=")]
    assert {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"} <= set(allowed.split())


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_every_directive_that_restricts_has_its_reason_above(unit: Path) -> None:
    """Directives may share one: no empty line and no other comment stands between them."""
    reasoned = False
    for line in unit.read_text().splitlines()[unit.read_text().splitlines().index("[Service]") + 1 :]:
        if line.startswith("["):
            break
        reasoned = line.startswith("#") or (reasoned and bool(line))
        restricts = line.startswith(("Protect", "Private", "Restrict", "NoNew", "Capability", "SystemCallF", "Limit"))
        restricts |= line.startswith(("TemporaryFile", "BindReadOnly", "Inaccessible"))
        assert reasoned or not restricts, line


def of(unit: Path, directive: str) -> list[str]:
    """The words of a directive, on however many lines."""
    lines = [line.removeprefix(f"{directive}=") for line in unit.read_text().splitlines() if line.startswith(directive)]
    return [word.removeprefix("-") for line in lines for word in line.split()]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_without_landlock_the_engine_process_sees_no_accounts_either(unit: Path) -> None:
    """Of /etc it sees what it may read where the kernel confines it, and little else."""
    assert {"/etc:ro", "/var:ro"} <= set(of(unit, "TemporaryFileSystem"))
    seen = [Path(path) for path in of(unit, "BindReadOnlyPaths")]
    assert all(path.is_relative_to("/etc") and path != Path("/etc") for path in seen)
    for secret in ("passwd", "shadow", "group", "machine-id", "ssh"):
        assert Path("/etc", secret) not in seen
    for needed in map(Path, (*landlock._SYSTEM_FILES, *landlock._TO_FIND_SERVERS)):
        if needed.is_relative_to("/etc"):
            assert any(needed.is_relative_to(path) for path in seen), needed


def test_there_is_one_unit_for_each_daemon() -> None:
    assert [unit.name for unit in UNITS] == ["syndb-hub.service", "syndb-node.service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_daemon_is_supervised_and_sandboxed(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    for directive in ("Type=notify", "WatchdogSec=30", "NoNewPrivileges=yes", "ProtectSystem=strict", "UMask=0077"):
        assert directive in lines


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_reload_is_the_signal_that_the_daemon_heeds(unit: Path) -> None:
    assert "ExecReload=/bin/kill -HUP $MAINPID" in unit.read_text().splitlines()
