"""Setting up a node: a file that its daemon accepts, a key, and nothing when something is wrong."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import pytest

from actors.node_setup import NewNode, set_up
from actors.remote.identity import Identity
from syndb_common.errors import ConfigError, Conflict
from syndb_common.invitation import Invitation
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import load

HUB = "12D3KooWQjpHjGsyfLAaLHdBnVRCnDVyqVMEBBNbEWTjqkMYYqVx"
SECRET = "syndb1_" + "a" * 43
NODE = NewNode(cluster_name="worm-lab", hub_peer_id=HUB, password=f" {SECRET}\n")
INVITED = Invitation(
    hub=HUB, addresses=("/dns4/hub.example/udp/4001/quic-v1",), secret=SECRET, url="https://hub.example", name=""
)


def test_a_node_that_is_set_up_has_a_key_and_a_configuration_that_only_its_owner_reads(tmp_path: Path) -> None:
    config = tmp_path / "syndb" / "node.toml"
    identity = set_up(NODE, config)
    settings = load(NodeSettings, config, {})
    assert settings.federation.password.get_secret_value() == SECRET
    assert settings.data_dir == config.parent / "node"
    assert Identity.load(settings.data_dir / "identity.key").peer_id == identity.peer_id
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def test_what_is_left_empty_keeps_following_the_defaults(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    set_up(NODE, config)
    written = [line for line in config.read_text().splitlines() if " = " in line and not line.startswith("#")]
    assert [line.split(" = ")[0] for line in written] == [
        "schema_version", "data_dir", "name", "password", "hub_peer_id",
    ]  # fmt: skip


def test_an_invitation_says_all_that_concerns_the_hub(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    set_up(NewNode.invited(INVITED, cluster_name="fly-lab", institution="Flies", share="rows"), config)
    federation = load(NodeSettings, config, {}).federation
    assert (federation.hub_peer_id, federation.hub_url) == (HUB, "https://hub.example")
    assert (federation.hub_multiaddrs, federation.password.get_secret_value()) == (INVITED.addresses, SECRET)


def test_the_name_of_an_invitation_is_the_nodes() -> None:
    named = INVITED.model_copy(update={"name": "fly-lab"})
    assert NewNode.invited(named).cluster_name == "fly-lab"
    with pytest.raises(ConfigError, match="fly-lab, not worm-lab"):
        NewNode.invited(named, cluster_name="worm-lab")
    with pytest.raises(ConfigError, match="name"):
        NewNode.invited(INVITED)


def test_setting_up_anew_has_to_be_asked_for_and_keeps_the_key(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    first = set_up(NODE, config)
    with pytest.raises(Conflict, match="exists"):
        set_up(dataclasses.replace(NODE, cluster_name="other"), config)
    again = set_up(dataclasses.replace(NODE, cluster_name="other"), config, replace=True)
    assert again.peer_id == first.peer_id
    assert load(NodeSettings, config, {}).cluster.name == "other"


@pytest.mark.parametrize("wrong", [{"cluster_name": ""}, {"hub_peer_id": "hub"}, {"password": " "}, {"share": "all"}])
def test_what_the_daemon_would_refuse_leaves_nothing(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        set_up(dataclasses.replace(NODE, **wrong), tmp_path / "syndb" / "node.toml")
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_is_set_up_can_be_shown_without_its_password() -> None:
    assert SECRET not in repr(NODE)
