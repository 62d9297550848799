"""What may change while the hub runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import SecretStr
from structlog.testing import capture_logs

from syndb_hub.keys import Keys
from syndb_hub.present import Present
from syndb_hub.settings import FederationSettings, HubSettings


def settings(data_dir: Path, password: str) -> HubSettings:
    return HubSettings(data_dir=data_dir, federation=FederationSettings(password=SecretStr(password)))


async def reloaded(present: Present) -> list[Any]:
    """The warnings of a reload."""
    with capture_logs() as log:
        await present.reload()
    return [line for line in log if line["log_level"] == "warning"]


async def test_a_reload_that_changes_nothing_says_so(tmp_path: Path) -> None:
    now = [settings(tmp_path, "first")]
    present = Present(now[0], "12D3", lambda: now[0])
    await present.load()
    [warning] = await reloaded(present)
    assert warning["event"] == "nothing has changed"
    assert "systemd" in warning["hint"]
    now[0] = settings(tmp_path, "second")
    assert await reloaded(present) == []
    Keys(tmp_path).make_next()
    assert await reloaded(present) == []
