"""``syndb federation init`` joins a real hub once, and says at once what is wrong."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.key_rotation import prepare_next
from actors.remote.discovery import mdns
from actors.remote.identity import Identity
from actors.remote.proof import generate_secret
from syndb_cli.federation import reaching
from syndb_common.engine import lock
from syndb_common.invitation import Invitation
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import load
from tests.syndb_cli.conftest import federation
from tests.syndb_hub.small_hub import PASSWORD, SmallHub

Start = Callable[..., SmallHub]
INVITATION = Invitation(hub=Identity.generate().peer_id, secret=generate_secret()).render()


@pytest.fixture(autouse=True)
def _without_multicast(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDERATION_ENABLE_MDNS", "false")


@pytest.fixture
def own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multicast on which no other hub of this machine is heard."""
    monkeypatch.delenv("FEDERATION_ENABLE_MDNS")
    monkeypatch.setattr(mdns, "SERVICE", f"_s{secrets.token_hex(5)}._udp.local.")


def init(hub: SmallHub, *words: str, name: str = "worm-lab", password: str = PASSWORD) -> list[str]:
    addresses = [word for address in hub.addresses for word in ("--hub-multiaddr", address)]
    named = ["--cluster-name", name, "--hub-peer-id", hub.peer_id, "--federation-password", password]
    return ["init", *named, *addresses, *words]


@pytest.fixture
def hub(config: Path, start_hub: Start) -> SmallHub:
    return start_hub()


def test_a_node_is_set_up_and_has_joined_when_init_returns(hub: SmallHub, config: Path) -> None:
    done = federation(*init(hub, "--institution", "Institute of Worms", "--json"))
    assert done.exit_code == 0, done.output
    node = hub.node("worm-lab")
    assert (node.record.institution, node.record.standing) == ("Institute of Worms", "active")
    shown = json.loads(done.stdout)
    assert (shown["peer_id"], shown["joined"]) == (
        node.record.peer_id,
        {"cluster_id": str(node.record.id), "standing": "active"},
    )
    assert f"the hub knows this node as {node.record.id}" in done.stderr
    assert f"syndb-node run --config {config}" in done.stderr
    assert "the node stops" in node.cause


def test_an_invitation_says_all_there_is_to_say(config: Path, start_hub: Start) -> None:
    hub = start_hub()
    line = Invitation(hub=hub.peer_id, addresses=hub.addresses, secret=generate_secret(), name="worm-lab").render()
    refused = federation("init", "--invite", line)
    settings = load(NodeSettings, config, {})
    assert (settings.cluster.name, settings.federation.hub_peer_id) == ("worm-lab", hub.peer_id)
    assert settings.federation.hub_multiaddrs == hub.addresses
    # This hub knows no such invitation, and says so over a real connection.
    assert refused.exit_code == 4
    read = federation("init", "--invite", "-", "--force", "--offline", stdin=line)
    assert read.exit_code == 0
    file = config.parent / "invitation.txt"
    file.write_text(f"{line}\n")
    by_file = federation("init", "--invite-file", str(file), "--force", "--offline")
    assert (by_file.exit_code, load(NodeSettings, config, {}).federation.hub_peer_id) == (0, hub.peer_id)
    two = federation("init", "--invite-file", str(file), "--invite", line, "--force", "--offline")
    assert (two.exit_code, "two invitations" in two.stderr) == (2, True)
    missing = federation("init", "--invite-file", str(file.with_name("none")), "--force", "--offline")
    assert (missing.exit_code, "cannot read the invitation" in missing.stderr) == (2, True)
    other = federation("init", "--invite", line, "--cluster-name", "fly-lab", "--force")
    assert (other.exit_code, "the invitation is for the cluster name worm-lab" in other.stderr) == (2, True)
    assert generate_secret()[:7] not in refused.output + read.output + two.output + other.output


