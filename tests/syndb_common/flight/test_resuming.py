"""An upload goes on where it was, whatever died: nothing is lost and nothing doubled."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, UUID, uuid4, uuid5

import pyarrow as pa
import pyarrow.flight as flight
import pytest
import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.engine.published import versions
from syndb_common.errors import Conflict, NotFound, Unavailable
from syndb_common.flight.tls import Certificate, ensure_certificate
from syndb_common.flight.uploader import UploadTarget, upload
from syndb_common.flight.uploads import Abort, Begun, Publish, PublishResult, Put, UploadStatus
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

ALL = "SELECT count() AS n, uniqExact(source_id) AS ids, sum(soma_x) AS x FROM syndb.neurons WHERE version = {}"


@pytest.fixture
async def living(tmp_path: Path) -> AsyncIterator[LocalEngine]:
    async with restarted_engine(tmp_path) as engine:
        yield engine


async def test_streams_are_numbered_resumed_repeated_and_never_have_gaps(living: LocalEngine) -> None:
    first, second = uuid4(), uuid4()
    with RawClient(target_of(living)) as client:
        key = uuid4()
        upload_id = client.begin("neurons", key=key)
        assert client.begin("neurons", key=key) == upload_id
        with pytest.raises(Conflict, match="being uploaded already"):
            client.begin("neurons", key=uuid4())
        put = Put(upload_id=upload_id, table="neurons", stream=first)
        assert client.put(put, [(0, neurons(0, 10)), (1, neurons(10, 5))]) == [(0, 10), (1, 5)]
        # A client that is not sure repeats; what is there already is acknowledged and skipped.
        assert client.put(put, [(1, neurons(10, 5)), (2, neurons(15, 5))]) == [(1, 5), (2, 5)]
        with pytest.raises(Conflict, match="batch 4 came where 3 was due"):
            client.put(put, [(4, neurons(100, 5))])
        assert client.put(put.model_copy(update={"stream": second}), [(0, neurons(20, 7))]) == [(0, 7)]
        before = client.status(upload_id)
        assert (before.state, before.streams, before.rows) == ("open", {first: 3, second: 1}, {"neurons": 27})

    await kill(living)

    with RawClient(target_of(living)) as client:
        assert client.status(upload_id) == before
        assert client.put(put, [(2, neurons(15, 5)), (3, neurons(27, 3))]) == [(2, 5), (3, 3)]
        result = PublishResult.model_validate_json(client.act(Publish(upload_id=upload_id)))
        assert (result.version, result.row_counts) == (1, {"neurons": 30})
    await kill(living)
    with RawClient(target_of(living)) as client:  # the answer may have been lost
        assert PublishResult.model_validate_json(client.act(Publish(upload_id=upload_id))) == result
        assert client.status(upload_id).result == result
    assert await rows(living, ALL.format(1)) == [{"n": 30, "ids": 30, "x": sum(range(30))}]


async def test_a_stream_goes_on_in_the_newest_connection_only(living: LocalEngine) -> None:
    with RawClient(target_of(living)) as client, RawClient(target_of(living)) as other:
        upload_id = client.begin("neurons")
        put = Put(upload_id=upload_id, table="neurons", stream=uuid4())
        writer, answers = client.open(put, neurons(0, 1).schema)
        writer.write_with_metadata(neurons(0, 3).to_batches()[0], b'{"seq": 0}')
        assert await trio.to_thread.run_sync(answers.read) is not None

        assert await trio.to_thread.run_sync(other.put, put, [(1, neurons(3, 3))]) == [(1, 3)]

        with pytest.raises(pa.ArrowException, match="goes on in another connection"):
            await trio.to_thread.run_sync(writer.close)
        other.act(Publish(upload_id=upload_id))
    assert await rows(living, ALL.format(1)) == [{"n": 6, "ids": 6, "x": 15.0}]


class Paused:
    """Rows of which the second batch is held back."""

    schema, num_rows = neurons(0, 1).schema, 30

    def __init__(self, until: threading.Event) -> None:
        self._until = until

    def batches(self, first: int) -> Iterator[pa.RecordBatch]:
        for number in range(first, 3):
            yield neurons(10 * number, 10).to_batches()[0]
            self._until.wait(60)


async def test_an_uploader_leaves_its_upload_to_the_one_that_has_taken_over(living: LocalEngine) -> None:
    target, key = target_of(living), uuid4()
    stored, taken_over, ended = threading.Event(), threading.Event(), threading.Event()

    def older() -> None:
        try:
            rows = {"neurons": Paused(taken_over)}
            with pytest.raises(Conflict, match="goes on in another connection"):
                upload(target, METADATA, WORM, rows, lambda *progress: stored.set(), key=key)
        finally:
            ended.set()

    def younger() -> PublishResult:
        assert stored.wait(60)
        return upload(target, METADATA, WORM, {"neurons": Paused(ended)}, lambda *progress: taken_over.set(), key=key)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, older)
        result = await trio.to_thread.run_sync(younger)
    assert result.row_counts == {"neurons": 30}


async def test_an_upload_that_was_dropped_takes_nothing_and_leaves_nothing(living: LocalEngine) -> None:
    with RawClient(target_of(living)) as client:
        upload_id = client.begin("neurons")
        put = Put(upload_id=upload_id, table="neurons", stream=uuid4())
        client.put(put, [(0, neurons(0, 3))])
        client.act(Abort(upload_id=upload_id))
        with pytest.raises(NotFound):
            client.put(put, [(1, neurons(3, 3))])
        with pytest.raises(NotFound):
            client.status(upload_id)
    await kill(living)
    assert await rows(living, "SELECT name FROM system.tables WHERE database = 'syndb_staging'") == []
    with RawClient(target_of(living)) as client, pytest.raises(NotFound):
        client.status(upload_id)


async def test_many_small_batches_become_few_parts(living: LocalEngine) -> None:
    table = pa.Table.from_batches(neurons(0, 20_000).to_batches(max_chunksize=10))
    seen: list[int] = []

    def look(name: str, done: int, total: int) -> None:
        if done == total:
            seen.append(done)

    await trio.to_thread.run_sync(lambda: upload(target_of(living), METADATA, WORM, {"neurons": table}, look))
    assert seen == [20_000]
    (found,) = await rows(
        living, "SELECT count() AS parts FROM system.parts WHERE database = 'syndb' AND table = 'neurons' AND active"
    )
    assert found["parts"] <= 200
    assert await rows(living, ALL.format(1)) == [{"n": 20_000, "ids": 20_000, "x": sum(range(20_000))}]


class Paced:
    """Rows of which few are on their way at any time, so that a kill finds some that were not sent."""

    schema, num_rows = neurons(0, 1).schema, 400_000
    step = 5_000

    def __init__(self, told: list[int]) -> None:
        self._told = told

    def batches(self, first: int) -> Iterator[pa.RecordBatch]:
        for number in range(first, self.num_rows // self.step):
            until = time.monotonic() + 1.0  # the engine may be gone
            while number - max([first, *self._told[-1:]]) > 4 and time.monotonic() < until:
                time.sleep(0.002)
            yield neurons(self.step * number, self.step).to_batches()[0]


async def test_the_uploader_goes_on_by_itself_when_the_engine_is_killed_again_and_again(
    living: LocalEngine,
) -> None:
    chosen = sorted(random.Random(4).sample(range(10, 70), 3))
    told: list[int] = []

    def at(name: str, done: int, total: int) -> None:
        told.append(done // Paced.step)
        while chosen and told[-1] >= chosen[0]:
            chosen.pop(0)
            trio.from_thread.run(kill, living)

    tables = {"neurons": Paced(told)}
    result = await trio.to_thread.run_sync(lambda: upload(target_of(living), METADATA, WORM, tables, at))

    assert not chosen
    assert told == sorted(set(told))
    assert result.row_counts == {"neurons": 400_000}
    assert await rows(living, ALL.format(1)) == [{"n": 400_000, "ids": 400_000, "x": sum(range(400_000))}]
    whole = {"neurons": neurons(0, 400_000)}
    again = await trio.to_thread.run_sync(lambda: upload(target_of(living), METADATA, WORM, whole))
    assert (again.unchanged, again.content_hash) == (True, result.content_hash)


CLIENT = '''
import sys, time
from uuid import UUID
from syndb_common.flight.uploader import UploadTarget, upload
from tests.syndb_common.flight.uploading import METADATA, WORM, neurons

location, certificate, token, key = sys.argv[1:]

class Slow:
    """Rows that come slowly, so that there is something left when the process is killed."""

    schema, num_rows = neurons(0, 1).schema, 30_000

    def batches(self, first):
        for number in range(first, 30):
            yield neurons(1_000 * number, 1_000).to_batches()[0]
            time.sleep(0.1)

def progress(name, done, total):
    print(done, flush=True)

upload(UploadTarget(location, certificate, token), METADATA, WORM, {"neurons": Slow()}, progress, key=UUID(key))
print("published", flush=True)
'''


async def _client(engine: LocalEngine, key: UUID, kill_at: int | None) -> list[str]:
    """An uploading process, killed once it has told of so many rows; the lines it printed."""
    target = target_of(engine)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", CLIENT, target.location, target.certificate_pem, target.token, str(key)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    said = b""
    with trio.fail_after(120):
        async for data in process.stdout:
            said += data
            lines = said.decode().split("\n")[:-1]
            if kill_at is not None and any(line.isdigit() and int(line) >= kill_at for line in lines):
                process.kill()
        await process.wait()
    return said.decode().split("\n")[:-1]


async def test_a_client_that_was_killed_goes_on_in_another_process(living: LocalEngine) -> None:
    key = uuid4()
    await _client(living, key, 5_000)
    assert await versions(living) == []
    lines = await _client(living, key, None)
    assert lines[-1] == "published"
    assert int(lines[0]) > 5_000
    assert await rows(living, ALL.format(1)) == [{"n": 30_000, "ids": 30_000, "x": sum(range(30_000))}]


class Stuck(flight.FlightServerBase):
    """Has stored five batches, says so, and takes no more."""

    def __init__(self, certificate: Certificate) -> None:
        super().__init__("grpc+tls://127.0.0.1:0", tls_certificates=[(certificate.certificate, certificate.key)])
        self.tried = 0

    def do_action(self, context: Any, action: Any) -> list[bytes]:
        upload_id = uuid5(NAMESPACE_DNS, "stuck")
        if action.type == "status":
            streams = {uuid5(upload_id, "neurons"): 5}
            return [UploadStatus(streams=streams, rows={}, state="open").model_dump_json().encode()]
        return [Begun(upload_id=upload_id).model_dump_json().encode()]

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self.tried += 1
        raise flight.FlightUnavailableError("not now")


def test_an_engine_that_stores_nothing_more_is_given_up(tmp_path: Path) -> None:
    certificate = ensure_certificate(tmp_path)
    with Stuck(certificate) as stuck:
        target = UploadTarget(f"grpc+tls://localhost:{stuck.port}", certificate.certificate, "token")
        with pytest.raises(Unavailable):
            upload(target, METADATA, WORM, {"neurons": neurons(0, 10)}, patience=1.0)
    assert stuck.tried > 1
