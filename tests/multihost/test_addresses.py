"""What a node announces about other machines: the hub never connects there."""

from __future__ import annotations

import select
import socket
from pathlib import Path
from typing import Any

import trio

from actors.joining import Application, Membership, join
from actors.remote.host import Host as Libp2p
from actors.remote.host import open_host
from actors.remote.identity import Identity
from actors.remote.policy import Policy, Trust
from actors.remote.proof import derive_key
from actors.remote.rpc import RemoteRef, RpcClient
from actors.remote.rpc_server import RpcServer
from actors.runtime import ChildSpec, Supervisor, run_tree
from demo.local import LocalFederation, local_federation
from syndb_common.messages import (
    AnalyticsQuery,
    AnalyticsResult,
    CatalogAnnouncement,
    DatasetCatalogRequest,
    Endpoints,
    FlightEndpoint,
    GetFlightEndpoint,
    HealthPing,
    HealthReport,
    SchemaSync,
)
from syndb_common.tables import schema
from tests.actors.federation_parts import Inbox, published
from tests.federation.processes import eventually
from tests.multihost.network import Host, Network

UDP, TCP, FLIGHT = 4001, 4001, 50052


class Bystander:
    """Sockets on a host that nobody has any business with; they count who comes all the same."""

    def __init__(self, host: Host) -> None:
        self.address = host.address
        with host.entered():
            self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._udp.bind((host.address, UDP))
            self._tcp = [socket.create_server((host.address, port)) for port in (TCP, FLIGHT)]

    def visited(self) -> bool:
        """Whether anybody connected or sent a datagram."""
        return bool(select.select([self._udp, *self._tcp], (), (), 0)[0])

    def close(self) -> None:
        """Close them."""
        for each in (self._udp, *self._tcp):
            each.close()


class LyingNode:
    """A node that joins as every node does, and names the bystander wherever it names an address."""

    def __init__(self, bystander: str) -> None:
        self.identity = Identity.generate()
        self.asked: list[Any] = []
        self._flight = FlightEndpoint(location=f"grpc+tls://{bystander}:{FLIGHT}", certificate="", ticket=bytes(32))
        self.endpoints = Endpoints(
            multiaddrs=(
                f"/ip4/{bystander}/udp/{UDP}/quic-v1/p2p/{self.identity.peer_id}",
                f"/ip4/{bystander}/tcp/{TCP}/p2p/{self.identity.peer_id}",
                f"/dns4/{bystander}/tcp/{TCP}",
            ),
            flight=self._flight.location,
            flight_certificate="",
        )

    def answer(self, message: Any) -> Any:
        """Healthy, with a data set, and a result that is to be fetched from the bystander."""
        if isinstance(message, HealthPing):
            return HealthReport(
                schema_version=schema.CURRENT,
                engine="ok",
                load=0,
                catalogue_revision=1,
                clock=message.clock,
                uptime_seconds=1.0,
                software="liar",
            )
        if isinstance(message, DatasetCatalogRequest):
            return CatalogAnnouncement(revision=1, versions=(published("bait"),), sharing={})
        if isinstance(message, AnalyticsQuery):
            return AnalyticsResult(endpoint=self._flight)
        return self._flight

    async def take_part(self, federation: LocalFederation, joined: trio.Event, gone: trio.Event) -> None:
        """Join, answer until told to go, and go without a word."""
        async with open_host(self.identity, []) as host, trio.open_nursery() as nursery:
            tree = await nursery.start(
                run_tree, Supervisor("liar", [ChildSpec("all", lambda: Inbox(self.asked, self.answer))])
            )
            kinds = (HealthPing, DatasetCatalogRequest, AnalyticsQuery, GetFlightEndpoint, SchemaSync)
            RpcServer(host, Policy(lambda _peer_id: Trust.HUB), dict.fromkeys(kinds, tree.ref("all")))
            await self._join(host, federation)
            joined.set()
            await gone.wait()
            nursery.cancel_scope.cancel()

    async def _join(self, host: Libp2p, federation: LocalFederation) -> None:
        peer_id = federation.hub_peer_id
        hub = RemoteRef(RpcClient(host), peer_id, lambda: federation.hub_listen, "hub")
        application = Application(
            membership=Membership(name="liar"),
            identity=self.identity,
            endpoints=self.endpoints,
            schema_version=schema.CURRENT,
        )
        await join(hub, peer_id, await derive_key(federation.password, peer_id), application)


def test_the_hub_dials_no_address_that_only_the_node_itself_vouches_for(tmp_path: Path, network: Network) -> None:
    places = {"hub": network.host("hub"), "liar": network.host("liar")}
    bystander = Bystander(network.host("bystander"))
    node = LyingNode(bystander.address)
    with local_federation(tmp_path, [], places=places) as federation:
        federation.start_hub()
        federation.wait_answering()

        def seen() -> dict[str, Any]:
            nodes: list[dict[str, Any]] = federation.get("/v1/federation/clusters")
            return next((each for each in nodes if each["name"] == "liar"), {})

        async def meet() -> None:
            joined, gone = trio.Event(), trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.take_part, federation, joined, gone)
                await joined.wait()
                await trio.to_thread.run_sync(federation.wait_healthy, ["liar"])
                await trio.to_thread.run_sync(lambda: federation.wait_datasets({"liar": 1}))
                job = await trio.to_thread.run_sync(federation.query, "SELECT cid FROM synapses SCOPE remote")
                assert job["status"] == "failed"
                assert any(isinstance(message, AnalyticsQuery) for message in node.asked)
                for test in ("connectivity", "query"):
                    path = f"/v1/federation/clusters/{seen()['id']}/test/{test}"
                    await trio.to_thread.run_sync(lambda path=path: federation.post(path, {}))
                gone.set()

        with places["liar"].entered():
            trio.run(meet)
        # Now the hub has no connection: it would have to dial to ping it.
        assert eventually(lambda: seen()["health"] == "unreachable", seconds=30)
        path = f"/v1/federation/clusters/{seen()['id']}"
        for announced in (*node.endpoints.multiaddrs, node.endpoints.flight):
            assert any(announced in refused for refused in seen()["refused_addresses"]), announced
        federation.request("POST", f"{path}/verify")
        assert not bystander.visited()
        # When the operator vouches for the address, the hub does dial it: the test would have seen it before.
        federation.request("PUT", f"{path}/approved-hosts", json={"hosts": [bystander.address]})
        assert eventually(bystander.visited, seconds=30)
    bystander.close()
