"""One machine of a cluster that lags behind the others: all tables are made and changed on every machine, and a version
is there for whoever publishes the next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest

from syndb_common.engine.local import LocalEngine
from syndb_common.engine.owning import bring_tables
from syndb_common.engine.publish import Uploads
from syndb_common.engine.server_backend import ServerBackend
from syndb_common.engine.settings import Server
from syndb_common.engine.work import Keeper
from syndb_common.flight.uploads import Begin, PublishResult
from syndb_common.tables import schema
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.model import TABLES
from syndb_common.tables.versions import DatasetMetadata
from tests.syndb_common.engine.bridging import bridged

pytestmark = pytest.mark.slow

WORM = dataset_id("worm")


@contextmanager
def _machine(folder: Path) -> Iterator[Server]:
    """A machine of a cluster that has fetched nothing yet."""
    with bridged(folder) as found:
        yield replace(found, cluster="c")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a machine through which three versions were published."""
    folder = tmp_path_factory.mktemp("cluster")
    with _machine(folder) as server:
        bring_tables(LocalEngine(folder / "node", server=server), schema.CURRENT)
        uploads = _started(server)
        assert _publish(uploads, "a").version == 1
        assert _publish(uploads, "a", "b").version == 2
        assert _publish(_started(server), "a", "b", "c").version == 3
    return folder


def _started(server: Server) -> Uploads:
    uploads = Uploads(Keeper(ServerBackend(server)))
    uploads.recover()
    return uploads


def _publish(uploads: Uploads, *names: str) -> PublishResult:
    begin = Begin(dataset_id=WORM, metadata=DatasetMetadata(dataset="worm"), tables=("neurons",), key=uuid4())
    upload, rows = uploads.begin(begin), pa.record_batch({"source_id": list(names)})
    uploads.append(upload, "neurons", uuid4(), rows.schema, iter([(0, rows)]))
    return uploads.publish(upload)


def _rows(server: Server) -> list[dict[str, int]]:
    with Keeper(ServerBackend(replace(server, cluster=""))).working(readonly=True) as work:
        found: list[dict[str, int]] = work.read_all(
            "SELECT version, count() AS n FROM syndb.neurons GROUP BY 1 ORDER BY 1"
        ).to_pylist()
        return found


def test_versions_are_found_kept_and_deleted_on_a_machine_that_lags_behind(published: Path) -> None:
    with _machine(published) as server:
        uploads = _started(server)
        assert _rows(server) == [{"version": version, "n": version} for version in (1, 2, 3)]
        assert uploads.delete(WORM, 3) == (3,)
        assert _publish(uploads, "a", "b", "d", "e").version == 4
        assert _rows(server) == [{"version": version, "n": version} for version in (1, 2, 4)]


def test_tables_are_made_and_changed_on_every_machine(published: Path) -> None:
    said = (published / "data.cluster").read_text(encoding="utf-8").splitlines()
    places = [*(f"syndb.{name}" for name in TABLES), "syndb.dataset_versions", "syndb_records.changes"]
    for place in places:
        made = [line for line in said if re.match(rf"CREATE TABLE IF NOT EXISTS {place} ON CLUSTER `c`", line)]
        assert made, place
        assert all(re.search(r"ENGINE = Replicated\w*MergeTree", line) for line in made)
    for start in (
        "CREATE DATABASE IF NOT EXISTS syndb ON CLUSTER `c`",
        r"CREATE TABLE syndb_staging\.\w+ ON CLUSTER `c` AS syndb.neurons",
        "ALTER TABLE syndb.neurons ON CLUSTER `c` REPLACE PARTITION",
        r"DROP TABLE IF EXISTS syndb_staging\.\w+ ON CLUSTER `c` SYNC",
    ):
        assert any(re.match(start, line) for line in said), start
