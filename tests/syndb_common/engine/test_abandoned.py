"""Uploads that nobody goes on with are dropped after their time, by a clock that only goes forward."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from uuid import UUID, uuid4

import pyarrow as pa
import pytest

from syndb_common.engine import lock, records
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.owning import bring_tables
from syndb_common.engine.publish import ABANDONED_SECONDS, LEASE_SECONDS, Uploads
from syndb_common.engine.server_backend import ServerBackend
from syndb_common.engine.work import Keeper
from syndb_common.errors import Conflict, NotFound
from syndb_common.flight.uploads import Begin
from syndb_common.tables import schema
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.versions import DatasetMetadata
from tests.syndb_common.engine.bridging import bridged

pytestmark = pytest.mark.slow

BATCH = pa.RecordBatch.from_pydict({"source_id": ["a", "b"]})
LONG = timedelta(days=4000)


class Clocks:
    """Seconds since some moment, and the time of day, each as the test wants it."""

    seconds = 1000.0
    step = timedelta()

    def now(self, zone: tzinfo) -> datetime:
        """Stands for ``datetime.now``."""
        return datetime.now(zone) + self.step


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    folder = tmp_path_factory.mktemp("clickhouse")
    bring_tables(LocalEngine(folder), schema.CURRENT)
    with bridged(folder / lock.FOLDER) as server:
        backend = ServerBackend(server)
        keeper = Keeper(backend)
        yield keeper
        backend.close()


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(records, "datetime", clocks)
    return clocks


def _started(keeper: Keeper, clocks: Clocks) -> Uploads:
    uploads = Uploads(keeper, lambda: clocks.seconds)
    uploads.recover()
    return uploads


def _begin(uploads: Uploads, name: str) -> UUID:
    begin = Begin(dataset_id=dataset_id(name), metadata=DatasetMetadata(dataset=name), tables=("neurons",))
    return uploads.begin(begin)


def test_an_upload_is_dropped_once_nobody_has_touched_it_for_its_time(keeper: Keeper, clocks: Clocks) -> None:
    uploads = _started(keeper, clocks)
    upload_id = _begin(uploads, "worm")

    def slow() -> Iterator[tuple[int, pa.RecordBatch]]:
        yield 0, BATCH
        clocks.seconds += 2 * ABANDONED_SECONDS  # a stream that goes on is not abandoned
        uploads.drop_abandoned()

    uploads.append(upload_id, "neurons", uuid4(), BATCH.schema, slow())
    clocks.seconds += ABANDONED_SECONDS - 1
    uploads.drop_abandoned()
    assert uploads.status(upload_id).rows == {"neurons": 2}
    clocks.seconds += ABANDONED_SECONDS + 1
    uploads.drop_abandoned()
    with pytest.raises(NotFound):
        uploads.status(upload_id)
    with keeper.working() as work:
        left = work.read_all("SELECT name FROM system.tables WHERE database = 'syndb_staging'")
    assert left.num_rows == 0


def test_another_client_takes_over_only_when_the_first_is_silent(keeper: Keeper, clocks: Clocks) -> None:
    uploads = _started(keeper, clocks)
    first = _begin(uploads, "fly")
    clocks.seconds += LEASE_SECONDS - 1
    with pytest.raises(Conflict, match="being uploaded already"):
        _begin(uploads, "fly")
    clocks.seconds += 2
    second = _begin(uploads, "fly")
    with pytest.raises(NotFound):
        uploads.status(first)
    uploads.abort(second)


@pytest.mark.parametrize("step", [LONG, -LONG], ids=["forward", "back"])
def test_a_step_of_the_time_of_day_loses_and_drops_nothing(keeper: Keeper, clocks: Clocks, step: timedelta) -> None:
    uploads = _started(keeper, clocks)
    upload_id, stream = _begin(uploads, "mouse"), uuid4()
    clocks.step = step
    uploads.append(upload_id, "neurons", stream, BATCH.schema, [(0, BATCH)])
    uploads.drop_abandoned()
    clocks.seconds = 5.0  # since the machine was started, which has happened anew
    uploads = _started(keeper, clocks)
    uploads.drop_abandoned()

    before = uploads.status(upload_id)
    result = uploads.publish(upload_id)

    assert (before.streams, before.rows) == ({stream: 1}, {"neurons": 2})
    assert result.row_counts == {"neurons": 2}
    clocks.step = timedelta()
    assert _started(keeper, clocks).status(upload_id).result == result
    uploads.delete(dataset_id("mouse"), None)
