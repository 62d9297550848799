"""``syndb federation``: what an operator types to write, see and remove a node's configuration."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from actors import node_state
from syndb_cli.main import app
from syndb_common.engine import lock
from syndb_common.node_settings import NodeSettings, Share
from syndb_common.settings import load
from syndb_node.main import app as node_app

PASSWORD = "the-secret-of-this-test"
PEER_ID = "12D3KooWQjpHjGsyfLAaLHdBnVRCnDVyqVMEBBNbEWTjqkMYYqVx"
INIT = ["--cluster-name", "worm-lab", "--hub-peer-id", PEER_ID, "--federation-password", PASSWORD, "--offline"]


def syndb(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["federation", *words], input=stdin)


def test_init_writes_a_file_that_the_daemon_accepts_and_only_its_owner_reads(config: Path) -> None:
    done = syndb("init", *INIT)
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE((config.parent / "node").stat().st_mode) == 0o700
    assert stat.S_IMODE((config.parent / "node" / "identity.key").stat().st_mode) == 0o600
    checked = CliRunner().invoke(node_app, ["check-config", "--config", str(config)])
    assert checked.exit_code == 0, checked.output
    identity = CliRunner().invoke(node_app, ["id", "--config", str(config)])
    assert identity.output.strip() in done.stderr
    assert PASSWORD not in done.output + checked.output


def test_init_takes_every_value_also_as_the_documents_spell_it(config: Path, tmp_path: Path) -> None:
    words = [
        "--cluster_name", "worm-lab", "--hub_peer_id", PEER_ID, "--federation_password", f" {PASSWORD} ",
        "--institution", "Institut für Würmer 🧠", "--contact_email", "a@example.org",
        "--hub_multiaddr", "/ip4/1.2.3.4/tcp/1", "--hub_multiaddr", "/ip4/5.6.7.8/tcp/1",
        "--listen_addr", "/ip4/0.0.0.0/tcp/9", "--flight_port", "1234", "--flight_advertise", "example.org:99",
        "--share", "rows", "--data_dir", str(tmp_path / "data_here"), "--offline",
    ]  # fmt: skip
    assert syndb("init", *words).exit_code == 0
    settings = load(NodeSettings, config, {})
    assert settings.federation.password.get_secret_value() == PASSWORD
    assert settings.cluster.institution == "Institut für Würmer 🧠"
    assert settings.federation.hub_multiaddrs == ("/ip4/1.2.3.4/tcp/1", "/ip4/5.6.7.8/tcp/1")
    assert (settings.flight.port, settings.flight.advertise) == (1234, "example.org:99")
    assert settings.policy.share is Share.ROWS
    assert settings.data_dir == tmp_path / "data_here"


def test_init_asks_for_the_password_and_does_not_show_it(config: Path) -> None:
    done = syndb("init", *INIT[:4], "--offline", stdin=f"{PASSWORD}\n")
    assert done.exit_code == 0
    assert PASSWORD not in done.output
    assert load(NodeSettings, config, {}).federation.password.get_secret_value() == PASSWORD


def test_init_takes_name_and_password_from_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDERATION_CLUSTER_NAME", "fly-lab")
    monkeypatch.setenv("SYNDB_FEDERATION_PASSWORD", PASSWORD)
    assert syndb("init", "--hub-peer-id", PEER_ID, "--offline").exit_code == 0
    assert load(NodeSettings, config, {}).cluster.name == "fly-lab"


def test_init_does_not_replace_a_file_unless_told_to(config: Path) -> None:
    syndb("init", *INIT)
    before = config.read_text()
    again = syndb("init", *INIT, "--institution", "Other")
    assert (again.exit_code, config.read_text()) == (6, before)
    assert "--force" in again.stderr
    forced = syndb("init", *INIT, "--institution", "Other", "--force")
    assert forced.exit_code == 0
    assert load(NodeSettings, config, {}).cluster.institution == "Other"


def test_replacing_the_file_keeps_the_nodes_key(config: Path) -> None:
    syndb("init", *INIT)
    key = (config.parent / "node" / "identity.key").read_bytes()
    syndb("init", *INIT, "--force")
    assert (config.parent / "node" / "identity.key").read_bytes() == key


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--cluster-name", "Worm Lab"], "cluster.name"),
        (["--hub-peer-id", "hub"], "federation.hub_peer_id"),
        (["--federation-password", " "], "federation.password"),
        (["--share", "everything"], "policy.share"),
        (["--flight-port", "99999"], "flight.port"),
        (["--flight-advertise", "http://x"], "flight.advertise"),
    ],
)
def test_init_refuses_what_the_daemon_would_refuse_and_leaves_nothing(
    config: Path, words: list[str], named: str
) -> None:
    done = syndb("init", *INIT, *words)
    assert done.exit_code == 2
    assert named in done.stderr
    assert not config.parent.exists()


def test_a_folder_that_cannot_be_written_is_a_line_and_no_traceback(config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = syndb("init", *INIT, "--config", str(tmp_path / "file" / "node.toml"), "--data-dir", str(tmp_path / "d"))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: cannot write")


def test_status_before_the_first_start_says_so(config: Path) -> None:
    syndb("init", *INIT)
    done = syndb("status", "--json")
    assert done.exit_code == 0
    shown = json.loads(done.stdout)
    assert (shown["cluster"], shown["state"], shown["hub_peer_id"]) == ("worm-lab", "never started", PEER_ID)
    assert PASSWORD not in done.output
    assert "never started" in syndb("status").stdout


@pytest.fixture
def noted(config: Path) -> Callable[[dict[str, Any]], dict[str, str]]:
    """Lets a daemon note its state, and gives what `status` makes of it."""

    def status(state: dict[str, Any]) -> dict[str, str]:
        syndb("init", *INIT, "--force")
        (config.parent / "node" / "federation-state.json").write_text(json.dumps(state))
        shown: dict[str, str] = json.loads(syndb("status", "--json").stdout)
        assert all(shown[key] in syndb("status").stdout for key in ("state", "cause", "hint"))
        return shown

    return status


@pytest.fixture
def running(config: Path) -> Iterator[None]:
    """A daemon on this user's node: what matters of it here is the lock that its engine holds."""
    folder = config.parent / "node" / "engine" / lock.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    held = lock.take(folder)
    assert held is not None
    yield
    os.close(held)


