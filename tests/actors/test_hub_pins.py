"""Whom a node obeys: the configured hub, then whom that one named, and never again whom it left behind."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from actors import hub_pins
from actors.hub_pins import FILE, HubPins, Pins
from actors.remote.identity import Identity
from syndb_common.errors import ConfigError

FIRST, SECOND, THIRD = (Identity.generate().peer_id for _ in range(3))


def pinned(folder: Path, configured: str = FIRST) -> tuple[str, str]:
    """What a node that starts now would pin."""
    pins = HubPins(folder, configured)
    return pins.current, pins.successor


def test_the_configuration_names_the_first_hub_and_nothing_is_written_for_it(tmp_path: Path) -> None:
    assert pinned(tmp_path) == (FIRST, "")
    assert list(tmp_path.iterdir()) == []


async def test_the_pinned_hub_names_its_successor_which_survives_a_restart(tmp_path: Path) -> None:
    pins = HubPins(tmp_path, FIRST)
    await pins.announced(FIRST, SECOND)
    assert (pins.current, pins.successor) == (FIRST, SECOND) == pinned(tmp_path)
    assert pins.trusts(FIRST)
    assert not pins.trusts(SECOND)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


async def test_nobody_else_names_a_successor(tmp_path: Path) -> None:
    pins = HubPins(tmp_path, FIRST)
    await pins.announced(SECOND, THIRD)
    await pins.announced(FIRST, "x" * 52)
    await pins.announced(FIRST, FIRST)
    assert pinned(tmp_path) == (pins.current, pins.successor) == (FIRST, "")


async def test_a_hub_can_take_its_announcement_back(tmp_path: Path) -> None:
    pins = HubPins(tmp_path, FIRST)
    await pins.announced(FIRST, SECOND)
    await pins.announced(FIRST, "")
    assert pinned(tmp_path) == (pins.current, pins.successor) == (FIRST, "")


async def test_a_successor_that_proved_itself_is_the_hub_and_the_former_key_is_refused(tmp_path: Path) -> None:
    pins = HubPins(tmp_path, FIRST)
    await pins.announced(FIRST, SECOND)
    await pins.changed_over(SECOND)
    assert pinned(tmp_path) == (pins.current, pins.successor) == (SECOND, "")
    await pins.announced(FIRST, THIRD)
    await pins.changed_over(FIRST)
    assert not pins.trusts(FIRST)
    assert pinned(tmp_path) == (SECOND, "")


async def test_whoever_was_not_announced_does_not_become_the_hub(tmp_path: Path) -> None:
    pins = HubPins(tmp_path, FIRST)
    await pins.changed_over(THIRD)
    assert (pins.current, pins.successor) == (FIRST, "")


async def test_another_hub_in_the_configuration_begins_anew(tmp_path: Path) -> None:
    pins = HubPins(tmp_path, FIRST)
    await pins.announced(FIRST, SECOND)
    await pins.changed_over(SECOND)
    assert pinned(tmp_path, THIRD) == (THIRD, "")
    await pins.reload(THIRD)
    assert (pins.current, pins.successor) == (THIRD, "")


async def test_what_the_operator_pins_is_heeded_and_not_overwritten(tmp_path: Path) -> None:
    pins = HubPins(tmp_path, FIRST)
    await pins.announced(FIRST, SECOND)
    hub_pins.write(tmp_path, Pins(configured=FIRST, current=THIRD))
    await pins.changed_over(SECOND)
    assert (pins.current, pins.successor) == (THIRD, "") == pinned(tmp_path)


async def test_a_change_that_cannot_be_kept_holds_until_the_node_ends(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.symlink_to(tmp_path / "nowhere")  # nothing can be written there
    pins = HubPins(folder, FIRST)
    await pins.announced(FIRST, SECOND)
    await pins.changed_over(SECOND)
    await pins.reload()
    assert pins.current == SECOND
    assert pinned(folder) == (FIRST, "")


async def test_a_file_that_is_damaged_later_changes_nothing_until_it_is_mended(tmp_path: Path) -> None:
    pins = HubPins(tmp_path, FIRST)
    (tmp_path / FILE).touch()
    with pytest.raises(ConfigError, match="damaged"):
        await pins.reload()
    await pins.announced(FIRST, SECOND)
    assert (pins.current, pins.successor) == (FIRST, "")


@pytest.mark.parametrize("content", ["", "{", '{"configured": "x", "current": "y"}', "x" * 10_000])
def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ConfigError) as refused:
        HubPins(tmp_path, FIRST)
    assert "syndb-node trust" in refused.value.hint
