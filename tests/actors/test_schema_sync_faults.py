"""Whatever happens to SchemaSync messages and to the engine, migrations are applied once and in order."""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow as pa
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.remote.memory import open_network
from actors.remote.policy import Policy, Trust
from actors.remote.rpc import RemoteRef, RpcClient
from actors.remote.rpc_server import RpcServer
from actors.runtime import ChildSpec, Supervisor, run_tree
from actors.schema_sync import SchemaKeeper
from syndb_common.engine.interface import Answer, Scan
from syndb_common.errors import EngineUnavailable, SynDBError, UnknownName
from syndb_common.messages import SchemaMigration, SchemaReport, SchemaSync

LAST = 4
STATEMENTS = 3


def statement(version: int, number: int) -> str:
    return f"CREATE TABLE IF NOT EXISTS syndb.t{version}_{number} (a UInt8) ENGINE=MergeTree ORDER BY a"


MIGRATIONS = tuple(
    SchemaMigration(version=v, name=f"m{v}", statements=tuple(statement(v, n) for n in range(STATEMENTS)))
    for v in range(1, LAST + 1)
)


class Journal:
    """An engine that keeps what it was told to do on its disk, and dies at given operations, before or after them."""

    def __init__(self, deaths: dict[int, bool]) -> None:
        self.executed: list[str] = []
        self.recorded: list[int] = []
        self._deaths = deaths
        self._operations = 0
        self._ready = False

    async def _operation(self, effect: Any) -> None:
        self._operations += 1
        done = self._deaths.pop(self._operations, None)
        await trio.lowlevel.checkpoint()
        if done is not False:
            effect()
        if done is not None:
            raise EngineUnavailable("the engine process was killed")

    async def execute(self, sql: str) -> None:
        def effect() -> None:
            if "schema_migrations" in sql:
                self._ready = True
            elif not sql.startswith("CREATE DATABASE"):
                self.executed.append(sql)

        await self._operation(effect)

    async def query(self, sql: str, **_: Any) -> Answer:
        await trio.lowlevel.checkpoint()
        if not self._ready:
            raise UnknownName("no such table")
        return Answer(pa.table({"version": pa.array(self.recorded, pa.uint32())}), Scan())

    async def insert(self, table: str, rows: pa.Table) -> int:
        await self._operation(lambda: self.recorded.extend(rows.column("version").to_pylist()))
        return rows.num_rows

    def check(self) -> None:
        """Numbers once and in order; all statements of one before the first of the next."""
        assert self.recorded == list(range(1, len(self.recorded) + 1))
        firsts = list(dict.fromkeys(self.executed))
        assert firsts == [statement(v, n) for v in range(1, LAST + 1) for n in range(STATEMENTS)][: len(firsts)]
        assert len(firsts) >= STATEMENTS * len(self.recorded)
        begun = [int(sql.split("syndb.t")[1].split("_")[0]) for sql in self.executed]
        assert begun == sorted(begun)


slices = st.tuples(st.integers(0, LAST), st.integers(0, LAST), st.floats(0, 0.01), st.booleans())


@pytest.mark.slow
@settings(max_examples=25)
@given(
    sent=st.lists(slices, min_size=1, max_size=8),
    deaths=st.dictionaries(st.integers(1, 25), st.booleans(), max_size=4),
    duplicate=st.sampled_from((0.0, 0.3)),
    reorder=st.booleans(),
    seed=st.integers(0, 100),
)
def test_no_migration_is_applied_twice_or_out_of_order(
    sent: list[tuple[int, int, float, bool]], deaths: dict[int, bool], duplicate: float, reorder: bool, seed: int
) -> None:
    """Messages with some of the migrations, late, doubled and overtaking one another, to a node whose engine dies."""
    engine = Journal(deaths)

    async def main() -> None:
        async with open_network(seed=seed) as network, trio.open_nursery() as nursery:
            hub, node = network.host(), network.host()
            keeper = ChildSpec("keeper", lambda: SchemaKeeper(engine=engine))  # type: ignore[arg-type]
            tree = await nursery.start(run_tree, Supervisor("node", [keeper]))
            RpcServer(node, Policy(lambda peer_id: Trust.HUB), {SchemaSync: tree.ref("keeper")})
            link = network.link(hub, node)
            link.delay, link.duplicate, link.reorder = (0.0, 0.005), duplicate, reorder
            peer = RemoteRef(RpcClient(hub), node.peer_id, lambda: node.addresses, "node")

            async def send(first: int, last: int, wait: float, dry_run: bool) -> None:
                await trio.sleep(wait)
                with contextlib.suppress(SynDBError):
                    await peer.ask(SchemaSync(migrations=MIGRATIONS[first:last], dry_run=dry_run), timeout=0.5)
                engine.check()

            async with trio.open_nursery() as senders:
                for script in sent:
                    senders.start_soon(send, *script)
            link.duplicate, link.reorder = 0.0, False
            for _ in range(len(deaths) + 1):
                try:
                    report: SchemaReport = await peer.ask(SchemaSync(migrations=MIGRATIONS), timeout=10)
                    break
                except EngineUnavailable:
                    continue
            assert report.schema_version == LAST
            nursery.cancel_scope.cancel()

    trio.run(main)
    engine.check()
    assert engine.recorded == list(range(1, LAST + 1))
