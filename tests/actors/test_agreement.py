"""Whatever happens to hub, nodes and the network between them: once it is calm, both sides know the same, soon.

A history of faults is played on a simulated federation (:mod:`tests.actors.simulation`). Whenever the network has
healed and a ping cycle has passed, the hub knows of each node whether it answers, what it holds and which schema it
has, but for help that was cut off; and at no time is a migration applied twice or out of order.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from actors.directory import Cluster, Health, Standing
from actors.registry_messages import Activate, Deactivate
from actors.remote.memory import Link
from actors.schema_sync import APPLY_SECONDS
from tests.actors.simulation import MIGRATIONS, POLICY, Node, Simulation, simulation, without_real_time

NODES = 3
SOON = POLICY.cycle + 1.0
"""One ping cycle, and the second in which what was seen is gathered for the registry."""
DETECTED = 2 * POLICY.cycle + 1.0
"""A daemon that was killed is known to be gone within two cycles."""
LATER = 60.0
"""Longer than any pause of a node that was refused or does not find its hub."""

numbers = st.integers(0, NODES - 1)
links = st.builds(
    Link,
    delay=st.sampled_from([(0.0, 0.0), (0.0, 0.3), (0.1, 1.0)]),
    drop=st.sampled_from([0.0, 0.05, 0.3]),
    duplicate=st.sampled_from([0.0, 0.5]),
    reorder=st.booleans(),
)
events = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.1, 0.7, 3.0, 15.0])),
    st.tuples(st.just("disturb"), links),
    st.tuples(st.just("cut off"), numbers),
    st.tuples(st.just("heal"), st.none()),
    st.tuples(st.just("kill hub"), st.none()),
    st.tuples(st.just("start hub"), st.none()),
    st.tuples(st.just("crash registry"), st.none()),
    st.tuples(st.just("kill node"), numbers),
    st.tuples(st.just("stop node"), numbers),
    st.tuples(st.just("start node"), numbers),
    st.tuples(st.just("publish"), numbers),
    st.tuples(st.just("rename"), numbers),
    st.tuples(st.just("change key"), numbers),
    st.tuples(st.just("deactivate"), numbers),
    st.tuples(st.just("activate"), numbers),
)


class Player:
    """Plays a history, and says where hub and nodes disagree."""

    def __init__(self, federation: Simulation) -> None:
        self.federation = federation
        self.names: dict[UUID, str] = {}
        self.ended: dict[str, float] = {}

    async def play(self, event: str, what: Any) -> None:
        """One event of a history."""
        network, hub = self.federation.network, self.federation.hub
        node = self.federation.nodes[what] if isinstance(what, int) else self.federation.nodes[0]
        match event:
            case "wait":
                await trio.sleep(what)
            case "disturb":
                network.everywhere = what
            case "cut off":
                network.partition(node.keys.identity.peer_id)
            case "heal":
                await self.heal()
            case "kill hub":
                hub.kill()
            case "start hub":
                await hub.start()
            case "crash registry":
                hub.faults.crash()
            case "kill node":
                self.ended[node.keys.identity.peer_id] = trio.current_time()
                node.kill()
            case "stop node":
                await node.stop()
            case "start node":
                await node.start()
            case "publish":
                node.publish()
            case "rename":
                await node.stop()
                node.name = f"other-{what}" if node.name.startswith("lab") else f"lab-{what}"
                await node.start()
            case "change key":
                await node.change_key()
            case "deactivate" | "activate":
                known = self.known(node)
                if hub.process is not None and known is not None:
                    await hub.do((Deactivate if event == "deactivate" else Activate)(known.record.id))

    async def heal(self) -> None:
        """End all faults; soon nobody disagrees any more."""
        self.federation.calm()
        joined = {known.record.id for known in self.federation.hub.directory.clusters.values() if known.dial.multiaddrs}
        await trio.sleep(SOON)
        # What is new at this moment, since a node has just joined again, has a cycle of its own; and help for a node
        # that was under way to its former process or key ends only when that is given up.
        lasting = set(self.disagreements(joined))
        with trio.move_on_after(SOON + APPLY_SECONDS):
            while lasting:
                await trio.sleep(0.25)
                lasting &= set(self.disagreements(joined))
        assert lasting == set()

    def known(self, node: Node) -> Cluster | None:
        """The node as the hub knows it."""
        return self.federation.hub.directory.by_peer(node.keys.identity.peer_id)

    def disagreements(self, joined: set[UUID] | None = None) -> list[str]:
        """What the hub says that is not so, of the nodes ``joined`` or of all that it knows.

        A node that has joined meanwhile, or whose registration was cut off, has its own time to find the hub.
        """
        found = []
        if self.federation.hub.process is None:
            return []
        for node in self.federation.nodes:
            known = self.known(node)
            if known is None or (joined is not None and known.record.id not in joined):
                continue
            name = self.names.setdefault(known.record.id, known.record.name)
            active = known.record.standing is Standing.ACTIVE
            held = {(version.version, version.content_hash) for version in node.engine.versions}
            if known.record.name != name:
                found.append(f"{name} is called {known.record.name} now")
            if not active and known.health is not Health.UNKNOWN:
                found.append(f"{name} takes no part and is {known.health}")
            ended = trio.current_time() - self.ended.get(node.keys.identity.peer_id, 0.0)
            if active and known.health.routable and node.process is None and ended > DETECTED:
                found.append(f"{name} ended {ended} s ago and is {known.health}")
            if active and not known.health.routable and node.process is not None:
                found.append(f"{name} runs and is {known.health}: {known.cause}")
            if active and node.process is not None:
                if {(version.version, version.content_hash) for version in known.versions} != held:
                    found.append(f"{name} holds {held}, the hub knows {known.versions}")
                if known.record.schema_version != len(node.engine.history):
                    found.append(f"{name} has {node.engine.history}, the hub knows {known.record.schema_version}")
        return found

    def estranged(self) -> list[str]:
        """Which nodes do not know how they stand, or did not get what they lacked."""
        found = []
        for node in self.federation.nodes:
            known = self.known(node)
            if node.process is None:
                continue
            member = known is not None and known.record.is_active and known.record.name == node.name
            if len(node.engine.history) < len(MIGRATIONS) and known is not None and known.record.is_active:
                found.append(f"{node.name} lacks migrations: {node.engine.history}")
            if node.state.joined is not member:
                found.append(f"{node.name} says {node.state.state}, the hub knows {known and known.record}")
        return found

    def check_migrations(self) -> None:
        """Each once, and in order, at any time."""
        for node in self.federation.nodes:
            assert node.engine.history == list(range(1, len(node.engine.history) + 1))


async def play(history: list[tuple[str, Any]], folder: Path) -> None:
    async with simulation(folder, NODES) as federation:
        player = Player(federation)
        for event, what in history:
            await player.play(event, what)
            player.check_migrations()
        await federation.hub.start()
        await player.heal()
        await trio.sleep(LATER)
        assert player.disagreements() == []
        assert player.estranged() == []
        player.check_migrations()


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events, max_size=20))
def test_hub_and_nodes_agree_within_a_ping_cycle_after_the_network_has_healed(
    history: list[tuple[str, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as folder, without_real_time():
        trio.run(play, history, Path(folder), clock=MockClock(autojump_threshold=0))
