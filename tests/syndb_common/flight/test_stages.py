"""Engine or client is killed at every stage of an upload: what is published stays, nothing half-done is seen, and the
same upload is finished with every row once.

The engine process dies, or stands still while its client dies, at a statement of its own (:mod:`.dying_engine`).
"""

# ruff: noqa: ASYNC110 - other processes change what is waited for

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.engine.published import versions
from syndb_common.errors import Unavailable
from syndb_common.flight.uploader import upload
from syndb_common.flight.uploads import PublishResult
from syndb_common.tables.identity import row_id
from tests.syndb_common.flight.uploading import (
    METADATA,
    WORM,
    content_hash_of,
    neurons,
    restarted_engine,
    rows,
    target_of,
)

pytestmark = pytest.mark.slow

INTERPRETER = sys.executable
BATCHES, BATCH_ROWS = 3, 200
ROWS = BATCHES * BATCH_ROWS


@dataclass(frozen=True)
class Stage:
    """A statement of the engine's, by regular expression, ``skip`` of them passed over."""

    at: str
    when: str
    skip: int = 0


STAGES = {
    "begin": Stage("CREATE TABLE syndb_staging", "before"),
    "staging half made": Stage("ADD COLUMN", "before"),
    "upload recorded": Stage("INSERT INTO syndb_records.uploads", "after"),
    "stream recorded": Stage("INSERT INTO syndb_records.uploads", "during", 1),
    "first rows": Stage("INSERT INTO syndb_staging.*neurons", "during"),
    "rows stored": Stage("INSERT INTO syndb_staging.*neurons", "after"),
    "other table": Stage("INSERT INTO syndb_staging.*axons", "before"),
    "all rows stored": Stage("INSERT INTO syndb_staging.*axons", "after"),
    "counting": Stage("SELECT count.. AS n FROM syndb_staging", "before"),
    "checking references": Stage("countIf", "after"),
    "checking ids": Stage("uniqExact", "after"),
    "hashing": Stage("sum.reinterpretAsUInt128.sipHash128", "after"),
    "hashing the second table": Stage("sum.reinterpretAsUInt128.sipHash128", "before", 1),
    "meaning recorded": Stage("INSERT INTO syndb_records.uploads", "during", 3),
    "marks half off": Stage("DROP COLUMN", "after"),
    "marks off": Stage("DROP COLUMN", "after", 1),
    "half in place": Stage("REPLACE PARTITION", "after"),
    "in place": Stage("REPLACE PARTITION", "after", 1),
    "commit row": Stage("INSERT INTO syndb.dataset_versions", "during"),
    "committed": Stage("INSERT INTO syndb.dataset_versions", "after"),
    "audited": Stage("INSERT INTO syndb_records.changes", "after"),
    "outcome recorded": Stage("INSERT INTO syndb_records.uploads", "after", 4),
    "half cleaned up": Stage("DROP TABLE IF EXISTS syndb_staging", "after"),
}
SOME = ("first rows", "all rows stored", "hashing", "marks half off", "half in place", "committed", "half cleaned up")
"""Stages of every run of the tests; the others belong to the large runs."""
BOTH = ("stream recorded", "rows stored", "checking ids", "in place", "committed")
"""Stages at which also the client is killed."""


@pytest.fixture
async def living(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalEngine]:
    mortal = tmp_path / "python"
    script = Path(__file__).with_name("dying_engine.py")
    mortal.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{script}" "$@"\n')
    mortal.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(mortal))
    async with restarted_engine(tmp_path) as engine:
        yield engine


def tables_of(version: int) -> dict[str, pa.Table]:
    """Neurons, and an axon of each; other values in each version."""
    cells = pa.Table.from_batches(neurons(1000 * version, ROWS).to_batches(max_chunksize=BATCH_ROWS))
    ids = [str(row_id(WORM, "neurons", name)) for name in cells["source_id"].to_pylist()]
    return {"neurons": cells, "axons": pa.table({"source_id": cells["source_id"], "neuron_id": ids})}


async def _harm(engine: LocalEngine, stage: Stage, how: signal.Signals) -> int:
    """Have the engine process get a signal at the stage; its process id."""
    assert engine.path is not None
    assert engine.pid is not None
    order = engine.path / "clickhouse" / "die"
    order.with_suffix(".new").write_text(json.dumps({**asdict(stage), "how": how.value}))
    order.with_suffix(".new").rename(order)
    return engine.pid


