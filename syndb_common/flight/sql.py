"""The part of Flight SQL that a client needs to run a statement and fetch its rows. The statement is SyQL.

Commands are protobuf messages inside ``google.protobuf.Any``; of these two are understood, both of which carry a single
field: ``CommandStatementQuery`` (1: the text) and ``CommandGetSqlInfo`` (1: numbers of what is asked).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

import pyarrow as pa

from syndb_common.errors import InvalidRequest, NotSupported

_PREFIX = b"type.googleapis.com/arrow.flight.protocol.sql."

MAX_FIELDS = 1000
"""Fields of a command; clients send one or two."""

MAX_INFO_BYTES = 4096
"""Size of ``CommandGetSqlInfo``: a few hundred numbers."""

_NAME, _VERSION, _ARROW_VERSION, _READ_ONLY, _SQL, _SUBSTRAIT, _TRANSACTION, _CANCEL = 0, 1, 2, 3, 4, 5, 8, 9
_NO_TRANSACTIONS = 0


@dataclass(frozen=True, slots=True)
class Statement:
    """``CommandStatementQuery``: run this."""

    text: str


@dataclass(frozen=True, slots=True)
class SqlInfo:
    """``CommandGetSqlInfo``: what the server is; without numbers, everything."""

    numbers: frozenset[int]

    def table(self) -> pa.Table:
        """What is asked and known, as Flight SQL wants it."""
        known: dict[int, str | bool | int] = {
            _NAME: "SynDB",
            _VERSION: version("syndb"),
            _ARROW_VERSION: pa.__version__,
            _READ_ONLY: True,
            _SQL: True,
            _SUBSTRAIT: False,
            _TRANSACTION: _NO_TRANSACTIONS,
            _CANCEL: False,
        }
        asked = {number: value for number, value in known.items() if not self.numbers or number in self.numbers}
        texts = [value for value in asked.values() if isinstance(value, str)]
        flags = [value for value in asked.values() if isinstance(value, bool)]
        levels = [value for value in asked.values() if type(value) is int]
        children = [
            pa.array(texts, pa.string()),
            pa.array(flags, pa.bool_()),
            pa.array([], pa.int64()),
            pa.array(levels, pa.int32()),
            pa.array([], pa.list_(pa.string())),
            pa.array([], pa.map_(pa.int32(), pa.list_(pa.int32()))),
        ]
        kinds = [0 if isinstance(value, str) else 1 if isinstance(value, bool) else 3 for value in asked.values()]
        offsets = [kinds[:index].count(kind) for index, kind in enumerate(kinds)]
        values = pa.UnionArray.from_dense(
            pa.array(kinds, pa.int8()), pa.array(offsets, pa.int32()), children, list(_VALUE_NAMES)
        )
        return pa.Table.from_arrays([pa.array(asked, pa.uint32()), values], schema=SQL_INFO_SCHEMA)


_VALUE_NAMES = (
    "string_value",
    "bool_value",
    "bigint_value",
    "int32_bitmask",
    "string_list",
    "int32_to_int32_list_map",
)

SQL_INFO_SCHEMA = pa.schema(
    [
        pa.field("info_name", pa.uint32(), nullable=False),
        pa.field(
            "value",
            pa.dense_union(
                [
                    pa.field(name, kind)
                    for name, kind in zip(
                        _VALUE_NAMES,
                        (
                            pa.string(),
                            pa.bool_(),
                            pa.int64(),
                            pa.int32(),
                            pa.list_(pa.string()),
                            pa.map_(pa.int32(), pa.list_(pa.int32())),
                        ),
                        strict=True,
                    )
                ]
            ),
            nullable=False,
        ),
    ]
)


def is_command(content: bytes) -> bool:
    """Whether this is a command of Flight SQL, damaged or not; as cheap as can be."""
    return _PREFIX in content[: len(_PREFIX) + 3]


def parse(command: bytes) -> Statement | SqlInfo | None:
    """The Flight SQL command in a descriptor or a ticket; None when it is none of Flight SQL at all.

    Raises:
        NotSupported: one that this server does not have.
        InvalidRequest: it is damaged.
    """
    if not is_command(command):
        return None
    kind = content = b""
    for number, value in _fields(command):
        if number == 1 and isinstance(value, bytes):
            kind = value.removeprefix(_PREFIX)
        elif number == 2 and isinstance(value, bytes):
            content = value
    fields = [value for number, value in _fields(content) if number == 1]
    match kind:
        case b"CommandStatementQuery":
            if not fields or not isinstance(fields[0], bytes):
                raise InvalidRequest("a statement without text")
            return Statement(text(fields[0]))
        case b"CommandGetSqlInfo":
            if len(content) > MAX_INFO_BYTES:
                raise InvalidRequest(f"CommandGetSqlInfo of more than {MAX_INFO_BYTES} bytes")
            packed = [_varints(value) if isinstance(value, bytes) else [value] for value in fields]
            return SqlInfo(frozenset(number for numbers in packed for number in numbers))
        case _:
            raise NotSupported(
                f"Flight SQL's {kind[:60].decode('ascii', 'replace')} is not understood here",
                hint="run a SyQL statement without parameters",
            )


def text(content: bytes) -> str:
    """Text of a client.

    Raises:
        InvalidRequest: it is not UTF-8.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the query is not UTF-8 text: byte {error.start} is wrong") from None


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Field numbers and contents of a protobuf message."""
    at = 0
    for _ in range(MAX_FIELDS):
        if at >= len(message):
            return
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                value, at = _varint(message, at)
                yield tag >> 3, value
            case 2:
                length, at = _varint(message, at)
                if at + length > len(message):
                    raise InvalidRequest("a damaged Flight SQL command")
                yield tag >> 3, message[at : at + length]
                at += length
            case 1:
                at += 8
            case 5:
                at += 4
            case _:
                raise InvalidRequest("a damaged Flight SQL command")
    raise InvalidRequest(f"a Flight SQL command of {MAX_FIELDS} fields and more")


def _varints(packed: bytes) -> list[int]:
    found, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        found.append(value)
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(message):
            break
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return value, at
    raise InvalidRequest("a damaged Flight SQL command")
