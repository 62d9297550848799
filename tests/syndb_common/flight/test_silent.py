"""A client that has fallen silent in the middle of its streams: the engine takes back what it held, and lives on."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import pytest

from syndb_common.flight.uploader import UploadTarget
from syndb_common.flight.uploads import Abort, Publish, PublishResult, Put
from tests.syndb_common.flight.served import Served, served
from tests.syndb_common.flight.uploading import RawClient, neurons

pytestmark = pytest.mark.slow

STREAMS = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("silent")) as found:
        yield found


@pytest.fixture
def clients(server: Served) -> Iterator[tuple[RawClient, RawClient]]:
    """Two connections."""
    target = UploadTarget(server.location, server.certificate, server.owner)
    with RawClient(target) as first, RawClient(target) as second:
        yield first, second


class Silent:
    """Streams of one upload, each with one batch that is durable, and silent since."""

    def __init__(self, client: RawClient, upload_id: UUID) -> None:
        self.puts = [Put(upload_id=upload_id, table="neurons", stream=uuid4()) for _ in range(STREAMS)]
        self._open: list[tuple[Any, Any]] = []
        for number, put in enumerate(self.puts):
            batch = neurons(number, 1)
            writer, answers = client.open(put, batch.schema)
            writer.write_with_metadata(batch.to_batches()[0], b'{"seq": 0}')
            assert answers.read() is not None
            self._open.append((writer, answers))

    def last_words(self) -> list[str]:
        """What each stream is told in the end, which comes without a word from the client."""
        return [answers.read().to_pybytes().decode() for _, answers in self._open]

    def close(self) -> list[str]:
        """End the streams; how each of them failed."""
        failures = []
        for writer, _ in self._open:
            with pytest.raises(pa.ArrowException) as caught:
                writer.close()
            failures.append(str(caught.value))
        return failures


def _alive(server: Served) -> int | None:
    assert server.call(server.engine.query, "SELECT 1 AS one").table.num_rows == 1
    return server.engine.pid


def test_an_upload_is_dropped_under_a_silent_client(server: Served, clients: tuple[RawClient, RawClient]) -> None:
    (client, other), pid = clients, server.engine.pid
    upload_id = client.begin("neurons")
    silent = Silent(client, upload_id)
    other.act(Abort(upload_id=upload_id))
    assert all("does not exist any more" in text for text in [*silent.last_words(), *silent.close()])
    assert _alive(server) == pid


def test_streams_are_taken_over_from_a_silent_client(server: Served, clients: tuple[RawClient, RawClient]) -> None:
    (client, other), pid = clients, server.engine.pid
    upload_id = client.begin("neurons")
    silent = Silent(client, upload_id)
    for number, put in enumerate(silent.puts):
        assert other.put(put, [(1, neurons(STREAMS + number, 1))]) == [(1, 1)]
    assert all("goes on in another connection" in text for text in [*silent.last_words(), *silent.close()])
    result = PublishResult.model_validate_json(other.act(Publish(upload_id=upload_id)))
    assert result.row_counts == {"neurons": 2 * STREAMS}
    assert _alive(server) == pid
