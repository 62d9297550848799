"""Hub and node are killed or stand still at every stage of joining and of a schema sync, and all heals by itself.

The stages are what the daemons log; a daemon gets its signal as soon as the line is there.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.remote.identity import Identity
from demo.local import LocalFederation, local_federation
from syndb_common.engine.local import LocalEngine
from syndb_common.tables import schema

AT_ONCE = 5
"""Federations side by side: most of the time they wait for each other's deadlines."""
STOPPED_SECONDS = 12.0
"""Longer than any step of joining may take, and than a node waits for a ping."""
REACHED_SECONDS = 60.0
HEALED_SECONDS = 90.0


@dataclass(frozen=True)
class Stage:
    """A line in the log of a daemon."""

    log: str
    event: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Good as a name of a node."""
        return "-".join((self.log, self.event.replace(" ", "-"), *(str(fact) for fact in self.facts.values()))).lower()


STAGES = (
    Stage("hub", "asked", {"type": "JoinRequest"}),
    Stage("hub", "answered", {"type": "JoinRequest"}),
    Stage("hub", "asked", {"type": "RegisterCluster"}),
    Stage("hub", "node registered"),
    Stage("hub", "answered", {"type": "RegisterCluster"}),
    Stage("node", "joined"),
    Stage("hub", "answered", {"type": "CatalogAnnouncement"}),
    Stage("node", "asked", {"type": "SchemaSync"}),
    *(Stage("node", "migration applied", {"version": migration.version}) for migration in schema.migrations()),
    Stage("node", "answered", {"type": "SchemaSync"}),
    Stage("hub", "schema synced"),
    Stage("hub", "health changed", {"now": "healthy"}),
)
PINGED = Stage("node", "answered", {"type": "HealthPing"})


Case = tuple[Stage, str, signal.Signals]
CASES: list[Case] = list(product(STAGES, ("node", "hub"), (signal.SIGKILL, signal.SIGSTOP)))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.largest)], ids=["half", "other half"])
def test_whoever_fails_at_whatever_stage_all_heals_and_nothing_happens_twice(tmp_path: Path, part: int) -> None:
    """Each half has every stage twice, hub and node, one of them killed and the other stopped."""
    cases = [case for number, case in enumerate(CASES) if (number // 2 + number // 4 + number) % 2 == part]
    shares = [cases[first::AT_ONCE] for first in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(break_at_stages, [tmp_path / str(number) for number in range(AT_ONCE)], shares)
        wrong = [problem for problems in found for problem in problems]
    assert not wrong, "\n".join(wrong)


def break_at_stages(folder: Path, cases: Sequence[Case]) -> list[str]:
    """One hub and a fresh node for each case; returns what went wrong."""
    wrong = []
    debug = {"log_level": "debug", "federation": {"enable_mdns": False}}
    names = [f"{victim}-{how.name}-at-{stage.name}".lower() for stage, victim, how in cases]
    with local_federation(folder, names, hub=debug, node=debug) as federation:
        federation.start_hub()
        federation.wait_answering()
        for name, (stage, victim, how) in zip(names, cases, strict=True):
            try:
                break_at(federation, name, stage, victim, how)
            except Exception as error:
                wrong.append(f"{name}: {error!r}")
    return wrong


def break_at(federation: LocalFederation, name: str, stage: Stage, victim: str, how: signal.Signals) -> None:
    """Let a node join, do harm at the stage, wait until all is well again, and look whether it is."""
    peer_id = Identity.load_or_create(make_folder(federation.folder / name) / "identity.key").peer_id
    log = federation.folder / f"{'hub' if stage.log == 'hub' else name}.log"
    already = log.stat().st_size if log.exists() else 0
    federation.start_node(name)
    wait_line(log, already, stage, {name, peer_id} if stage.log == "hub" else set())
    harmed = "hub" if victim == "hub" else name
    process = federation.daemons[harmed].process
    assert process is not None
    process.send_signal(how)
    if how is signal.SIGKILL:
        process.wait(20)
        federation.daemons[harmed].start()
    else:
        time.sleep(STOPPED_SECONDS)
        process.send_signal(signal.SIGCONT)
    federation.wait_answering()
    own_log = federation.folder / f"{name}.log"
    wait_line(own_log, own_log.stat().st_size, PINGED, set(), seconds=HEALED_SECONDS)  # by who is alive now
    federation.wait_healthy([name], seconds=HEALED_SECONDS)
    records = [node for node in federation.get("/v1/federation/clusters") if node["name"] == name]
    # The hub may have kept the registration and died before it answered; the node then learns its id by asking again.
    wait_line(own_log, 0, Stage("node", "joined"), set(), seconds=HEALED_SECONDS)
    joined = {line["cluster_id"] for line in lines(own_log)[0] if line["event"] == "joined"}
    assert [(node["peer_id"], {node["id"]}) for node in records] == [(peer_id, joined)]
    node = federation.daemons[name]
    assert node.process is not None
    node.process.terminate()
    assert node.process.wait(20) == 0
    node.process = None
    applied = trio.run(migrations_of, federation.folder / name / "engine")
    assert applied == [migration.version for migration in schema.migrations()], f"applied: {applied}"


def wait_line(log: Path, start: int, stage: Stage, about: set[str], *, seconds: float = REACHED_SECONDS) -> None:
    """Return as soon as the stage's line is in the log, behind ``start``, about one of these when any are given."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        new, start = lines(log, start)
        for line in new:
            fits = line["event"] == stage.event and stage.facts.items() <= line.items()
            if fits and (not about or about & {line.get("cluster"), line.get("peer")}):
                return
        time.sleep(0.002)
    raise TimeoutError(f"{stage.name} was not reached")


def lines(log: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole structured lines of a log behind a position, and the position behind them."""
    if not log.exists():
        return [], start
    with log.open("rb") as file:
        file.seek(start)
        content = file.read()
    end = content.rfind(b"\n") + 1
    return [json.loads(line) for line in content[:end].splitlines() if line.startswith(b'{"')], start + end


async def migrations_of(folder: Path) -> list[int]:
    """The numbers a node's engine has recorded, in the order in which they were applied."""
    engine = LocalEngine(folder, name="afterwards")
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        answer = await engine.query("SELECT version FROM syndb.schema_migrations ORDER BY applied_at, version")
        nursery.cancel_scope.cancel()
    found: list[int] = answer.table.column("version").to_pylist()
    return found


def make_folder(path: Path) -> Path:
    """A folder for its owner only."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
