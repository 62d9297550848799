"""``syndb-hub``: what the hub's operator types before anything runs."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from actors.remote.identity import Identity
from syndb_common.settings import load
from syndb_hub.settings import HubSettings

Command = Callable[..., Result]


def test_init_makes_a_strong_password_a_key_and_a_file_for_the_owner_only(syndb_hub: Command, config: Path) -> None:
    settings = load(HubSettings, config, {})
    assert len(settings.federation.password.get_secret_value()) >= 40
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700
    assert syndb_hub("check-config", "--config", str(config)).exit_code == 0


def test_two_hubs_have_different_passwords_and_keys(syndb_hub: Command, config: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "hub.toml"
    syndb_hub("init", "--config", str(other))
    passwords = {load(HubSettings, path, {}).federation.password.get_secret_value() for path in (config, other)}
    ids = {syndb_hub("id", "--config", str(path)).stdout for path in (config, other)}
    assert (len(passwords), len(ids)) == (2, 2)


def test_init_says_the_peer_id_and_never_the_password(syndb_hub: Command, tmp_path: Path) -> None:
    path = tmp_path / "hub.toml"
    done = syndb_hub("init", "--config", str(path), "--data-dir", str(tmp_path / "data"))
    peer_id = Identity.load(tmp_path / "data" / "identity.key").peer_id
    assert peer_id in done.output
    assert load(HubSettings, path, {}).federation.password.get_secret_value() not in done.output
    assert syndb_hub("id", "--config", str(path)).stdout.strip() == peer_id


def test_init_does_not_replace_a_password_that_nodes_know_unless_told_to(syndb_hub: Command, config: Path) -> None:
    before = config.read_text()
    assert syndb_hub("init", "--config", str(config)).exit_code == 6
    assert config.read_text() == before
    identity = syndb_hub("id", "--config", str(config)).stdout
    assert syndb_hub("init", "--config", str(config), "--force").exit_code == 0
    assert config.read_text() != before
    assert syndb_hub("id", "--config", str(config)).stdout == identity


@pytest.mark.parametrize("command", [["check-config"], ["id"], ["run"], ["token", "list"]])
def test_a_wrong_configuration_is_a_line_and_exit_code_2(
    syndb_hub: Command, tmp_path: Path, command: list[str]
) -> None:
    path = tmp_path / "hub.toml"
    for content in (None, "data_dir = 3", "data_dir = '/x'\n[federation]\npassword = ''"):
        if content is not None:
            path.write_text(content)
        done = syndb_hub(*command, "--config", str(path))
        assert done.exit_code == 2
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.output


def test_a_token_is_shown_once_listed_without_its_secret_and_revoked(syndb_hub: Command, config: Path) -> None:
    where = ["--config", str(config)]
    made = syndb_hub("token", "create", *where, "--name", "laptop", "--days", "7")
    token = made.stdout.strip()
    assert (made.exit_code, len(token.split())) == (0, 1)
    listed = syndb_hub("token", "list", *where)
    assert "laptop" in listed.stdout
    assert token not in listed.stdout
    assert syndb_hub("token", "revoke", "laptop", *where).exit_code == 0
    assert "revoked" in syndb_hub("token", "list", *where).stdout


def test_a_tokens_name_is_taken_until_it_is_replaced(syndb_hub: Command, config: Path) -> None:
    create = ["token", "create", "--config", str(config), "--name", "laptop"]
    first = syndb_hub(*create).stdout
    assert syndb_hub(*create).exit_code == 6
    second = syndb_hub(*create, "--replace")
    assert (second.exit_code, second.stdout != first) == (0, True)


def test_revoking_what_does_not_exist_is_said(syndb_hub: Command, config: Path) -> None:
    done = syndb_hub("token", "revoke", "nobody", "--config", str(config))
    assert done.exit_code == 5
    assert "nobody" in done.stderr


def test_the_store_with_the_tokens_is_the_owners_only(syndb_hub: Command, config: Path) -> None:
    syndb_hub("token", "create", "--config", str(config), "--name", "laptop")
    store = load(HubSettings, config, {}).data_dir / "hub.sqlite"
    assert stat.S_IMODE(store.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("words", "rights"),
    [((), "query,federation"), (("--scope", "*"), "*"), (("--scope", "query", "--scope", "admin"), "query,admin")],
)
def test_a_token_gets_the_rights_that_were_named_and_few_by_default(
    syndb_hub: Command, config: Path, words: tuple[str, ...], rights: str
) -> None:
    syndb_hub("token", "create", "--config", str(config), "--name", "laptop", *words)
    listed = syndb_hub("token", "list", "--config", str(config)).stdout.split()
    assert set(listed[2].split(",")) == set(rights.split(","))


def test_init_makes_the_key_that_the_daemon_will_use(
    syndb_hub: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNDB_DATA_DIR", str(tmp_path / "state"))
    path = tmp_path / "hub.toml"
    done = syndb_hub("init", "--config", str(path))
    assert syndb_hub("id", "--config", str(path)).stdout.strip() in done.output
    monkeypatch.delenv("SYNDB_DATA_DIR")
    assert load(HubSettings, path).data_dir == tmp_path / "state"


def test_a_key_that_others_can_read_is_found_before_the_hub_starts(syndb_hub: Command, config: Path) -> None:
    key = load(HubSettings, config, {}).data_dir / "identity.key"
    key.chmod(0o644)
    done = syndb_hub("check-config", "--config", str(config))
    assert done.exit_code == 2
    assert f"chmod 600 {key}" in done.stderr


def test_checking_makes_no_key(syndb_hub: Command, config: Path) -> None:
    key = load(HubSettings, config, {}).data_dir / "identity.key"
    key.unlink()
    done = syndb_hub("check-config", "--config", str(config))
    assert (done.exit_code, key.exists()) == (0, False)
    assert "there is no key" in done.stderr
