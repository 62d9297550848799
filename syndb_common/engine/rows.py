"""Rows as they come in, made to fit a table of the data model, or refused with the column and the first offending rows.

Columns are matched by name. The engine itself sets ``dataset_id``, ``version`` and ``cid``; sent ids are checked when
the upload is published. What may be missing may be left out. NaN means missing and becomes NULL. What comes in is
foreign: names may hold anything, and no value is looked at before Arrow has validated it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from syndb_common.errors import DataError, LimitExceeded
from syndb_common.tables.model import Column, Kind, Table

EXAMPLES = 5
"""Offending rows that are shown."""

MAX_WRITTEN_OUT = 96 * 1024**2
"""Bytes of one batch's texts once each row has its own: as dictionaries or views, a few bytes can stand for any number.
"""

_ARROW_TYPES = {
    "String": pa.string(),
    "UInt8": pa.uint8(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
    "Int32": pa.int32(),
    "Float64": pa.float64(),
    "UUID": pa.binary(16),
}
_MADE_HERE = ("dataset_id", "cid")
"""Columns the engine fills when they are not sent."""
_UUID_TEXT = 36
_DASHES = (8, 13, 18, 23)
_DIGITS = np.array([position for position in range(_UUID_TEXT) if position not in _DASHES])
_NO_DIGIT = 255
_VALUES = np.full(256, _NO_DIGIT, dtype=np.uint8)
for _value, _digits in enumerate(zip(b"0123456789abcdef", b"0123456789ABCDEF", strict=True)):
    _VALUES[list(_digits)] = _value


class RowShape:
    """How the columns of one upload stream become those of ``table``.

    Attributes:
        schema: what :meth:`fit` returns.
        sent: names of the columns that come in.
        brings_ids: whether columns are among them that the engine would fill.

    Raises:
        DataError: a column is unknown or of a type that cannot fit, or one that has no default is missing.
    """

    def __init__(self, table: Table, incoming: pa.Schema) -> None:
        self._table = table
        self.sent = tuple(incoming.names)
        self.brings_ids = not set(_MADE_HERE).isdisjoint(self.sent)
        self._check_names()
        self._columns = tuple(self._fitting(field) for field in incoming)
        self.schema = pa.schema([(column.name, _ARROW_TYPES[column.base_type]) for column in self._columns])

    def _check_names(self) -> None:
        known = {column.name for column in self._table.columns}
        if "version" in self.sent:
            raise DataError(f"{self._table.name}: the version is given when publishing; leave out column version")
        if unknown := [name for name in self.sent if name not in known]:
            near = get_close_matches(unknown[0][:100], known, n=3)
            more = f" and {len(unknown) - 1} more" if unknown[1:] else ""
            raise DataError(
                f"{self._table.name}: unknown column {_shown(unknown[0])}{more}",
                hint=f"did you mean {' or '.join(near)}?" if near else f"columns are {', '.join(sorted(known))}",
                offending=unknown[0][:100],
            )
        if twice := [name for name in known if self.sent.count(name) > 1]:
            raise DataError(f"{self._table.name}: column {', '.join(sorted(twice))} occurs twice")
        missing = [c.name for c in self._table.columns if _required(c) and c.name not in self.sent]
        if missing:
            raise DataError(f"{self._table.name}: column {', '.join(missing)} is missing")

    def _fitting(self, field: pa.Field) -> Column:
        column = self._table.column(field.name)
        assert column is not None, "its name was found"
        where = f"{self._table.name}.{column.name}"
        if not _may_hold(column, _plain(field.type)):
            raise DataError(
                f"{where} is {column.type}: the column sent is {_shown(str(field.type))}", offending=column.name
            )
        unit = (field.metadata or {}).get(b"unit", column.unit.encode())
        if unit != column.unit.encode():
            raise DataError(
                f"{where} is in {column.unit or 'no unit'}: the one sent is in {_shown(unit.decode(errors='replace'))}",
                hint="convert the values, or correct the unit in the column's metadata",
                offending=column.name,
            )
        return column

    def fit(self, batch: pa.RecordBatch, first: int = 0) -> pa.RecordBatch:
        """The batch in the table's types; ``first`` is the number of its first row in the stream, counted from 0.

        Raises:
            DataError: a value does not fit its column; the message names column and rows.
            LimitExceeded: the texts are too long together.
        """
        columns = []
        room = MAX_WRITTEN_OUT
        rows = _Rows(self._table, batch, first)
        for column, field, values in zip(self._columns, self.schema, batch.columns, strict=True):
            rows.column = column
            rows.validate(values)
            room -= _written_out(values)
            if room < 0:
                raise LimitExceeded(
                    f"{self._table.name}.{column.name}: the texts of a batch have more than {MAX_WRITTEN_OUT} bytes",
                    hint="send smaller batches",
                )
            if pa.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            fitted = _uuids(values, rows) if column.base_type == "UUID" else _cast(values, field.type, rows)
            columns.append(_checked(column, fitted, rows))
        return pa.record_batch(columns, schema=self.schema)


class _Rows:
    """Says which rows of a batch offend."""

    def __init__(self, table: Table, batch: pa.RecordBatch, first: int) -> None:
        self._table = table
        self._batch = batch
        self._first = first
        self.column: Column = table.columns[0]

    def refuse(self, offending: pa.Array, fault: str) -> None:
        """Raise when any value of ``offending`` (booleans, one for each row) is true.

        Raises:
            DataError: so it is.
        """
        if pc.any(offending).as_py():
            indices = np.flatnonzero(pc.fill_null(offending, False).to_numpy(zero_copy_only=False))
            raise self.error([int(index) for index in indices[:EXAMPLES]], fault, len(indices))

    def error(self, indices: Iterable[int], fault: str, count: int) -> DataError:
        """The error for these rows of the batch; ``count`` rows have the fault."""
        found = list(indices)
        numbers = ", ".join(str(self._first + index + 1) for index in found)
        message = f"{self._table.name}.{self.column.name}: {fault.format(n=count)}; first rows: {numbers}"
        ids = [self._source_id(index) for index in found] if self.column.name != "source_id" else []
        if any(ids):
            message += f" (source ids {', '.join(ids)})"
        return DataError(
            message,
            hint="correct the source and upload again; nothing was published",
            offending=self.column.name,
            rows=[self._first + index + 1 for index in found],
        )

    def _source_id(self, index: int) -> str:
        try:
            value = self._batch.column("source_id")[index]
            value.validate(full=True)
            return _shown(str(value.as_py()))
        except (KeyError, ValueError):
            return ""

    def validate(self, values: pa.Array) -> None:
        """Check what Arrow itself demands of ``values``: offsets inside the data, text that is UTF-8.

        Raises:
            DataError: it is not so.
        """
        try:
            values.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" in str(error):
                wrong = _first_failing(values, lambda part: part.validate(full=True))
                raise self.error(wrong, "text that is not UTF-8", len(wrong)) from None
            where = f"{self._table.name}.{self.column.name}"
            raise DataError(
                f"{where}: the column is damaged, rows {self._first + 1} to {self._first + self._batch.num_rows}: "
                f"{str(error)[:200]}",
                offending=self.column.name,
            ) from None


def _cast(values: pa.Array, wanted: pa.DataType, rows: _Rows) -> pa.Array:
    if values.type == wanted:
        return values
    if pa.types.is_floating(values.type) and pa.types.is_integer(wanted):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    try:
        return values.cast(wanted)
    except pa.ArrowException as error:
        wrong = _first_failing(values, lambda part: part.cast(wanted))
        fault = str(error).splitlines()[0][:200].replace("{", "(").replace("}", ")")
        column = rows.column
        raise rows.error(wrong, f"values do not fit {column.type}: {fault}", len(wrong)) from None


def _first_failing(values: pa.Array, attempt: Any) -> list[int]:
    """Indices of the first values with which ``attempt`` fails, by halving."""
    found: list[int] = []
    open_ranges = [(0, len(values))]
    while open_ranges and len(found) < EXAMPLES:
        start, length = open_ranges.pop()
        try:
            attempt(values.slice(start, length))
        except pa.ArrowException:
            if length == 1:
                found.append(start)
                continue
            half = length // 2
            open_ranges += [(start + half, length - half), (start, half)]
    return found


def _checked(column: Column, values: pa.Array, rows: _Rows) -> pa.Array:
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
        rows.refuse(pc.is_inf(values), "{n} infinite values, which are not measurements")
    if values.null_count and not column.nullable:
        if column.kind in (Kind.ID, Kind.COUNT):
            rows.refuse(pc.is_null(values), "{n} values are missing, and none may be")
        values = pc.fill_null(values, "")
    if column.low is not None:
        unit = f" {column.unit}" if column.unit else ""
        rows.refuse(pc.less(values, pa.scalar(column.low, values.type)), f"{{n}} values are below {column.low:g}{unit}")
    if column.high is not None:
        rows.refuse(pc.greater(values, pa.scalar(column.high, values.type)), f"{{n}} values are above {column.high:g}")
    if column.name == "source_id":
        rows.refuse(pc.equal(values, ""), "{n} rows have no source_id")
    return values


def _uuids(values: pa.Array, rows: _Rows) -> pa.Array:
    """Ids in any form as their 16 bytes: ClickHouse would read some wrong texts as other ids."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_fixed_size_binary(values.type):
        return values
    if pa.types.is_null(values.type):
        return values.cast(pa.binary(16))
    values = values.cast(pa.large_string())
    missing = pc.is_null(values)
    rows.refuse(pc.not_equal(pc.binary_length(values), _UUID_TEXT), "{n} values are not UUIDs")
    present = values.drop_null()
    if not len(present):
        return pa.nulls(len(values), pa.binary(16))
    offsets = np.frombuffer(present.buffers()[1], dtype=np.int64)[present.offset : present.offset + len(present) + 1]
    text = np.frombuffer(present.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]].reshape(-1, _UUID_TEXT)
    digits = _VALUES[text[:, _DIGITS]]
    wrong = (digits == _NO_DIGIT).any(axis=1) | (text[:, _DASHES] != ord("-")).any(axis=1)
    places = np.flatnonzero(~missing.to_numpy(zero_copy_only=False)) if values.null_count else None
    if wrong.any():
        indices = np.flatnonzero(wrong) if places is None else places[wrong]
        raise rows.error([int(i) for i in indices[:EXAMPLES]], "{n} values are not UUIDs", len(indices))
    found = (digits[:, 0::2] << 4) | digits[:, 1::2]
    if places is None:
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(values), [None, pa.py_buffer(found.tobytes())])
    whole = np.zeros((len(values), 16), dtype=np.uint8)
    whole[places] = found
    valid = np.packbits(~missing.to_numpy(zero_copy_only=False), bitorder="little")
    buffers = [pa.py_buffer(valid.tobytes()), pa.py_buffer(whole.tobytes())]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(values), buffers)


