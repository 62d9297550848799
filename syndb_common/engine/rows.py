"""Rows as they come in, made to fit a table of the data model, or refused with the reason.

Columns are matched by name. The engine itself sets ``dataset_id``, ``version`` and ``cid``; sent ids are checked when
the upload is published. What may be missing may be left out. NaN means missing and becomes NULL.
"""

from __future__ import annotations

from difflib import get_close_matches

import pyarrow as pa
import pyarrow.compute as pc

from syndb_common.errors import DataError
from syndb_common.tables.model import Column, Kind, Table

_ARROW_TYPES = {
    "String": pa.string(),
    "UInt8": pa.uint8(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
    "Int32": pa.int32(),
    "Float64": pa.float64(),
}
_MADE_HERE = ("dataset_id", "cid")
"""Columns the engine fills when they are not sent."""


class RowShape:
    """How the columns of one upload stream become those of ``table``.

    Attributes:
        schema: what :meth:`fit` returns.

    Raises:
        DataError: a column is unknown, or one that has no default is missing.
    """

    def __init__(self, table: Table, incoming: pa.Schema) -> None:
        self._table = table
        names = incoming.names
        if len(set(names)) != len(names):
            raise DataError(f"{table.name}: a column name occurs twice")
        self._columns = tuple(self._known(name) for name in names)
        missing = [c.name for c in table.columns if _required(c) and c.name not in names]
        if missing:
            raise DataError(f"{table.name}: column {', '.join(missing)} is missing")
        fields = []
        for column, field in zip(self._columns, incoming, strict=True):
            fields.append(pa.field(column.name, _target(column, field.type)))
        self.schema = pa.schema(fields)

    def _known(self, name: str) -> Column:
        column = self._table.column(name)
        if name == "version":
            raise DataError(f"{self._table.name}: the version is given when publishing; leave out column version")
        if column is None:
            near = get_close_matches(name, [c.name for c in self._table.columns], n=3)
            raise DataError(
                f"{self._table.name}: unknown column {name[:100]}",
                hint=f"did you mean {' or '.join(near)}?" if near else "",
                offending=name[:100],
            )
        return column

    def fit(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch in the table's types.

        Raises:
            DataError: a value does not fit its column; the message names both.
        """
        columns = []
        for column, field, values in zip(self._columns, self.schema, batch.columns, strict=True):
            try:
                fitted = values if values.type == field.type else values.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                raise DataError(f"{self._table.name}.{column.name} is {column.type}: {str(error)[:200]}") from None
            columns.append(self._checked(column, fitted))
        return pa.record_batch(columns, schema=self.schema)

    def _checked(self, column: Column, values: pa.Array) -> pa.Array:
        where = f"{self._table.name}.{column.name}"
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
            if pc.any(pc.is_inf(values)).as_py():
                raise DataError(f"{where}: infinite values are not measurements")
        if values.null_count and not column.nullable and column.kind in (Kind.ID, Kind.COUNT):
            raise DataError(f"{where}: {values.null_count} values are missing, and none may be")
        return values


def _required(column: Column) -> bool:
    has_default = column.nullable or column.kind in (Kind.CATEGORY, Kind.TEXT)
    return not has_default and column.name not in (*_MADE_HERE, "version")


def _target(column: Column, incoming: pa.DataType) -> pa.DataType:
    if column.base_type != "UUID":
        return _ARROW_TYPES[column.base_type]
    if incoming in (pa.uuid(), pa.binary(16)):
        return incoming
    return pa.string()  # ClickHouse reads UUIDs from text
