"""A node's new key: whenever its process dies, it starts with a key by which it can join."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.key_rotation import KEY, PREVIOUS_KEY, finish, load_keys, prepare_next
from actors.remote.identity import Identity
from syndb_common.errors import ConfigError


class Killed(BaseException):
    """The process ends here."""


def peer_id(path: Path) -> str:
    return Identity.load(path).peer_id


def test_a_node_has_one_key_until_another_is_asked_for(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    assert keys.predecessor is None
    assert load_keys(tmp_path).identity.peer_id == keys.identity.peer_id
    finish(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [KEY]


def test_the_next_key_is_used_and_the_present_one_hands_over_to_it(tmp_path: Path) -> None:
    old = load_keys(tmp_path).identity.peer_id
    new = prepare_next(tmp_path).identity.peer_id
    assert prepare_next(tmp_path).identity.peer_id == new
    keys = load_keys(tmp_path)
    assert keys.predecessor is not None
    assert (keys.identity.peer_id, keys.predecessor.peer_id) == (new, old)
    assert peer_id(tmp_path / KEY) == old


def test_the_next_key_takes_its_place_and_the_former_is_kept(tmp_path: Path) -> None:
    old, new = load_keys(tmp_path).identity.peer_id, prepare_next(tmp_path).identity.peer_id
    finish(tmp_path)
    finish(tmp_path)
    keys = load_keys(tmp_path)
    assert (keys.identity.peer_id, keys.predecessor) == (new, None)
    assert peer_id(tmp_path / PREVIOUS_KEY) == old
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([KEY, PREVIOUS_KEY])
    assert all(stat.S_IMODE(each.stat().st_mode) == 0o600 for each in tmp_path.iterdir())


def test_a_key_can_be_changed_again(tmp_path: Path) -> None:
    load_keys(tmp_path)
    second = prepare_next(tmp_path).identity.peer_id
    finish(tmp_path)
    third = prepare_next(tmp_path).identity.peer_id
    finish(tmp_path)
    assert (peer_id(tmp_path / KEY), peer_id(tmp_path / PREVIOUS_KEY)) == (third, second)


@pytest.mark.parametrize("step", range(9))
def test_a_node_that_dies_in_the_middle_starts_with_a_key_that_joins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    old, new = load_keys(tmp_path).identity.peer_id, prepare_next(tmp_path).identity.peer_id
    left = [step]

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return function(*args, **options)

        return call

    with monkeypatch.context() as dying:
        for owner, name in ((os, "link"), (os, "fsync"), (Path, "replace"), (Path, "unlink")):
            dying.setattr(owner, name, deadly(getattr(owner, name)))
        died = False
        try:
            finish(tmp_path)
        except Killed:
            died = True
    assert died == (step < 7)
    keys = load_keys(tmp_path)
    # The hub has accepted the new key by then: it must be used, with the former one vouching or not needed any more.
    assert keys.identity.peer_id == new
    assert keys.predecessor is None or keys.predecessor.peer_id == old
    finish(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([KEY, PREVIOUS_KEY])
    assert (peer_id(tmp_path / KEY), peer_id(tmp_path / PREVIOUS_KEY)) == (new, old)


def test_a_next_key_without_a_present_one_is_an_error(tmp_path: Path) -> None:
    prepare_next(tmp_path)
    (tmp_path / KEY).unlink()
    with pytest.raises(ConfigError, match=KEY):
        load_keys(tmp_path)
    with pytest.raises(ConfigError, match="place"):
        finish(tmp_path)
