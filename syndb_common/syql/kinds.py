"""What kind of value an expression has: the one place that says which operator takes what.

Integers carry the range they can reach, so that arithmetic is compiled to a ClickHouse type in which it cannot
wrap, and a sum is exact. The planner uses this to tell a person what does not fit, the compiler to refuse a plan
that did not come from our planner.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from syndb_common.errors import NotSupported, SyQLError
from syndb_common.syql.like import ends_in_escape
from syndb_common.syql.plan import Aggregate, Call, Expression, Function, LiteralValue, Operator
from syndb_common.tables import Column

WIDEST = 2**250
"""Integers stay inside ClickHouse's Int256; an expression that could leave it is refused."""
_UNSIGNED_64, _SIGNED_64 = 2**64 - 1, 2**63


class Shape(StrEnum):
    """Kinds of values."""

    INTEGER = "integer"
    FLOAT = "float"
    TEXT = "text"
    UUID = "uuid"
    BOOLEAN = "boolean"
    NULL = "null"


@dataclass(frozen=True, slots=True)
class Kind:
    """Kind of a value: its shape, the range of an integer, and whether computing with it makes sense."""

    shape: Shape
    low: int = 0
    high: int = 0
    measure: bool = True

    @property
    def numeric(self) -> bool:
        """An integer or a float."""
        return self.shape in (Shape.INTEGER, Shape.FLOAT)

    @property
    def reach(self) -> int:
        """Largest absolute value of an integer."""
        return max(abs(self.low), abs(self.high))


FLOAT, TEXT, BOOLEAN = Kind(Shape.FLOAT), Kind(Shape.TEXT), Kind(Shape.BOOLEAN)
ROWS = Kind(Shape.INTEGER, 0, _SIGNED_64 - 1)
_COMPARISONS = (Operator.EQ, Operator.NE, Operator.LT, Operator.LE, Operator.GT, Operator.GE, Operator.IN)
_ARITHMETIC = (Operator.ADD, Operator.SUB, Operator.MUL, Operator.DIV, Operator.NEG, Operator.ABS)
_MATHEMATICS = (Operator.SQRT, Operator.LN, Operator.LOG10)
_ARITY: dict[Operator, tuple[int, int]] = {
    Operator.AND: (2, 10_000),
    Operator.OR: (2, 10_000),
    Operator.IN: (2, 10_000),
    Operator.COALESCE: (2, 100),
    Operator.ROUND: (1, 2),
    **dict.fromkeys(
        (Operator.NOT, Operator.IS_NULL, Operator.NEG, Operator.ABS, *_MATHEMATICS, Operator.LOWER, Operator.UPPER),
        (1, 1),
    ),
}


def kind_of_column(column: Column) -> Kind:
    """Kind of a table's column."""
    base = column.base_type
    if base == "UUID":
        return Kind(Shape.UUID, measure=False)
    if base == "String":
        return Kind(Shape.TEXT, measure=False)
    if base.startswith("Float"):
        return replace(FLOAT, measure=column.numeric)
    bits = int(base.removeprefix("U").removeprefix("Int"))
    low, high = (0, 2**bits - 1) if base.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return Kind(Shape.INTEGER, low, high, column.numeric)


def kind_of_literal(literal: LiteralValue) -> Kind:
    """Kind of a constant."""
    value = literal.value
    if value is None:
        return Kind(Shape.NULL)
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int):
        if not -_SIGNED_64 <= value <= _UNSIGNED_64:
            raise NotSupported(
                f"the number {str(value)[:40]} does not fit 64 bits", hint="write it with a decimal point"
            )
        return Kind(Shape.INTEGER, value, value)
    return FLOAT if isinstance(value, float) else TEXT


def kind_of_call(call: Call, kinds: list[Kind]) -> Kind:
    """Kind of an operator's result, given its arguments' kinds.

    Raises:
        SyQLError: the operator does not take these arguments.
    """
    operator = call.operator
    least, most = _ARITY.get(operator, (2, 2))
    if not least <= len(kinds) <= most:
        raise SyQLError(f"{_name(operator)} takes {least if least == most else f'{least} to {most}'} arguments")
    if operator in (Operator.AND, Operator.OR, Operator.NOT):
        _need(operator, kinds, (Shape.BOOLEAN,), "conditions")
        return BOOLEAN
    if operator is Operator.IS_NULL:
        return BOOLEAN
    if operator in _COMPARISONS:
        _comparable(operator, call.arguments, kinds)
        return BOOLEAN
    if operator in (Operator.LIKE, Operator.ILIKE):
        _need(operator, kinds, (Shape.TEXT,), "text")
        pattern = call.arguments[1]
        if not isinstance(pattern, LiteralValue):
            raise NotSupported(f"{_name(operator)} needs a constant pattern")
        if ends_in_escape(str(pattern.value)):
            raise SyQLError("the pattern ends in a backslash that escapes nothing", hint="write two for one backslash")
        return BOOLEAN
    if operator in (Operator.LOWER, Operator.UPPER):
        _need(operator, kinds, (Shape.TEXT,), "text")
        return TEXT
    if operator is Operator.COALESCE:
        return _common(operator, kinds)
    return _number(operator, call.arguments, kinds)