def _written_out(values: pa.Array) -> int:
    """Bytes of the texts of a column whose rows may share them, 0 for others. It has been validated."""
    if pa.types.is_string_view(values.type) and len(values):
        views = np.frombuffer(values.buffers()[1], dtype=np.int32, count=4 * (values.offset + len(values)))
        lengths = pa.array(views[4 * values.offset :: 4].astype(np.int64))
        return int(pc.sum(pc.if_else(values.is_valid(), lengths, 0)).as_py() or 0)
    if pa.types.is_dictionary(values.type) and _plain(values.type) in (pa.string(), pa.large_string()):
        lengths = pc.binary_length(values.dictionary).cast(pa.int64())
        return int(pc.sum(lengths.take(values.indices)).as_py() or 0)
    return 0


def _plain(incoming: pa.DataType) -> pa.DataType:
    """The type of the values; Arrow cannot look up the views of a dictionary."""
    looked_up = pa.types.is_dictionary(incoming) and not pa.types.is_string_view(incoming.value_type)
    return incoming.value_type if looked_up else incoming


def _may_hold(column: Column, incoming: pa.DataType) -> bool:
    """Whether values of a type can be values of the column, each on its own merits."""
    text = incoming in (pa.string(), pa.large_string(), pa.string_view())
    number = bool(pa.types.is_integer(incoming) or pa.types.is_floating(incoming))
    if pa.types.is_null(incoming):
        return True
    match column.base_type:
        case "String":
            return text or (column.name == "source_id" and bool(pa.types.is_integer(incoming)))
        case "UUID":
            return text or incoming in (pa.uuid(), pa.binary(16))
        case "Float64":
            return number or bool(pa.types.is_decimal(incoming))
        case "UInt8" if pa.types.is_boolean(incoming):
            return True
        case _:
            return number


def _required(column: Column) -> bool:
    has_default = column.nullable or column.kind in (Kind.CATEGORY, Kind.TEXT)
    return not has_default and column.name not in (*_MADE_HERE, "version")


def _shown(name: str) -> str:
    """Foreign text in a message: bounded, on one line, nothing in it acts on a terminal."""
    short = name[:100]
    return short if short.isprintable() else repr(short)
