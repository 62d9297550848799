"""Whatever happens to hub, nodes and the network between them: once it is calm, both sides know the same, soon.

A history of faults is played on a simulated federation (:mod:`tests.actors.simulation`). At no time is a migration
applied twice or out of order. From the moment at which the network is calm, no disagreement of registry and node about
one aspect of the node lasts longer than one ping cycle: that is the interval between pings, the time a ping may take,
the second in which observations are gathered, and for catalogue and schema what the node itself needs for its work.

There are two exceptions. That a daemon was killed is known after the pings that have to be missed, within two cycles.
And a frame can be lost on a stream that lives on, as QUIC never does it: the hub then waits for an answer until the
deadline of its request. So after a loss, and only then, catalogue and schema may be late by these deadlines; health
may not.
"""

from __future__ import annotations

import tempfile
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from actors.catalogue_reading import PAGE_SECONDS
from actors.directory import Cluster, Health
from actors.registry_messages import Activate, Deactivate
from actors.remote.memory import Link
from actors.schema_sync import APPLY_SECONDS
from tests.actors.simulation import MIGRATIONS, POLICY, Node, Simulation, simulation, without_real_time

NODES = 3
SOON = POLICY.cycle + 1.0
"""One ping cycle, and the second in which what was seen is gathered for the registry."""
DETECTED = 2 * POLICY.cycle + 1.0
"""A daemon that was killed is known to be gone within two cycles."""
WORK = 1.0
"""A node of the simulation needs less to apply all migrations, and next to nothing to list what it holds."""
GLANCE = 0.25
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


class Aspect(Enum):
    """What hub and node may disagree about: for how many seconds, and how many more after frames were lost."""

    STANDING = "standing", 0.0, 0.0
    HEALTH = "health", SOON, 0.0
    CATALOGUE = "catalogue", SOON + WORK, APPLY_SECONDS + PAGE_SECONDS
    SCHEMA = "schema", SOON + WORK, APPLY_SECONDS
    GONE = "gone", DETECTED, 0.0

    def limit(self, lossy: bool) -> float:
        return float(self.value[1] + (self.value[2] if lossy else 0.0))


class Player:
    """Plays a history, and says where hub and nodes disagree."""

    def __init__(self, federation: Simulation) -> None:
        self.federation = federation
        self.names: dict[UUID, str] = {}
        self.lossy = False

    async def play(self, event: str, what: Any) -> None:
        """One event of a history."""
        network, hub = self.federation.network, self.federation.hub
        node = self.federation.nodes[what] if isinstance(what, int) else self.federation.nodes[0]
        match event:
            case "wait":
                await trio.sleep(what)
            case "disturb":
                network.everywhere = what
                self.lossy = self.lossy or what.drop > 0
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
        """End all faults; from then on no disagreement outlives its limit."""
        self.federation.calm()
        calm = trio.current_time()
        joined = {known.record.id for known in self.federation.hub.directory.clusters.values() if known.dial.multiaddrs}
        since: dict[tuple[str, Aspect], float] = {}
        while trio.current_time() <= calm + SOON or (since and trio.current_time() <= calm + LATER):
            found = self.disagreements(joined)
            since = {which: since.get(which, trio.current_time()) for which in found}
            for which, begun in since.items():
                assert trio.current_time() - begun <= which[1].limit(self.lossy), (which[0], found[which])
            await trio.sleep(GLANCE)
        self.lossy = False

    def known(self, node: Node) -> Cluster | None:
        """The node as the hub knows it."""
        return self.federation.hub.directory.by_peer(node.keys.identity.peer_id)

    def disagreements(self, joined: set[UUID] | None = None) -> dict[tuple[str, Aspect], str]:
        """What the hub says that is not so, of the nodes ``joined`` or of all that it knows.

        A node that has joined meanwhile, or whose registration was cut off, has its own time to find the hub.
        """
        found: dict[tuple[str, Aspect], str] = {}
        if self.federation.hub.process is None:
            return found
        for node in self.federation.nodes:
            known = self.known(node)
            if known is None or (joined is not None and known.record.id not in joined):
                continue
            name = self.names.setdefault(known.record.id, known.record.name)
            if known.record.name != name:
                found[name, Aspect.STANDING] = f"is called {known.record.name} now"
            if not known.record.is_active:
                if known.health is not Health.UNKNOWN:
                    found[name, Aspect.STANDING] = f"takes no part and is {known.health}"
            elif node.process is None:
                if known.health.routable:
                    found[name, Aspect.GONE] = f"has ended and is {known.health}"
            else:
                held = {(version.version, version.content_hash) for version in node.engine.versions}
                listed = {(version.version, version.content_hash) for version in known.versions}
                if not known.health.routable:
                    found[name, Aspect.HEALTH] = f"runs and is {known.health}: {known.cause}"
                if listed != held:
                    found[name, Aspect.CATALOGUE] = f"holds {held}, the hub knows {listed}"
                if known.record.schema_version != len(node.engine.history):
                    found[name, Aspect.SCHEMA] = f"has {node.engine.history}, not {known.record.schema_version}"
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
        assert player.disagreements() == {}
        assert player.estranged() == []
        player.check_migrations()


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=60)
@given(st.lists(events, max_size=20))
@example([("change key", 0), ("publish", 0)])
@example([("publish", 0), ("kill node", 0), ("start node", 0)])
@example([("rename", 2), ("kill node", 0), ("publish", 0), ("rename", 0)])
def test_hub_and_nodes_agree_within_a_ping_cycle_after_the_network_has_healed(
    history: list[tuple[str, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as folder, without_real_time():
        trio.run(play, history, Path(folder), clock=MockClock(autojump_threshold=0))
