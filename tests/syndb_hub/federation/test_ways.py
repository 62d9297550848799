"""How parts come: chosen by what the hub reaches, and chosen anew when that changes."""

from __future__ import annotations

import secrets
import ssl
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.directory import NOWHERE, Cluster, Directory, Health
from syndb_common.errors import DeadlineExceeded, PeerUnavailable
from syndb_common.flight.tls import ensure_certificate
from syndb_common.messages import Endpoints, FlightEndpoint
from syndb_hub.federation.ways import (
    AGAIN_SECONDS,
    PUSH_AGAIN_SECONDS,
    STREAMS_OF_A_DELIVERY,
    ChosenWays,
    Delivery,
    greet,
)
from tests.actors.federation_parts import ENDPOINTS, cluster

GONE = PeerUnavailable("connection reset")
STREAMS = 2 * STREAMS_OF_A_DELIVERY
"""Of the hub's Flight server: two deliveries."""


class Network:
    """One node, and what of it can be reached; the hub's Flight server."""

    def __init__(self, *, flight: bool = True, direct: bool = True, receives: bool = True) -> None:
        self.flight, self.is_direct, self.receives = flight, direct, receives
        self.probes = self.expected = 0
        self.directory = Directory()
        self.node = cluster("worm", health=Health.HEALTHY, dial=ENDPOINTS)
        self.directory.publish([self.node])
        self.ways = ChosenWays(
            directory=self.directory,
            direct=lambda node: self.is_direct,
            receiver=self,
            streams=STREAMS,
            probe=self.probe,
        )

    async def probe(self, endpoints: Endpoints) -> None:
        self.probes += 1
        await trio.lowlevel.checkpoint()
        if not self.flight:
            raise OSError("connection refused")

    async def expect(self, seconds: float) -> FlightEndpoint | None:
        self.expected += 1
        await trio.lowlevel.checkpoint()
        hub = FlightEndpoint(location="grpc+tls://hub:1", certificate="pem", ticket=secrets.token_bytes(8))
        return hub if self.receives else None

    async def claim(self, ticket: bytes, reader: bytes) -> FlightEndpoint:
        raise AssertionError

    async def forget(self, ticket: bytes) -> None:
        """Nothing is kept."""

    async def choose(self) -> str:
        return (await self.ways.choose(self.node, 10.0)).way

    def becomes(self, node: Cluster) -> None:
        self.node = node
        self.directory.publish([node])


@pytest.mark.parametrize(
    ("flight", "direct", "receives", "way"),
    [
        (True, True, True, "pull"),
        (True, False, True, "pull"),
        (False, True, True, "push"),
        (False, False, True, "frames"),
        (False, True, False, "frames"),
    ],
)
async def test_the_way_follows_from_what_is_reached(flight: bool, direct: bool, receives: bool, way: str) -> None:
    assert await Network(flight=flight, direct=direct, receives=receives).choose() == way


async def test_a_node_whose_flight_server_nobody_approved_delivers() -> None:
    network = Network()
    network.becomes(replace(network.node, dial=NOWHERE))
    assert await network.choose() == "push"
    assert network.probes == 0


async def test_what_a_probe_found_is_remembered(autojump_clock: MockClock) -> None:
    network = Network()
    for _ in range(5):
        await network.choose()
    assert network.probes == 1


