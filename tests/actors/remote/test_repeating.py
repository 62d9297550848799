"""What is asked over a network that loses, repeats and delays: what is executed how often, and who waits for whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import trio
import trio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from actors.remote.memory import MemoryHost, open_network
from actors.remote.policy import Policy, Trust
from actors.remote.rpc import RemoteRef, RpcClient
from actors.remote.rpc_server import RpcServer
from actors.runtime import Actor, ActorRef, ChildSpec, Supervisor, handle, run_tree
from actors.runtime.testing import Faults
from syndb_common.errors import DeadlineExceeded, PeerUnavailable, SynDBError, TooManyRequests
from syndb_common.messages import (
    Acknowledged,
    CancelQuery,
    FlightEndpoint,
    GetFlightEndpoint,
    HealthPing,
    HealthReport,
    LeaveFederation,
)
from syndb_common.tracing import Work, current_work, doing

REPORT = HealthReport(
    schema_version=1, engine="ok", load=0, catalogue_revision=0, clock=0, uptime_seconds=0, software=""
)


class Node(Actor):
    """Counts what it executes; asks ``other`` for what it does not know itself."""

    expected = (SynDBError,)
    mailbox_size = 1

    def __init__(self, executed: list[object], other: ActorRef | None = None) -> None:
        self.executed = executed
        self.other = other
        self.busy = 0

    @handle
    async def ping(self, message: HealthPing) -> HealthReport:
        self.executed.append("ping")
        return REPORT

    @handle
    async def cancel(self, message: CancelQuery) -> Acknowledged:
        self.executed.append(message.query_id)
        await trio.sleep(1)
        return Acknowledged()

    @handle
    async def leave(self, message: LeaveFederation) -> Acknowledged:
        self.executed.append(message.reason)
        if len(self.executed) < 3:
            raise TooManyRequests("come again")
        return Acknowledged()

    @handle
    async def endpoint(self, message: GetFlightEndpoint) -> FlightEndpoint:
        work = current_work.get()
        self.executed.append(work)
        if self.other is not None:
            return self.context.delegate(self._ask_other, message)
        return FlightEndpoint(location="", certificate=repr(work))

    async def _ask_other(self, message: GetFlightEndpoint) -> FlightEndpoint:
        answer: FlightEndpoint = await self.other.ask(message, timeout=5)
        return answer


class World:
    """Servers on one network, and a client that asks them."""

    def __init__(self, network, nursery):
        self.network, self.nursery = network, nursery
        self.client = network.host()
        self.rpc = RpcClient(self.client, max_controls=2)
        self.executed: dict[str, list[object]] = {}
        self.faults = Faults()

    async def serve(self, other: ActorRef | None = None, peer_id: str = "") -> tuple[MemoryHost, RemoteRef]:
        host = self.network.host(peer_id)
        executed = self.executed.setdefault(host.peer_id, [])
        node = ChildSpec("node", self.faults.inject(lambda: Node(executed, other)))
        tree = await self.nursery.start(run_tree, Supervisor("test", [node]))
        routes = dict.fromkeys((HealthPing, CancelQuery, LeaveFederation, GetFlightEndpoint), tree.ref("node"))
        RpcServer(host, Policy(lambda _: Trust.HUB, table=dict.fromkeys(routes, Trust.HUB)), routes)
        return host, RemoteRef(self.rpc, host.peer_id, lambda: host.addresses, "node")


@pytest.fixture
async def world(nursery) -> AsyncIterator[World]:
    async with open_network() as network:
        yield World(network, nursery)
        nursery.cancel_scope.cancel()


async def test_of_two_who_find_a_peer_silent_the_second_does_not_cut_what_the_first_mended(
    world, nursery, autojump_clock
):
    former, ref = await world.serve()
    await ref.ask(HealthPing(clock=0), timeout=5)
    former.kill()
    with pytest.raises(DeadlineExceeded):
        await ref.ask(HealthPing(clock=0), timeout=1)  # on the stream that was kept
    _, ref = await world.serve(peer_id=former.peer_id)
    world.faults.delay(HealthPing, seconds=1)
    answered: list[str] = []

    async def ask(name: str, timeout: float) -> None:  # noqa: ASYNC109
        await ref.ask(HealthPing(clock=0), timeout=timeout)
        answered.append(name)

    # The first gives the silent connection up after 1.5 s, and its answer takes another; the second after 2 s.
    async with trio.open_nursery() as both:
        both.start_soon(ask, "first", 3)
        both.start_soon(ask, "second", 10)
    assert answered == ["first", "second"]


async def test_an_idempotent_message_survives_a_lost_connection_and_is_executed_once(world, nursery, autojump_clock):
    server, ref = await world.serve()
    query = CancelQuery(query_id=uuid4())

    async def cut():
        await trio.sleep(0.5)
        await server.disconnect(world.client.peer_id)

    nursery.start_soon(cut)
    assert await ref.ask(query, timeout=20) == Acknowledged()
    assert world.executed[server.peer_id] == [query.query_id]


async def test_any_other_message_is_sent_at_most_once(world, nursery, autojump_clock):
    server, ref = await world.serve()
    world.faults.delay(HealthPing, seconds=1)

    async def cut():
        await trio.sleep(0.5)
        await server.disconnect(world.client.peer_id)

    nursery.start_soon(cut)
    with pytest.raises(PeerUnavailable, match="while HealthPing was under way"):
        await ref.ask(HealthPing(clock=0), timeout=20)
    await trio.sleep(20)
    assert world.executed[server.peer_id] == ["ping"]


async def test_a_node_that_comes_back_in_time_answers_an_idempotent_message(world, nursery, autojump_clock):
    server, ref = await world.serve()
    server.close()

    async def restart():
        await trio.sleep(2)
        await world.serve(peer_id=server.peer_id)

    nursery.start_soon(restart)
    assert await ref.ask(CancelQuery(query_id=uuid4()), timeout=20) == Acknowledged()


async def test_nobody_there_is_said_soon_after_the_last_attempt(world, autojump_clock):
    server, ref = await world.serve()
    server.close()
    began = trio.current_time()
    with pytest.raises(PeerUnavailable, match="nobody listens"):
        await ref.ask(CancelQuery(query_id=uuid4()), timeout=600)
    assert trio.current_time() - began < 20
    began = trio.current_time()
    with pytest.raises(PeerUnavailable):
        await ref.ask(CancelQuery(query_id=uuid4()), timeout=1)
    assert trio.current_time() - began < 1, "the cause is told, not that time ran out"


async def test_who_is_asked_to_come_again_does(world, autojump_clock):
    server, ref = await world.serve()
    assert await ref.ask(LeaveFederation(reason="x"), timeout=20) == Acknowledged()
    assert world.executed[server.peer_id] == ["x", "x", "x"], "a refusal is not replayed as the answer"


async def test_a_frame_that_comes_twice_is_executed_once_and_its_second_answer_passed_over(world, autojump_clock):
    server, ref = await world.serve()
    world.network.link(world.client, server).duplicate = 1.0
    ids = [UUID(int=number) for number in range(3)]
    for query_id in ids:
        assert await ref.ask(CancelQuery(query_id=query_id), timeout=5) == Acknowledged()
    assert world.executed[server.peer_id] == ids


async def test_a_slow_node_never_delays_another(world, nursery, autojump_clock):
    slow, slow_ref = await world.serve()
    dead, dead_ref = await world.serve()
    _, good_ref = await world.serve()
    world.network.link(world.client, slow).delay = (30.0, 30.0)
    await world.client.connect(dead.peer_id, dead.addresses, timeout=1)
    dead.kill()
    failures = []

    async def ask(ref):
        try:
            await ref.ask(HealthPing(clock=0), timeout=20)
        except SynDBError as error:
            failures.append(error)

    for ref in (slow_ref, dead_ref):
        for _ in range(20):
            nursery.start_soon(ask, ref)
    await trio.lowlevel.checkpoint()
    began = trio.current_time()
    for _ in range(50):
        assert await good_ref.ask(HealthPing(clock=0), timeout=20) == REPORT
    assert trio.current_time() - began < 0.1
    await trio.sleep(30)
    assert len(failures) == 40


async def test_more_peers_than_fit_never_lose_a_request_under_way(world, nursery, autojump_clock):
    world.rpc = RpcClient(world.client, max_peers=2)
    answers = []
    refs = [(await world.serve())[1] for _ in range(5)]

    async def ask(ref):
        answers.append(await ref.ask(CancelQuery(query_id=uuid4()), timeout=5))

    async with trio.open_nursery() as asking:
        for ref in refs:
            asking.start_soon(ask, ref)
    assert answers == [Acknowledged()] * 5
    assert await refs[0].ask(HealthPing(clock=0), timeout=5)
    assert len(world.rpc._peers) <= 2


@pytest.mark.parametrize("work", [None, Work("job 7"), Work("job 7", f"00-{'a' * 32}-{'b' * 16}-01")])
async def test_the_work_is_known_at_every_daemon_it_reaches(world, work):
    far, far_ref = await world.serve()
    near, near_ref = await world.serve(other=far_ref)
    if work is None:
        await near_ref.ask(GetFlightEndpoint(), timeout=5)
    else:
        with doing(work):
            await near_ref.ask(GetFlightEndpoint(), timeout=5)
    assert world.executed[near.peer_id] == [work]
    assert world.executed[far.peer_id] == [work]


async def test_one_stream_serves_different_works_one_after_the_other(world):
    server, ref = await world.serve()
    for work in (Work("first"), Work("second")):
        with doing(work):
            await ref.ask(GetFlightEndpoint(), timeout=5)
    await ref.ask(GetFlightEndpoint(), timeout=5)
    assert world.executed[server.peer_id] == [Work("first"), Work("second"), None]


@settings(max_examples=20)
@given(
    st.integers(0, 1000),
    st.floats(0, 0.5),
    st.floats(0, 2.0),
    st.booleans(),
    st.lists(st.floats(0.01, 3.0), max_size=4),
)
def test_whatever_the_network_does_an_idempotent_message_is_executed_at_most_once(
    seed, duplicate, delay, reorder, cuts
):
    async def main():
        async with open_network(seed=seed) as network, trio.open_nursery() as nursery:
            world = World(network, nursery)
            server, ref = await world.serve()
            for link in (network.link(world.client, server), network.link(server, world.client)):
                link.delay, link.duplicate, link.reorder = (0.0, delay), duplicate, reorder

            async def cut():
                for pause in cuts:
                    await trio.sleep(pause)
                    await server.disconnect(world.client.peer_id)

            nursery.start_soon(cut)
            answered = 0
            for number in range(4):
                try:
                    await ref.ask(CancelQuery(query_id=UUID(int=number)), timeout=60)
                    answered += 1
                except (PeerUnavailable, DeadlineExceeded):
                    pass
            await trio.sleep(60)
            executed = world.executed[server.peer_id]
            assert len(executed) == len(set(executed))
            assert answered >= 3, "the cuts are over before a second message could have been given up"
            assert not server.counters["handler_failures"]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
