"""What it costs a hub to look after a thousand nodes, and ten thousand, a tenth of them dead or slow.

The hub's own registry, directory, health monitor and RPC client run over the in-memory transport; the nodes are
simulated: they read each request and encode each answer as a daemon does, and nothing more. Both sides are counted.
The clock is virtual, so that a cycle takes the time it costs. A *cycle* is the policy's: the ping interval and one
deadline, in which every node is asked at least once, those included that do not answer.

Each measurement has a process of its own: memory is what that process grows by.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import structlog
import trio
from trio.testing import MockClock

from actors.admission import Invitation, Keyring
from actors.cluster_store import Transition
from actors.directory import Cluster, ClusterRecord, Directory, Health
from actors.health import HealthPolicy
from actors.health_monitor import HealthMonitor
from actors.registry import Registry
from actors.remote.envelope import decode_request, encode_reply
from actors.remote.memory import MemoryHost, MemoryNetwork, open_network
from actors.remote.rpc import PROTOCOL, RemoteRef, RpcClient
from actors.remote.transport import Frames
from actors.runtime import ActorRef, ChildSpec, Supervisor, run_tree
from bench.result import Result, measured
from syndb_common.messages import CatalogAnnouncement, Endpoints, HealthReport

POLICY = HealthPolicy()
CYCLES = 5
WARM_UP_SECONDS = 24.0
"""Virtual: until the pauses between pings of the dead have grown to their bound."""
SLOW_SECONDS = 1.2
KILLED = 50
KILLED_WITHIN = 4.0
SCHEMA = 3


def run() -> list[Result]:
    """CPU seconds per cycle, memory per node and the longest detection of a death, for 1,000 and 10,000 nodes."""
    small, large = _measure(1000), _measure(10_000)
    return [
        measured("health_cycle_1000_nodes", statistics.median(small.cpu), "s", CYCLES, goal=1.0),
        measured("health_memory_per_node_kib", small.memory, "KiB", 1000, goal=32.0),
        measured("health_detection_cycles", max(small.detection), "cycles", KILLED, goal=2.0),
        measured("health_cycle_10000_nodes", statistics.median(large.cpu), "s", CYCLES),
        measured("health_memory_per_node_of_10000_kib", large.memory, "KiB", 10_000),
        measured("health_detection_cycles_of_10000", max(large.detection), "cycles", KILLED),
    ]


@dataclass(frozen=True)
class _Found:
    """What one process measured: CPU seconds of each cycle, KiB per node, cycles until each death was known."""

    cpu: list[float]
    memory: float
    detection: list[float]


def _measure(nodes: int) -> _Found:
    command = [sys.executable, "-m", "bench.health_cycle", str(nodes)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, check=True)
    return _Found(**json.loads(done.stdout))


class _Store:
    """A store of nodes that forgets everything."""

    async def load(self) -> list[ClusterRecord]:
        return []

    async def save(self, record: ClusterRecord) -> None:
        pass

    async def forget(self, cluster_id: UUID) -> None:
        pass

    async def revoke(self, record: ClusterRecord, peer_id: str, cause: str) -> None:
        pass

    async def revoked_peers(self) -> frozenset[str]:
        return frozenset()

    async def load_catalogues(self) -> dict[UUID, CatalogAnnouncement]:
        return {}

    async def save_catalogue(self, cluster_id: UUID, announcement: CatalogAnnouncement) -> None:
        pass

    async def record_transitions(self, transitions: Sequence[Transition]) -> None:
        pass


class _Invitations:
    """No invitations."""

    async def find(self, key_id: str) -> Invitation | None:
        return None

    async def use(self, key_id: str, peer_id: str) -> None:
        pass


class _Nodes:
    """Simulated nodes: one in twenty is dead, one in twenty slow."""

    def __init__(self, network: MemoryNetwork, number: int) -> None:
        self.hosts = [network.host() for _ in range(number)]
        for position, host in enumerate(self.hosts):
            host.set_handler(PROTOCOL, self._answer_slowly if position % 20 == 1 else self._answer)
        for host in self.hosts[::20]:
            host.kill()

    def clusters(self) -> list[Cluster]:
        """As the hub knows them from before, with addresses that were approved."""
        return [_cluster(f"node-{number}", host) for number, host in enumerate(self.hosts)]

    async def _answer(self, stream: Frames) -> None:
        await self._serve(stream, 0.0)

    async def _answer_slowly(self, stream: Frames) -> None:
        await self._serve(stream, SLOW_SECONDS)

    async def _serve(self, stream: Frames, seconds: float) -> None:
        while True:
            request = decode_request(await stream.receive(timeout=3600.0))
            if seconds:
                await trio.sleep(seconds)
            reply = _report() if request.type == "HealthPing" else CatalogAnnouncement(revision=1, versions=())
            await stream.send(encode_reply(request.id, reply), timeout=10.0)


def _cluster(name: str, host: MemoryHost) -> Cluster:
    endpoints = Endpoints(multiaddrs=host.addresses, flight="", flight_certificate="")
    record = ClusterRecord(
        id=uuid4(),
        name=name,
        peer_id=host.peer_id,
        endpoints=endpoints,
        registered_at=datetime.now(UTC),
        schema_version=SCHEMA,
        protocol_version=2,
        approved_hosts=("10.0.0.0/8",),
    )
    return Cluster(record, dial=endpoints)


def _report() -> HealthReport:
    return HealthReport(
        schema_version=SCHEMA,
        engine="ok",
        load=0,
        catalogue_revision=1,
        clock=time.time(),
        uptime_seconds=1.0,
        software="simulated",
    )


async def _simulate(number: int) -> _Found:
    async with open_network() as network:
        nodes = _Nodes(network, number)
        before = _resident_kib()
        client = RpcClient(network.host(), max_peers=2 * number)
        directory = Directory()
        directory.publish(nodes.clusters())

        def peer(cluster: Cluster) -> ActorRef:
            record = cluster.record
            return RemoteRef(client, record.peer_id or "", lambda: cluster.dial.multiaddrs, record.name)

        registry = ChildSpec(
            "registry",
            lambda: Registry(
                directory=directory,
                store=_Store(),
                invitations=_Invitations(),
                hub_peer_id="hub",
                keys=lambda: Keyring(b""),
                schema_version=SCHEMA,
            ),
        )
        monitor = ChildSpec(
            "health_monitor",
            lambda: HealthMonitor(directory=directory, peer=peer, policy=POLICY, schema_version=SCHEMA),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(run_tree, Supervisor("hub", [registry, monitor]))
            await trio.sleep(WARM_UP_SECONDS)
            _check(directory, number)
            memory = (_resident_kib() - before) / number
            cpu = [await _one_cycle() for _ in range(CYCLES)]
            detection = await _kill_some(directory, nodes)
            nursery.cancel_scope.cancel()
    return _Found(cpu, memory, detection)


async def _one_cycle() -> float:
    began = time.process_time()
    await trio.sleep(POLICY.cycle)
    return time.process_time() - began


def _check(directory: Directory, number: int) -> None:
    """What is measured is a federation whose hub knows who is well, slow and dead."""
    found = [cluster.health for cluster in directory.clusters.values()]
    seen = {health: found.count(health) for health in set(found)}
    expected = {Health.UNREACHABLE: number // 20, Health.DEGRADED: number // 20, Health.HEALTHY: number * 18 // 20}
    assert seen == expected, seen


async def _kill_some(directory: Directory, nodes: _Nodes) -> list[float]:
    """Cycles until the hub knows of each death."""
    chance = random.Random(1)
    cycles: list[float] = []

    async def kill(number: int) -> None:
        await trio.sleep(chance.uniform(0, KILLED_WITHIN))
        host = nodes.hosts[number]
        found = directory.by_peer(host.peer_id)
        assert found is not None
        host.kill()
        began = trio.current_time()
        await directory.wait_unroutable(found.record.id)
        cycles.append((trio.current_time() - began) / POLICY.cycle)

    async with trio.open_nursery() as nursery:
        for number in range(KILLED):
            nursery.start_soon(kill, 2 + number * 20)
    return cycles


def _resident_kib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise RuntimeError("no VmRSS")


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    print(json.dumps(asdict(trio.run(_simulate, int(sys.argv[1]), clock=MockClock(autojump_threshold=0)))))
