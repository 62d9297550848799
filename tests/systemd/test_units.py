"""The units are what systemd accepts, and every directive that restricts stands beside its reason."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[2] / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit_without_a_warning(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


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
