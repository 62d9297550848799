"""What is deleted is gone whole, on record, never numbered again, and no query takes it for an empty answer."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from syndb_common.engine.interface import Limits, Offer
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.published import versions
from syndb_common.errors import NotFound
from syndb_common.flight.client import fetch
from syndb_common.flight.uploader import delete, upload
from syndb_common.flight.uploads import PublishResult, Put
from syndb_common.syql import parse, plan, to_clickhouse
from syndb_common.tables.versions import PublishedVersion
from tests.syndb_common.flight.uploading import (
    METADATA,
    WORM,
    RawClient,
    kill,
    neurons,
    restarted_engine,
    rows,
    target_of,
)

pytestmark = pytest.mark.slow


@pytest.fixture
async def living(tmp_path: Path) -> AsyncIterator[LocalEngine]:
    async with restarted_engine(tmp_path) as engine:
        yield engine


async def _publish(engine: LocalEngine, first: int, count: int = 10) -> PublishResult:
    tables = {"neurons": neurons(first, count)}
    return await trio.to_thread.run_sync(lambda: upload(target_of(engine), METADATA, WORM, tables))


async def _delete(engine: LocalEngine, version: int | None = None) -> tuple[int, ...]:
    return (await trio.to_thread.run_sync(lambda: delete(target_of(engine), WORM, version))).versions


def _sql(text: str, version: int) -> str:
    """What a node runs for a question about one version of the worm."""
    known = PublishedVersion(
        dataset_id=WORM,
        version=version,
        metadata=METADATA,
        row_counts={"neurons": 10},
        content_hash="0" * 64,
        schema_version=2,
        published_at=datetime.now(UTC),
    )
    return to_clickhouse(plan(parse(text), [known]), "node")


async def _audit(engine: LocalEngine) -> list[tuple[Any, ...]]:
    found = await rows(engine, "SELECT who, what, version, dataset, rows FROM syndb_records.changes ORDER BY at, what")
    return [tuple(row.values()) for row in found]


async def test_a_version_and_then_the_rest_are_deleted_for_ever(living: LocalEngine) -> None:
    for first in (0, 1, 2):
        await _publish(living, first)
    seen = living.publications

    assert await _delete(living, 2) == (2,)

    with trio.fail_after(5):
        await living.wait_published(seen)
    assert [each.version for each in await versions(living)] == [1, 3]
    assert await rows(living, "SELECT DISTINCT version FROM syndb.neurons ORDER BY version") == [
        {"version": 1},
        {"version": 3},
    ]
    with pytest.raises(NotFound, match="version 2 of worm was deleted"):
        await living.query(_sql("SELECT COUNT(*) FROM neurons", 2), query_id="planned-before")
    assert (await living.query(_sql("SELECT COUNT(*) FROM neurons", 3))).table.to_pydict() == {"__s0": [10]}
    with pytest.raises(NotFound, match=r"version 2 of data set .* is not published here"):
        await _delete(living, 2)

    assert await _delete(living, 3) == (3,)
    await kill(living)
    assert (await _publish(living, 2)).version == 4
    with RawClient(target_of(living)) as client:
        upload_id = client.begin("neurons")
        client.put(Put(upload_id=upload_id, table="neurons", stream=uuid4()), [(0, neurons(0, 3))])
        assert await _delete(living) == (1, 4)
        with pytest.raises(NotFound):
            client.status(upload_id)
    assert await rows(living, "SELECT name FROM system.tables WHERE database = 'syndb_staging'") == []
    parts = "SELECT table FROM system.parts WHERE active AND rows > 0 AND database = 'syndb' AND table != '{}'"
    assert await rows(living, parts.format("schema_migrations")) == []
    await kill(living)
    with pytest.raises(NotFound, match="version 3 of worm was deleted"):
        await living.query(_sql("SELECT COUNT(*) FROM neurons", 3), query_id="planned-long-before")
    assert (await _publish(living, 2)).version == 5
    audit = await _audit(living)
    assert [entry[2] for entry in audit if entry[1] == "published"] == [1, 2, 3, 4, 5]
    assert sorted(entry[2] for entry in audit if entry[1] == "deleted") == [1, 2, 3, 4]
    assert ("owner", "deleted", 2, "worm", 10) in audit


async def test_a_query_under_way_ends_with_the_reason(living: LocalEngine) -> None:
    await _publish(living, 0, 1_000_000)
    sql = _sql("SELECT source_id, soma_x, cid FROM neurons", 1)
    offer = await living.answer(sql, limits=Limits(), query_id="long")
    assert isinstance(offer, Offer)

    await _delete(living, 1)

    with pytest.raises(NotFound):
        await fetch(offer)


async def test_a_deletion_that_a_crash_interrupted_is_finished_at_the_next_start(living: LocalEngine) -> None:
    await _publish(living, 0)
    await _publish(living, 1)
    await living.execute(
        "INSERT INTO syndb_records.changes SELECT now64(3), 'owner', 'deleting', dataset_id, version, dataset, "
        "content_hash, rows FROM syndb_records.changes WHERE version = 1"
    )
    await kill(living)
    assert [each.version for each in await versions(living)] == [2]
    assert await rows(living, "SELECT DISTINCT version FROM syndb.neurons") == [{"version": 2}]
    assert ("owner", "deleted", 1, "worm", 10) in await _audit(living)
