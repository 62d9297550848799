"""Batches gather in groups until they are stored, and hold no more memory than all streams together may."""

import time
from collections.abc import Iterator

import pyarrow as pa

from syndb_common.engine.groups import Budget, Gathering
from syndb_common.engine.rows import RowShape
from syndb_common.tables.model import TABLES

BATCH = pa.record_batch({"source_id": ["x" * 1000] * 1000})
BUDGET = 20 * BATCH.nbytes
STREAMS = 8


class Client:
    """Sends as many batches as it may."""

    def __init__(self, budget: Budget) -> None:
        self.sent = 0
        shape = RowShape(TABLES["neurons"], BATCH.schema)
        self.groups = Gathering(self._batches(), shape, 0, 0, budget).groups(lambda: None)

    def _batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        while True:
            self.sent += 1
            yield self.sent - 1, BATCH


def _settled(clients: list[Client]) -> int:
    """The batches that all have sent, once no more come."""
    before, since = -1, time.monotonic()
    while (sent := sum(client.sent for client in clients)) != before or time.monotonic() - since < 0.3:
        before, since = sent, since if sent == before else time.monotonic()
        time.sleep(0.02)
    return before


def test_streams_share_what_is_held_and_each_gets_on() -> None:
    budget = Budget(BUDGET)
    clients = [Client(budget) for _ in range(STREAMS)]
    groups = [next(client.groups) for client in clients]
    most = 20 + STREAMS * 2  # one of each beyond the budget, and one of each that waits to be let in
    assert _settled(clients) <= most

    stored = [sum(item.rows for item in group) for group in groups]
    for _ in range(3):
        groups = [next(client.groups) for client in clients]
        stored = [before + sum(item.rows for item in group) for before, group in zip(stored, groups, strict=True)]
    assert min(stored) >= 4000
    assert _settled(clients) * 1000 <= sum(stored) + most * 1000

    for client in clients[1:]:
        client.groups.close()
    assert _settled(clients[:1]) >= 20  # what the others held is free


def test_a_batch_larger_than_all_may_hold_comes_alone() -> None:
    groups = Client(Budget(BATCH.nbytes // 2)).groups
    assert [len(next(groups)) for _ in range(3)] == [1, 1, 1]
    groups.close()
