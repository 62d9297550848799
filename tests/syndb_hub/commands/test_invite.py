"""``syndb-hub invite``: the one line a node joins with."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from typer.testing import Result

from actors.remote.identity import Identity
from actors.remote.proof import derive_key, key_id
from syndb_common.invitation import parse
from syndb_common.settings import render, write_private
from syndb_hub.settings import HubSettings
from syndb_hub.store.invitations import Invitations
from syndb_hub.store.once import once

Command = Callable[..., Result]
PUBLIC = "/dns4/hub.example.org/udp/4001/quic-v1"


def test_the_line_names_the_hub_where_it_is_and_a_secret_the_hub_knows(
    syndb_hub: Command, config: Path, settings: HubSettings
) -> None:
    words = ("--address", PUBLIC, "--name", "worm-lab", "--url", "https://hub.example.org")
    done = syndb_hub("invite", "--config", str(config), *words)
    assert (done.exit_code, done.stdout.count("\n"), done.stderr) == (0, 1, "")
    invited = parse(done.stdout)
    hub = Identity.load(settings.data_dir / "identity.key").peer_id
    assert (invited.hub, invited.addresses, invited.name) == (hub, (PUBLIC,), "worm-lab")
    assert invited.url == "https://hub.example.org"
    key = trio.run(derive_key, invited.secret.get_secret_value(), hub)
    kept = once(settings.data_dir / "hub.sqlite", lambda store: Invitations(store).find(key_id(key)))
    assert kept is not None
    assert (kept.key, kept.cluster_name) == (key, "worm-lab")
    assert timedelta(days=6.9) < kept.expires_at - datetime.now(UTC) < timedelta(days=7)


def test_without_addresses_those_the_hub_listens_on_are_told(
    syndb_hub: Command, config: Path, settings: HubSettings
) -> None:
    relay = f"/dns4/relay.example.org/tcp/4001/p2p/{Identity.generate().peer_id}"
    listen = ["/ip4/0.0.0.0/udp/4001/quic-v1", "/ip4/192.168.1.7/tcp/4001"]
    federation = {"password": "p", "listen": listen, "relays": [relay]}
    write_private(config, render(HubSettings, {"data_dir": str(settings.data_dir), "federation": federation}))
    addresses = parse(syndb_hub("invite", "--config", str(config)).stdout).addresses
    assert "/ip4/192.168.1.7/tcp/4001" in addresses
    assert addresses[-1] == f"{relay}/p2p-circuit"
    assert "/udp/4001/quic-v1" in addresses[0]
    assert not any("0.0.0.0" in address for address in addresses)


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/4001", "/ip4/10.0.0.7/tcp/4001", "/ip6/fd00::1/tcp/4001"])
def test_addresses_that_lead_nowhere_from_outside_are_warned_of(syndb_hub: Command, config: Path, address: str) -> None:
    near = syndb_hub("invite", "--config", str(config), "--address", address)
    assert near.exit_code == 0
    assert "--address" in near.stderr
    both = syndb_hub("invite", "--config", str(config), "--address", address, "--address", PUBLIC)
    assert both.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        ("--name", "Worm Lab"),
        ("--name", "hub"),
        ("--address", "hub.example.org:4001"),
        ("--address", f"{PUBLIC}/p2p/12D3KooWQjpHjGsyfLAaLHdBnVRCnDVyqVMEBBNbEWTjqkMYYqVx"),
        ("--url", "hub.example.org"),
        ("--days", "0"),
    ],
)
def test_what_no_node_could_use_is_refused_and_leaves_nothing_behind(
    syndb_hub: Command, config: Path, words: tuple[str, ...]
) -> None:
    done = syndb_hub("invite", "--config", str(config), "--address", PUBLIC, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert json.loads(syndb_hub("invite", "list", "--config", str(config), "--json").stdout) == []


def test_a_port_that_is_not_known_yet_needs_an_address(syndb_hub: Command, config: Path, settings: HubSettings) -> None:
    federation = {"password": "p", "listen": ["/ip4/0.0.0.0/tcp/0"]}
    write_private(config, render(HubSettings, {"data_dir": str(settings.data_dir), "federation": federation}))
    done = syndb_hub("invite", "--config", str(config))
    assert done.exit_code == 2
    assert "--address" in done.stderr


def test_invitations_are_listed_without_their_secrets_and_revoked_by_id(syndb_hub: Command, config: Path) -> None:
    where = ("--config", str(config))
    made = json.loads(syndb_hub("invite", *where, "--address", PUBLIC, "--json").stdout)
    secret = parse(made["line"]).secret.get_secret_value()
    listed = syndb_hub("invite", "list", *where)
    assert listed.stdout.split()[:4] == [made["id"], "any", "name", "open"]
    assert secret not in listed.stdout
    assert syndb_hub("invite", "revoke", made["id"], *where).exit_code == 0
    (row,) = json.loads(syndb_hub("invite", "list", *where, "--json").stdout)
    assert (row["id"], row["state"]) == (made["id"], "revoked")
    assert syndb_hub("invite", "revoke", made["id"], *where).exit_code == 5


def test_revoking_says_who_used_it(syndb_hub: Command, config: Path, settings: HubSettings) -> None:
    where = ("--config", str(config))
    made = json.loads(syndb_hub("invite", *where, "--address", PUBLIC, "--json").stdout)
    once(settings.data_dir / "hub.sqlite", lambda store: Invitations(store).use(made["id"], "12D3KooWWorm"))
    assert "used  by 12D3KooWWorm" in syndb_hub("invite", "list", *where).stdout
    assert "12D3KooWWorm" in syndb_hub("invite", "revoke", made["id"], *where).stderr


def test_an_invitation_without_a_configuration_is_a_usage_error(syndb_hub: Command) -> None:
    assert syndb_hub("invite").exit_code == 2
