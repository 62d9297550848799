"""A configuration as `syndb-hub init` writes it, and the command itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from syndb_common.settings import load
from syndb_hub.main import app
from syndb_hub.settings import HubSettings


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYNDB_HUB_CONFIG", "SYNDB_DATA_DIR", "FEDERATION_PASSWORD", "SYNDB_HTTP_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def syndb_hub() -> Callable[..., Result]:
    """Run ``syndb-hub`` with these words."""
    return lambda *words: CliRunner().invoke(app, words)


@pytest.fixture
def config(tmp_path: Path, syndb_hub: Callable[..., Result]) -> Path:
    """A configuration file beside its data folder."""
    path = tmp_path / "etc" / "hub.toml"
    assert syndb_hub("init", "--config", str(path)).exit_code == 0
    return path


@pytest.fixture
def settings(config: Path) -> HubSettings:
    """What that file says."""
    return load(HubSettings, config, {})
