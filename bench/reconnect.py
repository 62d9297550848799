"""How soon a node is back after its hub was restarted, in order (SIGTERM) and by a crash (SIGKILL).

Real processes over QUIC alone. The clock starts when the new hub has bound its UDP port, and stops when it says that
the node is healthy: how long a hub takes to start is another figure (``warm_start_seconds``). The same runs are given
from the start of the new process too, without a goal: what an operator waits for, however the two divide it.
"""

from __future__ import annotations

import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.result import Result, measured
from demo.local import LocalFederation, listen, local_federation
from demo.processes import free_ports

ROUNDS = 10
GOAL = 3.0
POLL_SECONDS = 0.01
LIMIT_SECONDS = 60.0
SETTLE_SECONDS = 3.0
"""A node that is healthy stays so for a while before the hub goes away again, as in life."""


def run(rounds: int = ROUNDS) -> list[Result]:
    """Median seconds to healthy, from the bound port and from the start, for both ways in which a hub ends."""
    with tempfile.TemporaryDirectory(prefix="syndb-bench-") as temporary:
        port, node_port = free_ports(2)
        quic = listen(port)[:1]
        with local_federation(
            Path(temporary),
            ["north"],
            hub={"federation": {"listen": quic}},
            node={"federation": {"listen": listen(node_port)[:1], "hub_multiaddrs": quic}},
        ) as federation:
            federation.start_hub()
            federation.start_node("north")
            federation.wait_healthy(["north"])
            ended = [_reconnect(federation, port, signal.SIGTERM) for _ in range(rounds)]
            killed = [_reconnect(federation, port, signal.SIGKILL) for _ in range(rounds)]
    results = []
    for name, times in (("reconnect_seconds", ended), ("reconnect_seconds_after_sigkill", killed)):
        from_bound, from_start = (statistics.median(each) for each in zip(*times, strict=True))
        results.append(measured(name, from_bound, "s", rounds, goal=GOAL))
        results.append(measured(f"{name}_from_start", from_start, "s", rounds))
    return results


def _reconnect(federation: LocalFederation, port: int, how: signal.Signals) -> tuple[float, float]:
    """Seconds to healthy since the port was bound, and since the new process was started."""
    time.sleep(SETTLE_SECONDS)
    hub = federation.daemons["hub"]
    assert hub.process is not None
    hub.process.send_signal(how)
    hub.process.wait(LIMIT_SECONDS)
    started = time.monotonic()
    federation.start_hub()
    _wait(lambda: _is_bound(port), "the hub to listen")
    bound = time.monotonic()
    _wait(lambda: federation.health().get("north") == "healthy", "the node to be healthy")
    healthy = time.monotonic()
    return healthy - bound, healthy - started


def _is_bound(port: int) -> bool:
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") for line in lines)


def _wait(done: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + LIMIT_SECONDS
    while not done():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {LIMIT_SECONDS:g} s for {what}")
        time.sleep(POLL_SECONDS)