async def test_a_change_of_reachability_changes_the_way_by_itself(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    network = Network()
    await nursery.start(network.ways.run)
    await trio.sleep(1)
    assert network.ways.way(network.node) == "pull"
    network.flight = False
    await trio.sleep(AGAIN_SECONDS + 1)
    assert network.ways.way(network.node) == "push"
    network.is_direct = False
    assert network.ways.way(network.node) == "frames"
    network.flight = True
    await trio.sleep(AGAIN_SECONDS + 1)
    assert network.ways.way(network.node) == "pull"
    nursery.cancel_scope.cancel()


async def test_a_node_that_has_come_back_is_tried_again_at_once() -> None:
    network = Network()
    await network.choose()
    network.flight = False
    network.becomes(replace(network.node, since=datetime(2026, 2, 1, tzinfo=UTC)))
    assert await network.choose() == "push"


async def test_a_part_that_could_not_be_fetched_has_the_next_one_tried_anew() -> None:
    network = Network()
    await network.choose()
    network.flight = False
    network.ways.failed(network.node, Delivery("pull"), GONE)
    assert await network.choose() == "push"


@pytest.mark.parametrize(
    ("flight", "direct", "ways"),
    [
        (True, True, ["pull", "push", "pull"]),
        (True, False, ["pull", "frames", None]),
        (False, True, ["push", "frames", None]),
        (False, False, ["frames", None]),
    ],
)
async def test_what_did_not_come_by_one_way_may_by_another(flight: bool, direct: bool, ways: list[str | None]) -> None:
    network = Network(flight=flight, direct=direct)
    delivery: Delivery | None = await network.ways.choose(network.node, 10.0)
    found: list[str | None] = []
    while delivery is not None and len(found) < len(ways):
        found.append(delivery.way)
        network.ways.failed(network.node, delivery, GONE)
        delivery = await network.ways.another(network.node, delivery, 10.0)
    assert [*found, None][: len(ways)] == ways


async def test_a_delivery_waits_for_a_place_and_holds_no_ticket_meanwhile(nursery: trio.Nursery) -> None:
    network = Network(flight=False)
    chosen: list[Delivery] = []

    async def choose() -> None:
        chosen.append(await network.ways.choose(network.node, 10.0))

    for _ in range(4):
        nursery.start_soon(choose)
    await wait_all_tasks_blocked()
    assert (len(chosen), network.expected) == (2, 2)
    for _ in range(2):  # the second time there is nothing to end
        await network.ways.ended(chosen[0])
    await wait_all_tasks_blocked()
    assert (len(chosen), network.expected) == (3, 3)
    assert {delivery.way for delivery in chosen} == {"push"}
    await network.ways.ended(Delivery())
    await network.ways.ended(chosen[1])
    await wait_all_tasks_blocked()
    assert len(chosen) == 4


@pytest.mark.parametrize("receives", [True, False])
async def test_what_is_not_delivered_after_all_keeps_no_place(receives: bool) -> None:
    network = Network(flight=False, receives=receives)
    for _ in range(3):
        with trio.CancelScope() as scope:
            if receives:
                scope.cancel()  # the ticket is never heard of
            assert await network.choose() == "frames"
    network.receives = True
    with trio.fail_after(60):
        for _ in range(2):
            assert await network.choose() == "push"


async def test_a_node_whose_delivery_did_not_come_answers_in_frames_for_a_while(autojump_clock: MockClock) -> None:
    network = Network(flight=False)
    network.ways.failed(network.node, await network.ways.choose(network.node, 10.0), DeadlineExceeded("not in time"))
    assert await network.choose() == "frames"
    await trio.sleep(PUSH_AGAIN_SECONDS + 1)
    assert await network.choose() == "push"


async def test_a_delivery_that_broke_off_had_reached_the_hub_and_the_next_one_may() -> None:
    network = Network(flight=False)
    network.ways.failed(network.node, await network.ways.choose(network.node, 10.0), GONE)
    assert await network.choose() == "push"


async def test_a_flight_server_is_greeted_by_its_own_certificate_only(tmp_path: Path, nursery: trio.Nursery) -> None:
    own, other = ensure_certificate(tmp_path / "own"), ensure_certificate(tmp_path / "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own" / "flight.crt", tmp_path / "own" / "flight.key")
    [listener] = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")

    async def accept(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            return

    nursery.start_soon(trio.serve_listeners, accept, [listener])
    port = listener.transport_listener.socket.getsockname()[1]
    where = f"grpc+tls://127.0.0.1:{port}"
    await greet(Endpoints(multiaddrs=(), flight=where, flight_certificate=own.certificate))
    with pytest.raises(trio.BrokenResourceError):
        await greet(Endpoints(multiaddrs=(), flight=where, flight_certificate=other.certificate))
    nursery.cancel_scope.cancel()
