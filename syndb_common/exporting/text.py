"""Values as text: ids in their usual notation, bytes in hexadecimal digits, nested values as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_DIGITS = np.array([list(f"{byte:02x}".encode()) for byte in range(256)], np.uint8)
_GROUPS = ((0, 0, 8), (9, 8, 12), (14, 12, 16), (19, 16, 20), (24, 20, 32))
"""Where each group of digits goes in a UUID's text, and which digits it has."""
_LENGTH = 36


def textual(schema: pa.Schema, *, nested: bool) -> pa.Schema:
    """The schema of what :func:`as_text` gives."""
    return pa.schema([pa.field(field.name, _textual_type(field.type, nested=nested)) for field in schema])


def as_text(batch: pa.RecordBatch, *, nested: bool) -> pa.RecordBatch:
    """The batch with ids and bytes as text, dictionaries decoded and, if so told, nested values as JSON."""
    columns = [_column(column, nested=nested) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=textual(batch.schema, nested=nested))


def decoded(schema: pa.Schema) -> pa.Schema:
    """The schema of what :func:`decode` gives."""
    return pa.schema([field.with_type(_decoded_type(field.type)) for field in schema], schema.metadata)


def decode(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without dictionaries: the file format of Arrow has room for one dictionary per column only."""
    if not any(pa.types.is_dictionary(field.type) for field in batch.schema):
        return batch
    columns = [_decode(column) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=decoded(batch.schema))


def uuid_text(ids: pa.Array) -> pa.Array:
    """Sixteen-byte ids as text, a million in a fraction of a second."""
    count = len(ids)
    if count == 0:
        return pa.array([], pa.string())
    start = ids.offset * 16
    raw = np.frombuffer(ids.buffers()[1], np.uint8)[start : start + count * 16].reshape(count, 16)
    digits = _DIGITS[raw].reshape(count, 32)
    letters = np.full((count, _LENGTH), ord("-"), np.uint8)
    for at, first, last in _GROUPS:
        letters[:, at : at + last - first] = digits[:, first:last]
    offsets = np.arange(0, (count + 1) * _LENGTH, _LENGTH, dtype=np.int32)
    present = pc.is_valid(ids).buffers()[1] if ids.null_count else None
    return pa.Array.from_buffers(
        pa.string(), count, [present, pa.py_buffer(offsets), pa.py_buffer(letters)], ids.null_count
    )


def _textual_type(kind: pa.DataType, *, nested: bool) -> pa.DataType:
    kind = _decoded_type(kind)
    if kind == pa.uuid() or _is_bytes(kind) or (nested and pa.types.is_nested(kind)):
        return pa.string()
    return kind


def _column(column: pa.Array, *, nested: bool) -> pa.Array:
    column = _decode(column)
    if column.type == pa.uuid():
        return uuid_text(column.storage)
    if column.type == pa.binary(16):
        return uuid_text(column)
    if _is_bytes(column.type):
        return _each(column, bytes.hex)
    if nested and pa.types.is_nested(column.type):
        return _each(column, lambda value: json.dumps(value, default=str))
    return column


def _each(column: pa.Array, convert: Callable[[Any], str]) -> pa.Array:
    return pa.array([None if value is None else convert(value) for value in column.to_pylist()], pa.string())


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _decoded_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _decode(column: pa.Array) -> pa.Array:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
