"""Parts that came inside answers: what a node may have packed into one costs its own part, and no memory."""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa
import pytest
import trio

from actors.analytics_delegate import to_ipc
from syndb_common.errors import IncompleteResult
from syndb_common.syql import parse, partial_schema, plan
from syndb_hub.federation.gathering import Whole
from syndb_hub.federation.taking import damage, take, unpack
from tests.actors.federation_parts import published

TEXT = plan(parse("SELECT synapse_type FROM synapses"), [published("worm")])
HONEST = pa.table([pa.array(["xxx"] * 1237).cast(each.type) for each in partial_schema(TEXT)], partial_schema(TEXT))
CLAIMED = 10**9
"""Rows, which would take offsets of 4 GB."""


def _as_written(table: pa.Table, metadata: dict[str, str] | None = None, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in table.to_batches():
            writer.write_batch(batch, custom_metadata=metadata)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _claiming(rows: int) -> bytes:
    """A part whose headers say that it has so many rows."""
    content = to_ipc(HONEST)
    body = content.index(b"xxxxxxxx") - 4 * (HONEST.num_rows + 1)
    lengths = struct.pack("<q", HONEST.num_rows)
    assert content.count(lengths, 0, body) >= 2
    return content[:body].replace(lengths, struct.pack("<q", rows)) + content[body:]


def test_what_nodes_send_is_taken_as_it_is() -> None:
    assert unpack(to_ipc(HONEST)).equals(HONEST)


@pytest.mark.parametrize(
    "packed",
    [
        _as_written(HONEST, compression="zstd"),
        _as_written(HONEST, {"ARROW:experimental_compression": "zstd"}, metadata_version=pa.ipc.MetadataVersion.V4),
        _as_written(HONEST, metadata_version=pa.ipc.MetadataVersion.V4),
        _as_written(HONEST, {"any": "thing"}),
        _as_written(pa.table({"a": pa.array(["x", "y"]).dictionary_encode()})),
    ],
    ids=["compressed", "compressed as once it was", "of an earlier version", "with metadata", "a dictionary"],
)
def test_what_may_become_more_than_it_is_is_refused_before_it_does(packed: bytes) -> None:
    with pytest.raises(IncompleteResult, match="packed in a way nodes do not use"):
        unpack(packed)


async def test_rows_that_are_not_there_are_refused_and_not_looked_for() -> None:
    with pytest.raises(IncompleteResult, match="cannot be used: a part of the answer is malformed"), damage():
        await take(Whole(TEXT), unpack(_claiming(CLAIMED)), trio.CapacityLimiter(1))
