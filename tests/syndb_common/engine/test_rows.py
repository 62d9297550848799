"""Rows from outside fit their table, or a message names the column and the first rows that do not."""

from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syndb_common.engine.rows import RowShape
from syndb_common.errors import DataError, LimitExceeded
from syndb_common.tables.model import TABLES

NAMES = ["a", "b", "c", "d"]


def _fit(table: str = "neurons", first: int = 0, **columns: Any) -> pa.RecordBatch:
    batch = pa.RecordBatch.from_pydict({"source_id": NAMES, **columns})
    return RowShape(TABLES[table], batch.schema).fit(batch, first)


def _text(offsets: list[int], data: bytes, kind: pa.DataType | None = None) -> pa.Array:
    """A column as a foreign program may have written it: nothing is checked here."""
    wide = kind == pa.large_string()
    packed = b"".join(offset.to_bytes(8 if wide else 4, "little", signed=True) for offset in offsets)
    return pa.Array.from_buffers(
        kind or pa.string(), len(offsets) - 1, [None, pa.py_buffer(packed), pa.py_buffer(data)]
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"soma_x": [1.0, float("inf"), 2.0, -float("inf")]}, r"soma_x: 2 infinite .* rows: 2, 4 \(source ids b, d"),
        ({"mesh_volume": [1.0, None, -2.0, 0.0]}, r"mesh_volume: 1 values are below 0 nm\^3; first rows: 3 .*c"),
        ({"gaba": [0.0, 1.0, 1.5, None]}, r"gaba: 1 values are above 1; first rows: 3"),
        ({"is_tree": [0, 1, 2, None]}, "is_tree: 1 values are above 1; first rows: 3"),
        ({"branch_count": [1, -1, 2**32, 3]}, r"branch_count: .*Nullable\(UInt32\).*; first rows: 2, 3"),
        ({"branch_count": [1.0, 2.5, float("nan"), 3.0]}, "branch_count: .*first rows: 2"),
        ({"root_id": [1, -5, 2, 3]}, "root_id: .*first rows: 2"),
        ({"soma_x": [2**53 + 1, 1, 2, 3]}, "soma_x: .*first rows: 1"),
        ({"soma_x": ["1", "2", "3", "4"]}, r"soma_x is Nullable\(Float64\): the column sent is string"),
        ({"name": [1, 2, 3, 4]}, "name is String: the column sent is int64"),
        ({"name": [[1], [2], [3], [4]]}, "name is String: the column sent is list"),
        ({"cid": ["x", str(uuid4()), "0" * 36, None]}, r"cid: 1 values are not UUIDs; first rows: 1"),
        ({"cid": [str(uuid4()), "0" * 36, str(uuid4()), "g" + str(uuid4())[1:]]}, "cid: 2 .* rows: 2, 4"),
        ({"source_id": ["a", "", None, "d"]}, "source_id: 1 values are missing, and none may be; first rows: 3"),
        ({"source_id": ["a", "", "c", ""]}, "source_id: 2 rows have no source_id; first rows: 2, 4"),
        ({"name": _text([0, 1, 2, 4, 5], b"ab\xff\xfec")}, r"name: text that is not UTF-8; .*: 3 \(source ids c\)"),
        ({"name": _text([0, 90_000, 2, 3, 4], b"abcd")}, r"name: the column is damaged, rows 1 to 4"),
        ({"name": _text([0, 1, -9, 3, 4], b"abcd", pa.large_string())}, r"name: the column is damaged"),
        (
            {"side": pa.DictionaryArray.from_arrays(pa.array([0, 9, 0, 0]), pa.array(["left"]), safe=False)},
            "side: the column is damaged",
        ),
        ({"version": [1] * 4}, "leave out column version"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_named_with_their_rows(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _fit(**columns)


@pytest.mark.parametrize("count", [1, 10_000])
def test_unknown_columns_are_counted_and_shown_on_one_line(count: int) -> None:
    names = {'say "hi"\nDROP TABLE `x`': ["x"] * 4} | {f"c{number}": ["x"] * 4 for number in range(1, count)}
    with pytest.raises(DataError) as caught:
        _fit(**names)
    assert "unknown column 'say" in caught.value.message
    assert "\n" not in caught.value.message
    assert (f"and {count - 1} more" in caught.value.message) is (count > 1)
    assert len(caught.value.message) < 300


def test_a_column_that_occurs_twice_is_refused() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array(["a"])] * 2, names=["source_id", "source_id"])
    with pytest.raises(DataError, match="column source_id occurs twice"):
        RowShape(TABLES["neurons"], batch.schema)


