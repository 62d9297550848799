"""Nodes that can only dial out: they reach a hub that can do no more through a relay, and one that moved by its record.

In both cases a node that everybody can reach helps, and nobody hears multicast.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.remote.identity import Identity
from demo.local import LocalFederation, local_federation
from tests.federation.processes import eventually
from tests.multihost.network import Host, Network, NetworkError

STAGE_1 = ["witvliet-2020-1", 858]
COUNT = "SELECT dataset, COUNT(*) FROM synapses GROUP BY dataset SCOPE federation"
ROWS = "SELECT cid, pre_id, post_id FROM synapses SCOPE remote"
PORT, FLIGHT = 4001, 50052
LEAST_FRAME = 64 * 1024


pytestmark = pytest.mark.timeout(300)


def behind_nat(network: Network, name: str) -> Host:
    """A host behind a router of its own."""
    try:
        return network.host(name, behind=network.router(f"{name}-router"))
    except NetworkError as error:
        pytest.skip(str(error))


def way_of(federation: LocalFederation, name: str) -> str:
    """How large results of a node come to the hub."""
    [way] = [each["delivery"] for each in federation.get("/v1/federation/clusters") if each["name"] == name]
    return str(way)


def failure(federation: LocalFederation) -> str:
    """Why the rows of the one node that has any did not come; empty when they did."""
    return str(federation.query(ROWS)["error_message"] or "")


def way_to(host: Host, folder: Path) -> list[str]:
    """The multiaddr of the daemon that will run on a host with this folder."""
    folder.mkdir(mode=0o700)
    peer_id = Identity.load_or_create(folder / "identity.key").peer_id
    return [f"/ip4/{host.address}/udp/{PORT}/quic-v1/p2p/{peer_id}"]


def test_a_node_behind_nat_reaches_a_hub_behind_nat_through_a_relay(
    tmp_path: Path, network: Network, real_files: Path
) -> None:
    relay = network.host("relay")
    places = {"relay": relay, "hub": behind_nat(network, "hub"), "inner": behind_nat(network, "inner")}
    way = way_to(relay, tmp_path / "relay")
    hub = {"federation": {"relays": way, "enable_mdns": False}}
    with local_federation(tmp_path, ["relay", "inner"], places=places, hub=hub) as federation:
        alone = {"hub_multiaddrs": [], "enable_mdns": False}
        federation.write_node("relay", PORT, FLIGHT, {"federation": {**alone, "serve_relay": True}})
        inner = {"federation": {**alone, "relays": way}}
        federation.write_node("inner", PORT, FLIGHT, inner)
        federation.start_node("relay")
        federation.start_hub()
        federation.start_node("inner")
        federation.wait_healthy(["inner"], seconds=90)
        federation.import_data("inner", "c-elegans-dev", real_files, "--stage", "1")
        federation.wait_datasets({"inner": 1})
        assert federation.query(COUNT)["rows"] == [STAGE_1]
        # Neither reaches the other's Flight server: what is too large for an answer travels in one all the same.
        assert eventually(lambda: way_of(federation, "inner") == "frames", seconds=60)
        framed = federation.query(ROWS)
        assert len(framed["rows"]) == STAGE_1[1]
        assert framed["provenance"]["nodes"][0]["bytes"] > 64 * 1024
        # Its owner says how much a frame may hold: what is larger is refused, in words, and what is small comes.
        federation.daemons["inner"].kill()
        federation.write_node("inner", PORT, FLIGHT, {**inner, "limits": {"frame_bytes": LEAST_FRAME}})
        federation.start_node("inner")
        assert eventually(lambda: f"larger than {LEAST_FRAME} bytes" in failure(federation), seconds=90)
        assert federation.query(COUNT)["rows"] == [STAGE_1]
        # Without the relay there is no way.
        relay.unplug()
        assert eventually(lambda: federation.health()["inner"] == "unreachable", seconds=60)
        relay.plug()
        federation.wait_healthy(["inner"], seconds=90)
        assert federation.query(COUNT)["rows"] == [STAGE_1]


def test_a_node_behind_nat_finds_a_hub_that_moved_by_its_record_at_another_member(
    tmp_path: Path, network: Network, real_files: Path
) -> None:
    hub_host, member = network.host("hub"), network.host("member")
    places = {"hub": hub_host, "member": member, "inner": behind_nat(network, "inner")}
    way = way_to(member, tmp_path / "member")
    listen = [f"/ip4/0.0.0.0/udp/{PORT}/quic-v1", f"/ip4/0.0.0.0/tcp/{PORT}"]
    old = [f"/ip4/{hub_host.address}/udp/{PORT}/quic-v1"]
    hub = {"federation": {"listen": listen, "enable_mdns": False}, "flight": {"host": "0.0.0.0"}}
    with local_federation(tmp_path, ["member", "inner"], places=places, hub=hub) as federation:
        alone = {"hub_multiaddrs": old, "enable_mdns": False}
        federation.write_node("member", PORT, FLIGHT, {"federation": alone})
        federation.write_node("inner", PORT, FLIGHT, {"federation": {**alone, "bootstrap": way}})
        federation.start_hub()
        federation.start_node("member")
        federation.start_node("inner")
        federation.wait_healthy(["member", "inner"], seconds=90)
        federation.import_data("inner", "c-elegans-dev", real_files, "--stage", "1")
        federation.wait_datasets({"inner": 1})
        # The hub does not reach the node's Flight server, which reaches the hub's.
        assert eventually(lambda: way_of(federation, "inner") == "push", seconds=60)
        delivered = federation.query(ROWS)
        assert len(delivered["rows"]) == STAGE_1[1]
        assert delivered["provenance"]["nodes"][0]["bytes"] > 64 * 1024
        before = {node["name"]: node["id"] for node in federation.get("/v1/federation/clusters")}
        federation.daemons["hub"].kill()
        hub_host.move("10.77.0.200")
        federation.start_hub()
        federation.wait_answering()
        federation.wait_healthy(["member", "inner"], seconds=120)
        assert {node["name"]: node["id"] for node in federation.get("/v1/federation/clusters")} == before
        assert federation.query(COUNT)["rows"] == [STAGE_1]