async def _upload(engine: LocalEngine, version: int, key: UUID, patience: float = 60.0) -> PublishResult:
    tables = tables_of(version)
    return await trio.to_thread.run_sync(
        lambda: upload(target_of(engine), METADATA, WORM, tables, key=key, patience=patience)
    )


async def _check_nothing_half_done(engine: LocalEngine) -> None:
    parts = await rows(
        engine,
        "SELECT DISTINCT table, partition FROM system.parts WHERE active AND rows > 0 AND database = 'syndb' "
        "AND table IN ('neurons', 'axons') AND partition NOT IN "
        "(SELECT toString((dataset_id, version)) FROM syndb.dataset_versions)",
    )
    assert parts == []


async def _check_finished(engine: LocalEngine, results: list[PublishResult]) -> None:
    count = len(results)
    assert [(result.version, result.unchanged) for result in results] == [(n, False) for n in range(1, count + 1)]
    assert {tuple(result.row_counts.items()) for result in results} == {(("neurons", ROWS), ("axons", ROWS))}
    assert [each.content_hash for each in await versions(engine)] == [result.content_hash for result in results]
    for result in results:
        assert await content_hash_of(engine, WORM, result.version) == result.content_hash
    found = await rows(
        engine, "SELECT version, uniqExact(source_id) AS n, sum(soma_x) AS x FROM syndb.neurons GROUP BY 1 ORDER BY 1"
    )
    sums = [sum(range(1000 * version, 1000 * version + ROWS)) for version in range(1, count + 1)]
    assert found == [{"version": n, "n": ROWS, "x": x} for n, x in enumerate(sums, start=1)]
    audit = await rows(engine, "SELECT version FROM syndb_records.changes WHERE what = 'published' ORDER BY version")
    assert [entry["version"] for entry in audit] == list(range(1, count + 1))
    assert await rows(engine, "SELECT name FROM system.tables WHERE database = 'syndb_staging'") == []


@pytest.mark.parametrize(
    "stages", [SOME, pytest.param(tuple(set(STAGES) - set(SOME)), marks=pytest.mark.largest)], ids=["some", "others"]
)
async def test_an_engine_killed_at_any_stage_leaves_all_or_nothing(
    living: LocalEngine, stages: tuple[str, ...]
) -> None:
    results: list[PublishResult] = []
    for version, name in enumerate(stages, start=1):
        key = uuid4()
        pid = await _harm(living, STAGES[name], signal.SIGKILL)
        with pytest.raises(Unavailable):
            await _upload(living, version, key, patience=0.0)
        with trio.fail_after(60):
            while living.pid in (pid, None):
                await trio.sleep(0.02)
        await _check_nothing_half_done(living)
        for earlier in results:
            assert await content_hash_of(living, WORM, earlier.version) == earlier.content_hash
        results.append(await _upload(living, version, key))
    await _check_finished(living, results)


CLIENT = """
import sys
from uuid import UUID
from syndb_common.flight.uploader import UploadTarget, upload
from tests.syndb_common.flight.test_stages import tables_of
from tests.syndb_common.flight.uploading import METADATA, WORM

location, certificate, token, version, key = sys.argv[1:]
upload(UploadTarget(location, certificate, token), METADATA, WORM, tables_of(int(version)), key=UUID(key))
"""


async def test_a_client_killed_at_any_stage_leaves_all_or_nothing(living: LocalEngine) -> None:
    results: list[PublishResult] = []
    for version, name in enumerate(BOTH, start=1):
        key = uuid4()
        pid = await _harm(living, STAGES[name], signal.SIGSTOP)
        target = target_of(living)
        words = [target.location, target.certificate_pem, target.token, str(version), str(key)]
        client = await trio.lowlevel.open_process([INTERPRETER, "-c", CLIENT, *words])
        with trio.fail_after(60):
            while not _stopped(pid):
                await trio.sleep(0.02)
        client.kill()
        await client.wait()
        os.kill(pid, signal.SIGCONT)
        results.append(await _upload(living, version, key))
    await _check_finished(living, results)


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] == "T"
