"""Engine or client is killed at every stage of an upload: what is published stays, nothing half-done is seen, and the
same upload is finished with every row once.

The engine process dies, or stands still while its client dies, at a statement of its own (:mod:`.dying_engine`).
"""

# ruff: noqa: ASYNC110 - other processes change what is waited for

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.engine.published import versions
from syndb_common.errors import Unavailable
from syndb_common.flight.uploader import upload
from syndb_common.flight.uploads import PublishResult
from tests.syndb_common.engine.bridging import bridged
from tests.syndb_common.flight.dying import STAGES, Stage, harm, mortal_interpreter, stopped
from tests.syndb_common.flight.uploading import (
    METADATA,
    ROWS,
    WORM,
    content_hash_of,
    restarted_engine,
    rows,
    tables_of,
    target_of,
)

pytestmark = pytest.mark.slow

INTERPRETER = sys.executable

SOME = ("first rows", "all rows stored", "hashing", "marks half off", "half in place", "committed", "half cleaned up")
"""Stages of every run of the tests; the others belong to the large runs."""
FEW = ("first rows", "half in place", "committed")
"""Of these, with a ClickHouse server, which outlives its engine process."""
BOTH = ("stream recorded", "rows stored", "checking ids", "in place", "committed")
"""Stages at which also the client is killed."""


@pytest.fixture
async def living(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LocalEngine]:
    kind = getattr(request, "param", "embedded")
    with bridged(tmp_path / "bridge") if kind == "server" else nullcontext() as server:
        monkeypatch.setattr(sys, "executable", str(mortal_interpreter(tmp_path)))
        async with restarted_engine(tmp_path, server) as engine:
            yield engine


def _harm(engine: LocalEngine, stage: Stage, how: signal.Signals) -> int:
    """Have the engine process get a signal at the stage; its process id."""
    assert engine.path is not None
    assert engine.pid is not None
    harm(engine.path, stage, how)
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
    ("living", "stages"),
    [
        ("embedded", SOME),
        ("server", FEW),
        pytest.param("embedded", tuple(set(STAGES) - set(SOME)), marks=pytest.mark.largest),
        pytest.param("server", tuple(set(STAGES) - set(FEW)), marks=pytest.mark.largest),
    ],
    indirect=["living"],
    ids=["embedded-some", "server-some", "embedded-others", "server-others"],
)
async def test_an_engine_killed_at_any_stage_leaves_all_or_nothing(
    living: LocalEngine, stages: tuple[str, ...]
) -> None:
    results: list[PublishResult] = []
    for version, name in enumerate(stages, start=1):
        key = uuid4()
        pid = _harm(living, STAGES[name], signal.SIGKILL)
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
from tests.syndb_common.flight.uploading import METADATA, WORM, tables_of

location, certificate, token, version, key = sys.argv[1:]
upload(UploadTarget(location, certificate, token), METADATA, WORM, tables_of(int(version)), key=UUID(key))
"""


async def test_a_client_killed_at_any_stage_leaves_all_or_nothing(living: LocalEngine) -> None:
    results: list[PublishResult] = []
    for version, name in enumerate(BOTH, start=1):
        key = uuid4()
        pid = _harm(living, STAGES[name], signal.SIGSTOP)
        target = target_of(living)
        words = [target.location, target.certificate_pem, target.token, str(version), str(key)]
        client = await trio.lowlevel.open_process([INTERPRETER, "-c", CLIENT, *words])
        with trio.fail_after(60):
            while not stopped(pid):
                await trio.sleep(0.02)
        client.kill()
        await client.wait()
        os.kill(pid, signal.SIGCONT)
        results.append(await _upload(living, version, key))
    await _check_finished(living, results)