def test_rows_are_counted_over_the_whole_stream() -> None:
    with pytest.raises(DataError, match="first rows: 1000002") as caught:
        _fit(first=1_000_000, gaba=[0.0, -1.0, 0.0, 0.0])
    assert caught.value.details == {"offending": "gaba", "rows": [1_000_002]}


def test_at_most_five_offending_rows_are_shown() -> None:
    batch = pa.RecordBatch.from_pydict({"source_id": [str(n) for n in range(99)], "gaba": [2.0] * 99})
    with pytest.raises(DataError, match="99 values are above 1; first rows: 1, 2, 3, 4, 5 "):
        RowShape(TABLES["neurons"], batch.schema).fit(batch)


def test_another_unit_is_refused() -> None:
    field = pa.field("soma_x", pa.float64(), metadata={"unit": "um"})
    with pytest.raises(DataError, match=r"neurons\.soma_x is in nm: the one sent is in um"):
        RowShape(TABLES["neurons"], pa.schema([("source_id", pa.string()), field]))
    RowShape(TABLES["neurons"], pa.schema([("source_id", pa.string()), field.with_metadata({"unit": "nm"})]))


def test_dictionaries_large_text_and_other_numbers_are_cast() -> None:
    fitted = _fit(
        side=pa.array(["left", "right", None, "left"]).dictionary_encode(),
        name=pa.array(["x\ny", "'", "`", "ü"], pa.large_string()),
        soma_x=pa.array([1, 2, 3, None], pa.int16()),
        gaba=pa.array([0.5, None, float("nan"), 1.0], pa.float32()),
        branch_count=pa.array([1.0, 2.0, float("nan"), None]),
        is_tree=[True, False, None, True],
        source_id=pa.array([4, 3, 2, 1]),
    )
    assert fitted.to_pydict() == {
        "source_id": ["4", "3", "2", "1"],
        "side": ["left", "right", "", "left"],
        "name": ["x\ny", "'", "`", "ü"],
        "soma_x": [1.0, 2.0, 3.0, None],
        "gaba": [0.5, None, None, 1.0],
        "branch_count": [1, 2, None, None],
        "is_tree": [1, 0, None, 1],
    }


@given(st.lists(st.none() | st.uuids(), min_size=1), st.integers(0, 3), st.booleans())
def test_ids_in_text_become_their_bytes(ids: list[UUID | None], skipped: int, upper: bool) -> None:
    texts = [None if each is None else (str(each).upper() if upper else str(each)) for each in ids]
    whole = pa.RecordBatch.from_pydict({"source_id": ["x"] * len(ids), "root_id": [1] * len(ids), "neuron_id": texts})
    batch = whole.drop_columns("root_id").slice(min(skipped, len(ids) - 1))
    fitted = RowShape(TABLES["axons"], batch.schema).fit(batch)
    assert fitted["neuron_id"].to_pylist() == [
        None if each is None else each.bytes for each in ids[min(skipped, len(ids) - 1) :]
    ]
    fitted.validate(full=True)


def _large_dictionary(rows: int, length: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), pa.array(["x" * length], pa.large_string()))


def _large_views(rows: int, length: int) -> pa.Array:
    text = b"x" * length
    view = length.to_bytes(4, "little") + text[:4] + bytes(8)
    return pa.Array.from_buffers(pa.string_view(), rows, [None, pa.py_buffer(view * rows), pa.py_buffer(text)])


@pytest.mark.parametrize("large", [_large_dictionary, _large_views])
def test_texts_that_rows_share_are_counted_before_they_are_written_out(large: Any) -> None:
    names = large(20_000, 100_000)
    assert names.nbytes < 2_000_000
    before = pa.total_allocated_bytes()
    batch = pa.RecordBatch.from_pydict({"source_id": [str(number) for number in range(20_000)], "name": names})
    with pytest.raises(LimitExceeded, match="name: the texts of a batch have more than") as caught:
        RowShape(TABLES["neurons"], batch.schema).fit(batch)
    assert "smaller batches" in caught.value.hint
    assert pa.total_allocated_bytes() - before < 10_000_000
    fitted = _fit(name=large(9, 1000).slice(5))
    assert fitted["name"].to_pylist() == ["x" * 1000] * 4
    assert RowShape(TABLES["neurons"], batch.schema).fit(batch.slice(0, 0)).num_rows == 0


def test_a_dictionary_of_views_is_refused() -> None:
    views = pa.DictionaryArray.from_arrays(pa.array([0] * 4), pa.array(["left"]).cast(pa.string_view()))
    with pytest.raises(DataError, match=r"side is .*: the column sent is dictionary"):
        _fit(side=views)
