"""What a foreign Flight client may send: it fits, or a message names the column and the first rows that do not."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.errors import DataError
from syndb_common.flight.uploads import Publish, PublishResult, Put
from syndb_common.tables.identity import row_id
from tests.syndb_common.flight.uploading import WORM, RawClient, rows, target_of

pytestmark = pytest.mark.slow

NAMES = ["a", "b", "c", "d"]


def _text(kind: pa.DataType, offsets: list[int], data: bytes) -> pa.Array:
    """Text as it came from somewhere; nothing is checked here."""
    width = 8 if kind == pa.large_string() else 4
    packed = b"".join(offset.to_bytes(width, "little", signed=True) for offset in offsets)
    return pa.Array.from_buffers(kind, len(offsets) - 1, [None, pa.py_buffer(packed), pa.py_buffer(data)])


def _longer(count: int) -> pa.Table:
    """A batch that claims many more rows than its buffers hold."""
    honest = pa.RecordBatch.from_pydict({"source_id": pa.array(range(4321)), "soma_x": pa.array([0.5] * 4321)})
    message = honest.serialize().to_pybytes().replace((4321).to_bytes(8, "little"), count.to_bytes(8, "little"))
    return pa.Table.from_batches([pa.ipc.read_record_batch(message, honest.schema)])


def _with(**columns: Any) -> pa.Table:
    return pa.table({"source_id": NAMES, **columns})


REFUSED_AT_ONCE = {
    "an unknown column": (_with(mesh_volum=[1.0] * 4), "unknown column mesh_volum"),
    "quotes and newlines": (_with(**{'"x"\n`; DROP TABLE y; --': NAMES}), "neurons: unknown column '\"x\".*DROP"),
    "ten thousand columns": (_with(**{f"c{n}": NAMES for n in range(9_999)}), "unknown column c0 and 9998 more"),
    "a wrong type": (_with(soma_x=NAMES), r"neurons\.soma_x is Nullable\(Float64\): the column sent is string"),
    "nested lists": (_with(name=[[["x"]]] * 4), r"neurons\.name is String: the column sent is list"),
    "no source ids": (pa.table({"name": NAMES}), "neurons: column source_id is missing"),
    "another unit": (
        pa.table([NAMES, [0.0] * 4], pa.schema(
            [("source_id", pa.string()), pa.field("soma_x", pa.float64(), metadata={"unit": "um\n"})]
        )),
        r"neurons\.soma_x is in nm: the one sent is in 'um\\n'",
    ),
    "infinities": (_with(soma_x=[1.0, float("inf"), 0.0, -float("inf")]), "soma_x: 2 infinite values.*rows: 2, 4"),
    "integers out of range": (_with(branch_count=[1, -1, 2**32, 3]), r"branch_count: .*UInt32.*rows: 2, 3 .*b, c"),
    "a volume below zero": (_with(mesh_volume=[1.0, 1.0, -1.0, 1.0]), r"mesh_volume: 1 values are below 0 nm\^3.*: 3"),
    "text that is not UTF-8": (
        _with(name=_text(pa.string(), [0, 1, 2, 4, 5], b"ab\xff\xfec")), r"name: text that is not UTF-8.*: 3 \(.*c"
    ),
    "offsets beyond the data": (
        _with(name=_text(pa.string(), [0, 90_000, 2, 3, 4], b"abcd")), "name: the column is damaged, rows 1 to 4"
    ),
    "offsets that go back": (
        _with(name=_text(pa.large_string(), [0, 3, 1, 3, 4], b"abcd")), "name: the column is damaged, rows 1 to 4"
    ),
    "indices beyond the dictionary": (
        _with(side=pa.DictionaryArray.from_arrays(pa.array([0, 9, 0, 0]), pa.array(["left"]), safe=False)),
        "side: the column is damaged, rows 1 to 4",
    ),
    "more rows than there are": (_longer(900_000), "the column is damaged, rows 1 to 900000"),
    "ids that are none": (_with(cid=["x", str(uuid4()), "y", None]), "cid: 2 values are not UUIDs; first rows: 1, 3"),
}  # fmt: skip


def _axons(neuron: str) -> pa.Table:
    return pa.table({"source_id": ["x", "y"], "neuron_id": [str(row_id(WORM, "neurons", n)) for n in ("a", neuron)]})


REFUSED_WHEN_PUBLISHED = {
    "no rows at all": ({"neurons": _with().slice(0, 0)}, "the upload holds no rows"),
    "ids twice": ({"neurons": pa.table({"source_id": ["a", "b", "b"]})}, "1 source ids occur more than once: b"),
    "ids of another data set": ({"neurons": _with(cid=[str(uuid4())] * 4)}, "cid: 4 rows have a cid that is not made"),
    "a reference to nothing": (
        {"neurons": _with(), "axons": _axons("nobody")}, "axons.neuron_id: 1 rows .* none of neurons; .*: y"
    ),
    "a table that was never sent": ({"axons": _axons("b")}, "axons.neuron_id: 2 rows .* first source ids: x, y"),
}  # fmt: skip


def _send(client: RawClient, tables: dict[str, pa.Table]) -> PublishResult:
    upload_id = client.begin(*tables)
    for name, table in tables.items():
        if table.num_rows:
            client.put(Put(upload_id=upload_id, table=name, stream=uuid4()), [(0, table)])
    return PublishResult.model_validate_json(client.act(Publish(upload_id=upload_id)))


async def test_rows_of_any_kind_are_refused_by_name_and_the_engine_goes_on(engine: LocalEngine) -> None:
    pid = engine.pid
    refused = {name: ({"neurons": table}, says) for name, (table, says) in REFUSED_AT_ONCE.items()}

    def send_all() -> PublishResult:
        with RawClient(target_of(engine)) as client:
            for name, (tables, says) in (refused | REFUSED_WHEN_PUBLISHED).items():
                try:
                    with pytest.raises(DataError, match=says) as caught:
                        _send(client, tables)
                except BaseException as error:
                    error.add_note(name)
                    raise
                assert "\n" not in caught.value.message
                assert len(caught.value.message) < 1000
            return _send(
                client,
                {
                    "neurons": _with(
                        name=pa.array(["x\ny", '"', "`", "\u00fc"], pa.large_string()),
                        side=pa.array(["left", "right", None, "left"]).dictionary_encode(),
                        soma_x=[1.0, float("nan"), None, 4.0],
                    ),
                    "axons": _axons("b"),
                },
            )

    result = await trio.to_thread.run_sync(send_all)

    assert (result.version, result.row_counts) == (1, {"neurons": 4, "axons": 2})
    assert engine.pid == pid
    assert await rows(engine, "SELECT name, side, soma_x FROM syndb.neurons ORDER BY source_id") == [
        {"name": "x\ny", "side": "left", "soma_x": 1.0},
        {"name": '"', "side": "right", "soma_x": None},
        {"name": "`", "side": "", "soma_x": None},
        {"name": "\u00fc", "side": "left", "soma_x": 4.0},
    ]
    assert await rows(engine, "SELECT name FROM system.tables WHERE database = 'syndb_staging'") == []