def test_a_wrong_password_is_told_at_once_and_the_file_is_kept_unverified(hub: SmallHub, config: Path) -> None:
    done = federation(*init(hub, password="hunter2-of-another"))
    assert done.exit_code == 4
    assert "invalid federation password" in done.stderr
    assert f"{config} is kept, not verified" in done.stderr
    assert config.exists()
    assert hub.node("worm-lab") is None
    assert "hunter2" not in done.output
    again = federation(*init(hub, "--force"))
    assert (again.exit_code, hub.node("worm-lab").record.standing) == (0, "active")


def test_a_node_whose_key_is_being_changed_joins_with_the_next_one_under_its_name(hub: SmallHub, config: Path) -> None:
    assert federation(*init(hub)).exit_code == 0
    before = hub.node("worm-lab").record
    keys = prepare_next(config.parent / "node")
    done = federation(*init(hub, "--force", "--json"))
    assert done.exit_code == 0, done.output
    after = hub.node("worm-lab").record
    assert (after.id, after.peer_id) == (before.id, keys.identity.peer_id)
    assert json.loads(done.stdout)["peer_id"] == keys.identity.peer_id != before.peer_id
    again = federation(*init(hub, "--force"))
    assert (again.exit_code, hub.node("worm-lab").record.peer_id) == (0, keys.identity.peer_id)


def test_blanks_and_newlines_around_the_password_do_not_matter(hub: SmallHub, config: Path) -> None:
    assert federation(*init(hub, password=f" {PASSWORD}\n")).exit_code == 0


def test_a_name_that_is_taken_is_told_at_once(hub: SmallHub, config: Path, tmp_path: Path) -> None:
    assert federation(*init(hub)).exit_code == 0
    second = ["--config", str(tmp_path / "second.toml"), "--data-dir", str(tmp_path / "second")]
    done = federation(*init(hub, *second))
    assert done.exit_code == 6
    assert "the name worm-lab belongs to another node" in done.stderr


def test_a_node_that_waits_for_approval_is_told_whom_to_ask(config: Path, start_hub: Start) -> None:
    done = federation(*init(start_hub(require_approval=True), "--json"))
    assert done.exit_code == 0
    assert json.loads(done.stdout)["joined"]["standing"] == "waiting"
    assert "syndb federation clusters activate worm-lab" in done.stderr


def test_a_hub_that_is_not_there_is_told_with_what_to_do(config: Path, start_hub: Start, monkeypatch) -> None:
    monkeypatch.setattr(reaching, "FIND_SECONDS", 1.0)
    hub = start_hub()
    hub.addresses = ("/ip4/127.0.0.1/tcp/1",)
    done = federation(*init(hub))
    assert done.exit_code == 10
    assert f"the hub {hub.peer_id} was not found within 1 s" in done.stderr
    assert "--hub-multiaddr" in done.stderr
    assert "UDP 4001" in done.stderr
    assert config.exists()
    offline = federation(*init(hub, "--offline", "--force"))
    assert (offline.exit_code, "joined" in offline.stderr) == (0, False)


def test_addresses_of_another_peer_than_the_hub_are_told_as_such(hub: SmallHub, config: Path) -> None:
    other = Identity.generate().peer_id
    hub.addresses = tuple(address.replace(hub.peer_id, other) for address in hub.addresses)
    done = federation(*init(hub))
    assert (done.exit_code, hub.node("worm-lab")) == (2, None)
    assert f"{other} names another peer than the hub this node obeys, {hub.peer_id}" in done.stderr
    tested = federation("test")
    assert f"{other} names another peer" in tested.output


