"""Connections lost in the middle of an upload, to the server or to the client, and uploads dropped in the middle of
their publication: nothing is doubled, no version empty, and none comes that was given up."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import pytest

from syndb_common.engine.backend import Setting
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.owning import bring_tables
from syndb_common.engine.publish import Uploads
from syndb_common.engine.server_backend import ServerBackend, ServerConnection
from syndb_common.engine.settings import Server
from syndb_common.engine.work import Keeper
from syndb_common.errors import Conflict, EngineUnavailable, NotFound, SynDBError
from syndb_common.flight.uploads import Begin
from syndb_common.tables import schema
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.versions import DatasetMetadata
from tests.syndb_common.engine.bridging import bridged

pytestmark = pytest.mark.slow

HANG_SECONDS = 60.0
SECONDS = 1.0
"""Until the server has all of an insert whose connection broke."""
ROWS = pa.record_batch({"source_id": ["a", "b"]})


class Losing(ServerBackend):
    """A server to which the connection breaks in the middle of an insert, which it ends by itself a little later.

    Attributes:
        lose: part of the name of the table; it happens once.
        late: whether the server has it all the same.
        before: told every statement before it is sent, and says what is sent instead.
    """

    lose = ""
    late = True
    before: Callable[[str], str] = staticmethod(lambda sql: sql)

    def connect(self, settings: Mapping[str, Setting], *, seconds: float, session: bool = False) -> ServerConnection:
        connection = super().connect(settings, seconds=seconds, session=session)
        connection.insert = _Broken(self, connection.insert)  # type: ignore[method-assign]
        run, start = connection.run, connection.start
        connection.run = lambda sql: run(self.before(sql))  # type: ignore[method-assign]
        connection.start = lambda sql: start(self.before(sql))  # type: ignore[method-assign]
        return connection


class _Broken:
    def __init__(self, backend: Losing, insert: Any) -> None:
        self._backend = backend
        self._insert = insert

    def __call__(self, target: str, columns: Sequence[str], content: Iterator[bytes]) -> int:
        self._backend.before(f"INSERT INTO {target}")
        if not self._backend.lose or self._backend.lose not in target:
            return int(self._insert(target, columns, content))
        self._backend.lose = ""
        if not self._backend.late:
            raise EngineUnavailable("the server went away")
        pieces = list(content)

        def slowly() -> Iterator[bytes]:
            time.sleep(SECONDS)
            yield from pieces

        threading.Thread(target=self._insert, args=(target, columns, slowly()), daemon=True).start()
        time.sleep(SECONDS / 4)  # the server has begun
        raise EngineUnavailable("the answer was lost")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("lost")
    with bridged(folder) as found:
        bring_tables(LocalEngine(folder / "node", server=found), schema.CURRENT)
        yield found


@pytest.fixture(scope="module")
def backend(server: Server) -> Losing:
    return Losing(server)


@pytest.fixture(scope="module")
def keeper(backend: Losing) -> Keeper:
    return Keeper(backend)


@pytest.fixture(scope="module")
def uploads(keeper: Keeper) -> Uploads:
    found = Uploads(keeper)
    found.recover()
    return found


def _beginning(name: str, *tables: str) -> Begin:
    metadata = DatasetMetadata(dataset=name)
    return Begin(dataset_id=dataset_id(name), metadata=metadata, tables=tables or ("neurons",), key=uuid4())


def _begin(uploads: Uploads, name: str, *tables: str) -> UUID:
    return uploads.begin(_beginning(name, *tables))


def _send(uploads: Uploads, upload: UUID, stream: UUID, table: str = "neurons") -> None:
    uploads.append(upload, table, stream, ROWS.schema, iter([(0, ROWS)]))


def _count(keeper: Keeper, sql: str) -> int:
    with keeper.working(readonly=True) as work:
        return int(work.read_all(sql)["n"][0].as_py())


def _of(name: str, table: str) -> str:
    return f"SELECT count() AS n FROM syndb.{table} WHERE dataset_id = toUUID('{dataset_id(name)}')"


def test_a_version_whose_commit_was_not_answered_is_there_with_its_rows_or_not_at_all(
    uploads: Uploads, keeper: Keeper, backend: Losing
) -> None:
    upload = _begin(uploads, "commit")
    _send(uploads, upload, uuid4())
    backend.lose = "dataset_versions"
    try:
        uploads.publish(upload)
    except EngineUnavailable:
        assert _count(keeper, _of("commit", "dataset_versions")) == 0
    time.sleep(SECONDS)  # whatever is on its way has come
    result = uploads.publish(upload)
    assert (result.version, result.unchanged) == (1, False)
    assert _count(keeper, _of("commit", "dataset_versions")) == 1
    assert _count(keeper, _of("commit", "neurons")) == ROWS.num_rows


def test_a_version_has_no_rows_of_one_that_failed_under_its_number(
    uploads: Uploads, keeper: Keeper, backend: Losing, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = _begin(uploads, "number", "neurons", "axons")
    _send(uploads, failed, uuid4())
    _send(uploads, failed, uuid4(), "axons")
    monkeypatch.setattr(backend, "late", False)
    backend.lose = "dataset_versions"
    with pytest.raises(EngineUnavailable):
        uploads.publish(failed)
    uploads.abort(failed)
    upload = _begin(uploads, "number")
    _send(uploads, upload, uuid4())
    result = uploads.publish(upload)
    assert (result.version, result.row_counts) == (1, {"neurons": ROWS.num_rows})
    assert _count(keeper, _of("number", "neurons")) == ROWS.num_rows
    assert _count(keeper, _of("number", "axons")) == 0


def test_an_upload_that_was_dropped_is_not_committed_afterwards(
    uploads: Uploads, keeper: Keeper, backend: Losing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(tag: str) -> None:
        raise EngineUnavailable("nobody can say")

    upload = _begin(uploads, "dropped")
    _send(uploads, upload, uuid4())
    backend.lose = "dataset_versions"
    with monkeypatch.context() as patched:
        patched.setattr(keeper, "settle", away)
        with pytest.raises(EngineUnavailable):
            uploads.publish(upload)
    uploads.abort(upload)
    time.sleep(SECONDS)  # whatever is on its way has come
    assert _count(keeper, _of("dropped", "dataset_versions")) == 0


def test_an_upload_that_became_a_version_unheard_is_not_dropped_without_a_word(
    uploads: Uploads, keeper: Keeper, backend: Losing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(tag: str) -> None:
        raise EngineUnavailable("nobody can say")

    upload = _begin(uploads, "unheard")
    _send(uploads, upload, uuid4())
    backend.lose = "dataset_versions"
    with monkeypatch.context() as patched:
        patched.setattr(keeper, "settle", away)
        with pytest.raises(EngineUnavailable):
            uploads.publish(upload)
    until = time.monotonic() + HANG_SECONDS
    while not _count(keeper, _of("unheard", "dataset_versions")):
        assert time.monotonic() < until
        time.sleep(0.05)
    with pytest.raises(Conflict, match="has become version 1"):
        uploads.abort(upload)
    uploads.abort(upload)
    assert _count(keeper, _of("unheard", "neurons")) == ROWS.num_rows
    audit = f"SELECT count() AS n FROM syndb_records.changes WHERE dataset_id = toUUID('{dataset_id('unheard')}')"
    assert _count(keeper, audit) == 1


CHECKED = {"checks": "count.. AS n FROM syndb_staging", "digest": "sipHash128"}
PUT_IN_PLACE = {"marks": "DROP COLUMN", "rows": "REPLACE PARTITION", "commit row": "INSERT INTO syndb.dataset_versions"}


@pytest.mark.parametrize("at", [*CHECKED, *PUT_IN_PLACE])
def test_an_upload_dropped_while_it_is_published_is_gone_or_becomes_a_version_and_whoever_drops_it_knows(
    uploads: Uploads, keeper: Keeper, backend: Losing, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    said: list[str] = []
    name = f"at-{at.replace(' ', '-')}"
    upload = _begin(uploads, name)
    _send(uploads, upload, uuid4())

    def drop() -> None:
        try:
            uploads.abort(upload)
            said.append("dropped")
        except Conflict:
            said.append("refused")

    def before(sql: str) -> str:
        if re.search((CHECKED | PUT_IN_PLACE)[at], sql):
            monkeypatch.setattr(backend, "before", lambda sql: sql)
            dropping = threading.Thread(target=drop)
            dropping.start()
            dropping.join(HANG_SECONDS)
        return sql

    monkeypatch.setattr(backend, "before", before)
    if at in CHECKED:
        with pytest.raises(NotFound):
            uploads.publish(upload)
    else:
        assert uploads.publish(upload).version == 1
    assert said == ["dropped" if at in CHECKED else "refused"]
    assert _count(keeper, _of(name, "dataset_versions")) == (at in PUT_IN_PLACE)
    assert _count(keeper, _of(name, "neurons")) == (ROWS.num_rows if at in PUT_IN_PLACE else 0)
    left = f"SELECT count() AS n FROM system.tables WHERE database = 'syndb_staging' AND name LIKE '%{upload.hex}%'"
    assert _count(keeper, left) == 0


def test_dropping_an_upload_ends_the_checks_of_its_rows(
    uploads: Uploads, keeper: Keeper, backend: Losing, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = "SELECT count() AS n FROM system.processes WHERE query LIKE '%uniq' || 'Exact(%'"
    upload = _begin(uploads, "long")
    _send(uploads, upload, uuid4())
    endless = "SELECT uniqExact(number % 2) AS n FROM numbers(1000000000000)"
    monkeypatch.setattr(backend, "before", lambda sql: endless if "uniqExact(cid)" in sql else sql)
    raised: list[SynDBError] = []

    def publish() -> None:
        with pytest.raises(NotFound) as caught:
            uploads.publish(upload)
        raised.append(caught.value)

    publishing = threading.Thread(target=publish)
    publishing.start()
    until = time.monotonic() + HANG_SECONDS
    while not _count(keeper, running):
        assert time.monotonic() < until
        time.sleep(0.05)
    uploads.abort(upload)
    publishing.join(HANG_SECONDS)
    assert len(raised) == 1
    while _count(keeper, running):
        assert time.monotonic() < until + HANG_SECONDS
        time.sleep(0.05)


def test_nobody_goes_on_with_an_upload_while_it_is_being_dropped(
    uploads: Uploads, keeper: Keeper, backend: Losing, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = keeper.settle
    said: list[SynDBError] = []

    def meanwhile(tag: str) -> None:
        monkeypatch.setattr(keeper, "settle", settle)
        for call in (lambda: uploads.publish(upload), lambda: uploads.begin(begin)):
            with pytest.raises(SynDBError) as caught:
                call()
            said.append(caught.value)
        settle(tag)

    def away(tag: str) -> None:
        raise EngineUnavailable("nobody can say")

    monkeypatch.setattr(backend, "late", False)
    begin = _beginning("meanwhile")
    upload = uploads.begin(begin)
    _send(uploads, upload, uuid4())
    backend.lose = "dataset_versions"
    monkeypatch.setattr(keeper, "settle", away)
    with pytest.raises(EngineUnavailable):
        uploads.publish(upload)
    monkeypatch.setattr(keeper, "settle", meanwhile)
    uploads.abort(upload)
    assert [type(error) for error in said] == [NotFound, Conflict]
    assert _count(keeper, _of("meanwhile", "dataset_versions")) == 0


def test_a_batch_that_was_not_answered_is_stored_once(uploads: Uploads, keeper: Keeper, backend: Losing) -> None:
    upload, stream = _begin(uploads, "batch"), uuid4()
    backend.lose = "syndb_staging"
    with pytest.raises(EngineUnavailable):
        _send(uploads, upload, stream)
    said = uploads.status(upload).streams[stream]
    time.sleep(SECONDS)
    assert uploads.status(upload).streams[stream] == said
    _send(uploads, upload, stream)
    assert uploads.publish(upload).row_counts == {"neurons": ROWS.num_rows}


def test_who_has_taken_over_the_last_stream_may_publish_at_once(uploads: Uploads) -> None:
    upload, stream = _begin(uploads, "taken-over"), uuid4()
    stored, silent = threading.Event(), threading.Event()

    def lost_connection() -> Iterator[tuple[int, pa.RecordBatch]]:
        yield 0, ROWS
        silent.wait(60)

    def before() -> None:
        with suppress(Conflict):
            uploads.append(upload, "neurons", stream, ROWS.schema, lost_connection(), lambda seq, rows: stored.set())

    thread = threading.Thread(target=before)
    thread.start()
    assert stored.wait(60)
    assert uploads.append(upload, "neurons", stream, ROWS.schema, iter([])) == ROWS.num_rows
    result = uploads.publish(upload)  # the connection before may not have noticed yet
    assert result.row_counts == {"neurons": ROWS.num_rows}
    silent.set()
    thread.join(60)
