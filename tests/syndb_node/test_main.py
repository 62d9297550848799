"""``syndb-node``: what an operator types at a node besides running it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from actors.hub_pins import FILE, HubPins
from actors.key_rotation import KEY, NEXT_KEY
from actors.remote.identity import Identity
from actors.remote.proof import generate_secret
from syndb_common.invitation import Invitation
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import load
from syndb_node.main import app

HUB, OTHER, THIRD = (Identity.generate().peer_id for _ in range(3))
SECRET = generate_secret()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a configuration may be; no variable of the tester's own environment is seen."""
    for name in ("SYNDB_NODE_CONFIG", "FEDERATION_CLUSTER_NAME", "SYNDB_FEDERATION_PASSWORD", "SYNDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "node.toml"


def syndb_node(config: Path, *words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [words[0], "--config", str(config), *words[1:]], input=stdin)


@pytest.fixture
def node(config: Path) -> Path:
    """The folder of a node that is set up."""
    words = ("init", "--cluster-name", "worm-lab", "--hub-peer-id", HUB, "--federation-password", SECRET)
    done = syndb_node(config, *words)
    assert done.exit_code == 0, done.output
    assert SECRET not in done.output
    return config.parent / "node"


def test_a_node_is_set_up_by_an_invitation_which_stays_off_the_command_line(config: Path) -> None:
    line = Invitation(hub=HUB, addresses=("/ip4/192.0.2.7/udp/4001/quic-v1",), secret=SECRET, name="fly-lab").render()
    file = config.with_name("invitation.txt")
    file.write_text(line)
    assert syndb_node(config, "init", "--invite-file", str(file)).exit_code == 0
    done = syndb_node(config, "init", "--invite", "-", "--share", "rows", "--force", stdin=f"{line}\n")
    assert done.exit_code == 0, done.output
    settings = load(NodeSettings, config, {})
    assert (settings.cluster.name, settings.federation.hub_peer_id) == ("fly-lab", HUB)
    assert settings.federation.password.get_secret_value() == SECRET


@pytest.mark.parametrize("words", [(), ("--hub-peer-id", HUB), ("--invite", "syndb-invite-1:AAAA")])
def test_a_node_is_not_set_up_by_halves(config: Path, words: tuple[str, ...]) -> None:
    done = syndb_node(config, "init", *words)
    assert done.exit_code == 2
    assert "invit" in done.stderr
    assert not config.exists()


def test_a_configuration_is_replaced_only_when_told_to(config: Path, node: Path) -> None:
    words = ("init", "--cluster-name", "other", "--hub-peer-id", HUB, "--federation-password", SECRET)
    assert syndb_node(config, *words).exit_code == 6
    assert syndb_node(config, *words, "--force").exit_code == 0
    assert load(NodeSettings, config, {}).cluster.name == "other"


def test_the_pins_are_shown(config: Path, node: Path) -> None:
    shown = syndb_node(config, "trust")
    assert shown.exit_code == 0
    assert HUB in shown.output
    assert "none announced" in shown.output
    assert not (node / FILE).exists()


def test_another_hub_is_pinned_after_saying_what_that_means(config: Path, node: Path) -> None:
    refused = syndb_node(config, "trust", OTHER, stdin="n\n")
    assert refused.exit_code == 1
    assert "no other" in refused.output
    assert HubPins(node, HUB).current == HUB
    silent = syndb_node(config, "trust", OTHER)
    assert (silent.exit_code, "--yes" in silent.output) == (2, True)
    assert HubPins(node, HUB).current == HUB
    done = syndb_node(config, "trust", OTHER, stdin="y\n")
    assert done.exit_code == 0
    assert (HubPins(node, HUB).current, HubPins(node, HUB).successor) == (OTHER, "")
    assert OTHER in syndb_node(config, "trust").output


def test_a_pin_can_be_set_without_being_asked_even_when_the_former_ones_are_damaged(config: Path, node: Path) -> None:
    (node / FILE).write_text("{")
    assert syndb_node(config, "trust").exit_code == 2
    assert syndb_node(config, "trust", THIRD, "--yes").exit_code == 0
    assert HubPins(node, HUB).current == THIRD


@pytest.mark.parametrize("peer_id", ["hub", "12D3KooW", OTHER + "x"], ids=["name", "beginning", "too long"])
def test_what_is_no_peer_id_is_not_pinned(config: Path, node: Path, peer_id: str) -> None:
    done = syndb_node(config, "trust", peer_id, "--yes")
    assert done.exit_code == 2
    assert not (node / FILE).exists()


def test_the_next_key_is_made_once_and_is_then_the_nodes_id(config: Path, node: Path) -> None:
    before = syndb_node(config, "id").output.strip()
    first = syndb_node(config, "rotate-key")
    assert first.exit_code == 0, first.output
    made = Identity.load(node / NEXT_KEY).peer_id
    assert made in first.output
    assert made in syndb_node(config, "rotate-key").output
    assert Identity.load(node / KEY).peer_id == before != made
    assert syndb_node(config, "id").output.strip() == made