def kind_of_aggregate(aggregate: Aggregate, argument: Kind | None) -> Kind:
    """Kind of an aggregate's result.

    Raises:
        SyQLError: the aggregate does not take this argument.
    """
    function, name = aggregate.function, _name(aggregate.function)
    if (function is Function.COUNT_ALL) != (argument is None):
        raise SyQLError(f"{name} does not take this number of arguments")
    if argument is None or function is Function.COUNT:
        return ROWS
    if argument.shape in (Shape.NULL, Shape.BOOLEAN):
        raise SyQLError(f"{name} cannot take a {argument.shape}")
    if function in (Function.MIN, Function.MAX):
        return argument
    if not argument.numeric or not argument.measure:
        raise SyQLError(
            f"{name} needs a measurement; a {_describe(argument)} has no sum or mean",
            hint="COUNT, MIN and MAX take any column",
        )
    if function is not Function.SUM or argument.shape is Shape.FLOAT:
        return FLOAT
    return (
        Kind(Shape.INTEGER, 0, _UNSIGNED_64) if argument.low >= 0 else Kind(Shape.INTEGER, -_SIGNED_64, _SIGNED_64 - 1)
    )


def _number(operator: Operator, arguments: tuple[Expression, ...], kinds: list[Kind]) -> Kind:
    _need(operator, kinds, (Shape.INTEGER, Shape.FLOAT), "numbers")
    if any(not kind.measure for kind in kinds):
        raise SyQLError(f"{_name(operator)} needs measurements, not ids or categories")
    if operator in _MATHEMATICS or operator is Operator.DIV:
        return FLOAT
    if operator is Operator.ROUND:
        return _rounded(arguments, kinds)
    if any(kind.shape is Shape.FLOAT for kind in kinds):
        return FLOAT
    first, last = kinds[0], kinds[-1]
    corners = {
        Operator.ADD: (first.low + last.low, first.high + last.high),
        Operator.SUB: (first.low - last.high, first.high - last.low),
        Operator.MUL: tuple(a * b for a in (first.low, first.high) for b in (last.low, last.high)),
        Operator.NEG: (-first.high, -first.low),
        Operator.ABS: (0 if first.low <= 0 <= first.high else min(abs(first.low), abs(first.high)), first.reach),
    }[operator]
    result = Kind(Shape.INTEGER, min(corners), max(corners))
    if result.reach > WIDEST:
        raise NotSupported("these integers could overflow", hint="write one of the numbers with a decimal point")
    return result


def _rounded(arguments: tuple[Expression, ...], kinds: list[Kind]) -> Kind:
    if len(arguments) == 2:
        digits = arguments[1]
        if not isinstance(digits, LiteralValue) or type(digits.value) is not int or not -15 <= digits.value <= 15:
            raise SyQLError("ROUND takes a constant number of digits between -15 and 15")
    first = kinds[0]
    margin = 10**15 if len(arguments) == 2 else 0
    return first if first.shape is Shape.FLOAT else replace(first, low=first.low - margin, high=first.high + margin)


def _comparable(operator: Operator, arguments: tuple[Expression, ...], kinds: list[Kind]) -> None:
    first = kinds[0]
    for argument, kind in zip(arguments, kinds, strict=True):
        if kind.shape is Shape.NULL:
            raise SyQLError("nothing equals NULL", hint="write IS NULL or IS NOT NULL")
        if operator is Operator.IN and argument is not arguments[0] and not isinstance(argument, LiteralValue):
            raise NotSupported("IN takes a list of constants")
    for argument, kind in zip(arguments[1:], kinds[1:], strict=True):
        if kind.shape == first.shape or (kind.numeric and first.numeric):
            continue
        if {kind.shape, first.shape} == {Shape.UUID, Shape.TEXT}:
            text = argument if kind.shape is Shape.TEXT else arguments[0]
            if isinstance(text, LiteralValue) and is_uuid(text.value):
                continue
            value = f"{text.value!r} is" if isinstance(text, LiteralValue) else "other text is"
            raise SyQLError(f"an id is compared with a UUID; {value[:80]} not one")
        raise SyQLError(f"a {_describe(first)} and a {_describe(kind)} cannot be compared")


def is_uuid(value: object) -> bool:
    """Whether a constant is a UUID in its usual notation."""
    try:
        return isinstance(value, str) and str(UUID(value)) == value.lower()
    except ValueError:
        return False


def _common(operator: Operator, kinds: list[Kind]) -> Kind:
    known = [kind for kind in kinds if kind.shape is not Shape.NULL]
    if not known:
        raise SyQLError(f"{_name(operator)} of nothing but NULL")
    if all(kind.shape is Shape.INTEGER for kind in known):
        measure = all(kind.measure for kind in known)
        return Kind(Shape.INTEGER, min(k.low for k in known), max(k.high for k in known), measure)
    if all(kind.numeric for kind in known):
        return replace(FLOAT, measure=all(kind.measure for kind in known))
    if any(kind.shape is not known[0].shape for kind in known) or known[0].shape is Shape.UUID:
        raise SyQLError(f"{_name(operator)} needs arguments of one kind, numbers or text")
    return known[0]


def _need(operator: Operator, kinds: list[Kind], shapes: tuple[Shape, ...], what: str) -> None:
    for kind in kinds:
        if kind.shape not in shapes:
            raise SyQLError(f"{_name(operator)} needs {what}, not a {_describe(kind)}")


def _describe(kind: Kind) -> str:
    if kind.numeric:
        return "number" if kind.measure else "category or id"
    return {Shape.TEXT: "text", Shape.UUID: "id", Shape.BOOLEAN: "condition"}.get(kind.shape, "NULL")


def _name(operator: Operator | Function) -> str:
    return operator.value.replace("count_all", "count(*)").replace("is_null", "is null").upper()