@pytest.mark.slow
def test_where_libp2p_does_not_get_through_the_node_joins_over_http(
    config: Path, start_hub: Start, monkeypatch
) -> None:
    monkeypatch.setattr(reaching, "FIND_SECONDS", 0.5)
    hub = start_hub()
    hub.addresses = ("/ip4/127.0.0.1/tcp/1",)
    done = federation(*init(hub, "--hub-url", hub.url))
    assert done.exit_code == 0, done.output
    assert hub.node("worm-lab").record.standing == "active"
    wrong = federation(*init(hub, "--hub-url", hub.url, "--force", password="hunter2-of-another"))
    assert (wrong.exit_code, "invalid federation password" in wrong.stderr) == (4, True)


def test_over_http_another_hub_is_not_taken_for_the_pinned_one(config: Path, start_hub: Start, monkeypatch) -> None:
    monkeypatch.setattr(reaching, "FIND_SECONDS", 0.5)
    pinned, other = start_hub(), start_hub()
    pinned.addresses = ("/ip4/127.0.0.1/tcp/1",)
    done = federation(*init(pinned, "--hub-url", other.url))
    assert done.exit_code == 4
    assert other.node("worm-lab") is None


@pytest.fixture
def running(config: Path) -> Iterator[None]:
    """A daemon on this user's node: what matters of it here is the lock that its engine holds."""
    folder = config.parent / "node" / "engine" / lock.FOLDER
    folder.mkdir(parents=True)
    held = lock.take(folder)
    assert held is not None
    yield
    os.close(held)


@pytest.mark.usefixtures("running")
def test_a_node_that_runs_is_not_disturbed(hub: SmallHub, config: Path) -> None:
    done = federation(*init(hub))
    assert (done.exit_code, "its daemon runs already" in done.stderr) == (0, True)
    assert hub.node("worm-lab") is None


@pytest.mark.parametrize(
    "words", [[], ["--hub-peer-id", "x", "--trust-first-hub"], ["--invite", INVITATION, "--hub-peer-id", "y"]]
)
def test_the_hub_is_named_in_exactly_one_way(config: Path, words: list[str]) -> None:
    done = federation("init", "--cluster-name", "worm-lab", *words)
    assert (done.exit_code, "say which hub to join" in done.stderr) == (2, True)
    assert not config.exists()


def test_options_of_an_external_database_are_understood_and_not_needed(config: Path) -> None:
    words = ["--clickhouse_endpoint", "ch.example", "--clickhouse_http_port", "8123", "--clickhouse_port", "9440"]
    named = ["--cluster_name", "a", "--hub_peer_id", "12D3KooWQjpHjGsyfLAaLHdBnVRCnDVyqVMEBBNbEWTjqkMYYqVx"]
    done = federation("init", *named, "--federation_password", "p", *words, "--offline")
    assert done.exit_code == 0
    assert "has an engine of its own" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("own_network")
def test_the_first_hub_of_the_network_is_pinned_with_a_warning(config: Path, start_hub: Start) -> None:
    hub = start_hub(multicast=True)
    words = ["init", "--cluster-name", "worm-lab", "--trust-first-hub", "--federation-password", PASSWORD]
    done = federation(*words)
    assert done.exit_code == 0, done.output
    assert load(NodeSettings, config, {}).federation.hub_peer_id == hub.peer_id
    assert f"pinned the hub {hub.peer_id}" in done.stderr
    assert "syndb-hub id" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("own_network")
def test_of_two_hubs_none_is_trusted(config: Path, start_hub: Start) -> None:
    first, second = start_hub(multicast=True), start_hub(multicast=True)
    done = federation("init", "--cluster-name", "worm-lab", "--trust-first-hub", "--federation-password", PASSWORD)
    assert done.exit_code == 6
    assert first.peer_id in done.stderr
    assert second.peer_id in done.stderr
    assert not config.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("own_network")
def test_without_a_hub_on_the_network_the_invitation_is_named(config: Path) -> None:
    done = federation("init", "--cluster-name", "worm-lab", "--trust-first-hub", "--federation-password", PASSWORD)
    assert done.exit_code == 10
    assert "UDP 5353" in done.stderr
    assert "--invite" in done.stderr
