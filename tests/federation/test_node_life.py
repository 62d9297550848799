"""What a node goes through between its first and its last day: new passwords, keys and hubs, and goodbyes."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.hub_pins import HubPins
from actors.key_rotation import KEY, NEXT_KEY, PREVIOUS_KEY
from actors.remote.identity import Identity
from demo.local import LocalFederation
from demo.processes import command, run
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import load
from tests.federation.processes import eventually

Start = Callable[..., LocalFederation]


def state_of(federation: LocalFederation, node: str) -> dict[str, Any]:
    """How a node says it stands with its hub."""
    try:
        found: dict[str, Any] = json.loads((federation.folder / node / "federation-state.json").read_text())
    except FileNotFoundError:
        return {"state": ""}
    return found


def signal_to(federation: LocalFederation, name: str, number: signal.Signals) -> None:
    process = federation.daemons[name].process
    assert process is not None
    process.send_signal(number)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_node_that_libp2p_does_not_take_to_the_hub_joins_over_http(start_federation: Start) -> None:
    federation = start_federation(
        "a",
        wait=False,
        configure_addresses=False,
        hub={"federation": {"approved_networks": ["127.0.0.0/8"]}},
        node={"federation": {"enable_mdns": False}},
    )
    replace_in(federation.config("a"), '# hub_url = ""', f'hub_url = "{federation.url}"')
    federation.daemons["a"].kill()
    federation.wait_answering()
    federation.start_node("a")
    federation.wait_healthy(["a"], seconds=90)  # the hub dials the node, which is the road that is open
    assert eventually(lambda: state_of(federation, "a")["state"] == "joined", seconds=30)


def test_a_new_password_takes_effect_on_sighup_without_a_restart(start_federation: Start) -> None:
    federation = start_federation("a")
    config = federation.config("a")
    right = load(NodeSettings, config, {}).federation.password.get_secret_value()
    replace_in(config, right, "wrong-password-of-this-test")
    signal_to(federation, "a", signal.SIGHUP)
    assert eventually(lambda: state_of(federation, "a")["state"] == "refused", seconds=30)
    replace_in(config, "wrong-password-of-this-test", right)
    signal_to(federation, "a", signal.SIGHUP)
    assert eventually(lambda: state_of(federation, "a")["state"] == "joined", seconds=30)
    replace_in(config, "hub_peer_id", "hub_pear_id")
    joined_at = state_of(federation, "a")["at"]
    signal_to(federation, "a", signal.SIGHUP)
    time.sleep(2)
    federation.running.check()
    assert state_of(federation, "a")["at"] == joined_at


def test_a_node_that_is_stopped_leaves_and_the_hub_knows_at_once(start_federation: Start) -> None:
    federation = start_federation("a")
    signal_to(federation, "a", signal.SIGTERM)
    process = federation.daemons["a"].process
    assert process is not None
    assert process.wait(15) == 0
    assert state_of(federation, "a")["state"] == "left"
    assert federation.health()["a"] != "healthy"


def test_a_node_keeps_its_name_and_id_with_a_new_key(start_federation: Start) -> None:
    federation = start_federation("a")
    [before] = federation.get("/v1/federation/clusters")
    folder = federation.folder / "a"
    run(command("syndb-node", "rotate-key", "--config", str(federation.config("a"))))
    new = Identity.load(folder / NEXT_KEY).peer_id
    federation.daemons["a"].kill()
    federation.start_node("a")
    assert eventually(lambda: not (folder / NEXT_KEY).exists(), seconds=60)
    federation.wait_healthy(["a"])
    [after] = federation.get("/v1/federation/clusters")
    assert (after["id"], after["peer_id"]) == (before["id"], new)
    assert Identity.load(folder / KEY).peer_id == new
    assert Identity.load(folder / PREVIOUS_KEY).peer_id == before["peer_id"]


def test_a_node_that_died_after_the_hub_had_accepted_its_new_key_returns(start_federation: Start) -> None:
    federation = start_federation("a")
    folder = federation.folder / "a"
    former = (folder / KEY).read_bytes()
    run(command("syndb-node", "rotate-key", "--config", str(federation.config("a"))))
    federation.daemons["a"].kill()
    federation.start_node("a")
    assert eventually(lambda: not (folder / NEXT_KEY).exists(), seconds=60)
    federation.daemons["a"].kill()
    # As a kill leaves it that came between the hub's acceptance and the first change of a file.
    (folder / KEY).rename(folder / NEXT_KEY)
    (folder / KEY).write_bytes(former)
    (folder / KEY).chmod(0o600)
    (folder / PREVIOUS_KEY).unlink()
    federation.start_node("a")
    assert eventually(lambda: not (folder / NEXT_KEY).exists(), seconds=60)
    federation.wait_healthy(["a"])


def test_a_hub_with_another_key_is_refused_until_the_operator_trusts_it(start_federation: Start) -> None:
    federation = start_federation("a")
    federation.daemons["hub"].kill()
    (federation.folder / "hub" / "identity.key").unlink()
    new = Identity.load_or_create(federation.folder / "hub" / "identity.key").peer_id
    federation.start_hub()
    federation.wait_answering()
    assert eventually(lambda: "another daemon answers there" in state_of(federation, "a")["cause"], seconds=90)
    assert state_of(federation, "a")["state"] == "looking for the hub"
    assert federation.health()["a"] != "healthy"
    run(command("syndb-node", "trust", "--yes", "--config", str(federation.config("a")), new))
    signal_to(federation, "a", signal.SIGHUP)
    federation.wait_healthy(["a"])
    assert HubPins(federation.folder / "a", federation.hub_peer_id).current == new