@pytest.mark.usefixtures("running")
def test_status_shows_how_the_daemon_stands_and_what_to_do(noted: Callable[..., dict[str, str]]) -> None:
    state = {"state": "refused", "cause": "invalid password", "hint": "compare them", "at": time.time() - 7500}
    shown = noted(state)
    assert (shown["state"], shown["cause"], shown["hint"]) == ("refused", "invalid password", "compare them")
    assert shown["age"] == "2 h 5 min"


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("state", "said"),
    [
        (node_state.WAITING, "approves it"),
        (node_state.JOINED, "nothing; import data"),
        (node_state.REFUSED, "restart the daemon"),
        (node_state.LOOKING, "syndb federation test"),
        (node_state.LEFT, ""),
    ],
)
def test_status_says_what_to_do_in_every_state_that_a_daemon_notes(
    noted: Callable[..., dict[str, str]], state: str, said: str
) -> None:
    assert said in noted({"state": state, "cause": "", "hint": "", "at": time.time()})["next"]


@pytest.mark.parametrize(
    ("ours", "hubs", "said"),
    [
        (3, 3, "as the hub's"),
        (2, 3, "behind the hub's: syndb federation sync-schema"),
        (4, 3, "ahead of the hub's: update the hub"),
        (3, None, ""),
    ],
)
def test_status_shows_the_schema_and_how_it_compares_with_the_hubs(
    noted: Callable[..., dict[str, Any]], ours: int, hubs: int | None, said: str
) -> None:
    facts = {"schema_version": ours, "hub_schema_version": hubs}
    shown = noted({"state": "joined", "cause": "", "hint": "", "at": time.time(), **facts})
    assert (shown["schema_version"], shown["hub_schema_version"], shown["schema"]) == (ours, hubs, said)
    table = syndb("status").stdout
    assert said in table
    assert ("hub_schema_version" in table) is (hubs is not None)


def test_a_daemon_that_has_ended_is_not_shown_as_joined(noted: Callable[..., dict[str, str]]) -> None:
    shown = noted({"state": "joined", "cause": "", "hint": "", "at": time.time()})
    assert shown["state"] == "not running"
    assert "joined" in shown["cause"]
    assert "syndb-node run" in shown["hint"]


@pytest.mark.usefixtures("running")
def test_a_daemon_that_has_said_nothing_yet_is_starting(config: Path) -> None:
    syndb("init", *INIT)
    assert json.loads(syndb("status", "--json").stdout)["state"] == "starting"


def test_init_makes_the_key_that_the_daemon_will_use(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNDB_DATA_DIR", str(tmp_path / "state"))
    done = syndb("init", *INIT)
    identity = CliRunner().invoke(node_app, ["id", "--config", str(config)])
    assert identity.output.strip() in done.stderr
    monkeypatch.delenv("SYNDB_DATA_DIR")
    assert load(NodeSettings, config).data_dir == tmp_path / "state"


@pytest.mark.parametrize("damage", ["", "{", "[1]", "\x00"])
def test_a_damaged_state_file_is_no_traceback(config: Path, damage: str) -> None:
    syndb("init", *INIT)
    (config.parent / "node" / "federation-state.json").write_text(damage)
    done = syndb("status", "--json")
    assert done.exit_code in (0, 1)
    assert isinstance(json.loads(done.stdout), dict)


@pytest.mark.parametrize("command", ["status", "test", "logout"])
def test_without_a_configuration_every_command_says_how_to_make_one(config: Path, command: str) -> None:
    done = syndb(command)
    assert done.exit_code == 2
    assert "init" in done.stderr
    assert str(config) in done.stderr


def test_logout_removes_the_configuration_and_nothing_else(config: Path) -> None:
    syndb("init", *INIT)
    kept = syndb("logout", stdin="n\n")
    assert (kept.exit_code, config.exists()) == (1, True)
    done = syndb("logout", "--yes")
    assert (done.exit_code, config.exists()) == (0, False)
    assert (config.parent / "node" / "identity.key").exists()


def test_test_says_what_is_missing_and_fails(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syndb_cli.federation.reaching.FIND_SECONDS", 0.5)
    closed = ["--hub-multiaddr", "/ip4/127.0.0.1/tcp/1", "--data-dir", str(config.parent / "nowhere")]
    syndb("init", *INIT, *closed)
    config.write_text(config.read_text().replace("# enable_mdns = true", "enable_mdns = false"))
    done = syndb("test", "--json")
    assert done.exit_code == 10
    results = {each["name"]: each for each in json.loads(done.stdout)}
    assert list(results) == ["configuration", "configured addresses", "hub", "engine", "membership"]
    assert not results["hub"]["passed"]
    assert results["hub"]["cause"]
