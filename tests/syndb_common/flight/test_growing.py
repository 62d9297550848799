"""Rows that are handed out while they come: all of them, or an error, and nothing goes on for a client that left."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from syndb_common.errors import Cancelled, IncompleteResult, SynDBError, TooManyRequests, Unavailable
from syndb_common.flight import growing
from syndb_common.flight.growing import Growing

SCHEMA = pa.schema([("n", pa.int64())])
LONG = 60.0


class Daemon:
    """Stands for a hub's daemon that writes the rows of one query."""

    def __init__(self, folder: Path, *, limit: int | None = None) -> None:
        self.path = folder / "result.part"
        self.limit = limit
        self.taken: list[int | None] = []
        self.busy = False
        self.left = False
        self._writer = pa.ipc.new_file(pa.PythonFile(self.path.open("wb", buffering=0), "w"), SCHEMA)
        self._ended = threading.Event()
        self._outcome: int | SynDBError = 0

    def write(self, *numbers: int) -> None:
        """The next batch."""
        self._writer.write_batch(pa.record_batch([list(numbers)], schema=SCHEMA))

    def end(self, outcome: int | SynDBError) -> None:
        """The query has ended, with so many rows or an error."""
        if not isinstance(outcome, SynDBError):
            self._writer.close()
        self._outcome = outcome
        self._ended.set()

    def ask(self, what: str, seconds: float, *, gone: Callable[[], bool] = bool, **facts: Any) -> dict[str, Any]:
        if what == "taken":
            if self.busy:
                raise TooManyRequests("the daemon is asked too much")
            self.taken.append(facts["batches"])
            return self._begun()
        while not self._ended.wait(0.01):
            if gone():
                self.left = True
                raise Cancelled("the client left")
        if isinstance(self._outcome, SynDBError):
            raise self._outcome
        return {**self._begun(), "rows": self._outcome}

    def _begun(self) -> dict[str, Any]:
        schema = base64.b64encode(SCHEMA.serialize()).decode()
        return {"path": str(self.path), "schema": schema, "limit": self.limit, "about": {"job_id": "1"}}


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


def begun(daemon: Daemon) -> Growing:
    rows = Growing(daemon.ask, LONG)
    assert rows.begin(bool) == {"job_id": "1"}
    assert rows.schema == SCHEMA
    return rows


def numbers(batches: list[pa.RecordBatch]) -> list[int]:
    return [number for batch in batches for number in batch.column(0).to_pylist()]


def until(condition: Callable[[], bool]) -> None:
    assert any(condition() or threading.Event().wait(0.01) for _ in range(int(LONG * 100)))


def test_rows_are_read_as_they_are_written_and_the_daemon_is_told_how_many_were_taken(daemon: Daemon) -> None:
    reading = begun(daemon).read()
    assert daemon.taken == [None, 0]
    daemon.write(1, 2)
    assert numbers([next(reading)]) == [1, 2]
    late = threading.Timer(0.1, daemon.write, args=(3,))
    late.start()
    assert numbers([next(reading)]) == [3]
    late.join()
    assert daemon.taken[-1] == 1
    daemon.end(3)
    assert list(reading) == []


def test_a_daemon_that_has_no_time_is_told_again(daemon: Daemon) -> None:
    reading = begun(daemon).read()
    daemon.write(1)
    next(reading)
    daemon.busy = True
    waiting = threading.Thread(target=lambda: list(reading))
    waiting.start()
    waiting.join(0.1)
    daemon.busy = False
    until(lambda: daemon.taken[-1] == 1)
    daemon.end(1)
    waiting.join(LONG)
    assert not waiting.is_alive()


def test_a_query_without_rows_has_its_columns_and_an_end(daemon: Daemon) -> None:
    daemon.path.unlink()
    daemon.end(0)
    assert list(begun(daemon).read()) == []


def test_no_more_than_the_limit_is_handed_out_and_the_rest_is_let_through(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, limit=3)
    reading = begun(daemon).read()
    daemon.write(1, 2)
    daemon.write(3, 4)
    assert numbers([next(reading), next(reading)]) == [1, 2, 3]

    def end() -> None:
        until(lambda: daemon.taken[-1] == -1)
        daemon.end(3)

    ending = threading.Thread(target=end)
    ending.start()
    assert list(reading) == []
    ending.join(LONG)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Unavailable("not every node answered"), Unavailable),
        (Cancelled("the query was cancelled"), IncompleteResult),
        (5, IncompleteResult),
    ],
)
def test_what_is_not_complete_ends_with_an_error_after_whatever_was_taken(
    daemon: Daemon, outcome: int | SynDBError, expected: type[SynDBError]
) -> None:
    reading = begun(daemon).read()
    daemon.write(1)
    next(reading)
    daemon.end(outcome)
    with pytest.raises(expected):
        list(reading)


def test_a_query_ends_when_its_client_leaves_while_no_rows_come(daemon: Daemon) -> None:
    rows = begun(daemon)
    rows.left = lambda: True
    with pytest.raises(Cancelled):
        list(rows.read())
    rows.end()
    until(lambda: daemon.left)


def test_a_query_ends_that_nobody_claims_in_time(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "OFFER_SECONDS", 0.05)
    begun(daemon)
    until(lambda: daemon.left)
