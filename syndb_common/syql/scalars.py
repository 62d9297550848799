"""Scalar expressions of a plan -> ClickHouse, with the kind of each value.

Integer arithmetic is computed in a type wide enough for every result, so nothing wraps. Constants become literals
of sqlglot's tree; its generator escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlglot import exp

from syndb_common.errors import SyQLError
from syndb_common.syql.kinds import (
    TEXT,
    Kind,
    Shape,
    kind_of_call,
    kind_of_column,
    kind_of_literal,
)
from syndb_common.syql.partials import integer_type
from syndb_common.syql.plan import AttributeRef, Call, ColumnRef, Expression, LiteralValue, Operator, PlannedDataset
from syndb_common.tables import Table

_FUNCTIONS: dict[Operator, str] = {
    Operator.AND: "and",
    Operator.OR: "or",
    Operator.NOT: "not",
    Operator.EQ: "equals",
    Operator.NE: "notEquals",
    Operator.LT: "less",
    Operator.LE: "lessOrEquals",
    Operator.GT: "greater",
    Operator.GE: "greaterOrEquals",
    Operator.LIKE: "like",
    Operator.ILIKE: "ilike",
    Operator.IS_NULL: "isNull",
    Operator.ADD: "plus",
    Operator.SUB: "minus",
    Operator.MUL: "multiply",
    Operator.NEG: "negate",
    Operator.ABS: "abs",
    Operator.SQRT: "sqrt",
    Operator.LN: "log",
    Operator.LOG10: "log10",
    Operator.ROUND: "round",
    Operator.LOWER: "lowerUTF8",
    Operator.UPPER: "upperUTF8",
    Operator.COALESCE: "coalesce",
}
_ARITHMETIC = (Operator.ADD, Operator.SUB, Operator.MUL, Operator.NEG, Operator.ABS, Operator.ROUND)
_ORDERED = (Operator.LT, Operator.LE, Operator.GT, Operator.GE)
_COMPARISONS = (Operator.EQ, Operator.NE, Operator.IN, *_ORDERED)


@dataclass(frozen=True, slots=True)
class Compiled:
    """SQL of a value and the value's kind."""

    sql: exp.Expr
    kind: Kind

    def transported(self) -> exp.Expr:
        """The value in the type it has in Arrow: ids and categories as text, integers in 64 bits or less."""
        match self.kind.shape:
            case Shape.INTEGER:
                name = integer_type(self.kind)
                if self.kind.reach >= 2**64:
                    return call("accurateCast", self.sql, text(f"Nullable({name})"))
                return call(f"to{name}", self.sql)
            case Shape.FLOAT:
                return call("toFloat64", self.sql)
            case Shape.BOOLEAN:
                return call("CAST", self.sql, text("Nullable(Bool)"))
            case Shape.NULL:
                return call("CAST", self.sql, text("Nullable(String)"))
            case _:
                return call("toString", self.sql)


Leaf = Callable[[Expression], Compiled | None]


def call(name: str, *arguments: exp.Expr) -> exp.Expr:
    """A ClickHouse function call."""
    return exp.Anonymous(this=name, expressions=list(arguments))


def text(value: str) -> exp.Expr:
    """A string constant."""
    return exp.Literal.string(value)


def number(value: float) -> exp.Expr:
    """A numeric constant."""
    return exp.Literal.number(repr(value))


def column(name: str) -> exp.Expr:
    """A column, quoted."""
    return exp.column(name, quoted=True)


def uuids(values: Iterable[UUID]) -> str:
    """UUID constants, separated by commas."""
    return ", ".join(f"toUUID('{value}')" for value in values)


def compile_scalar(expression: Expression, leaf: Leaf) -> Compiled:
    """SQL and kind of an expression; ``leaf`` gives those of columns and of whatever was computed before.

    Raises:
        SyQLError: something in it is unknown here or of the wrong kind.
    """
    known = leaf(expression)
    if known is not None:
        return known
    if isinstance(expression, LiteralValue):
        return Compiled(_literal(expression.value), kind_of_literal(expression))
    if not isinstance(expression, Call):
        raise SyQLError(f"a {expression.kind} cannot stand here")
    arguments = [compile_scalar(argument, leaf) for argument in expression.arguments]
    kind = kind_of_call(expression, [argument.kind for argument in arguments])
    return Compiled(_operation(expression, arguments, kind), kind)


def row_leaf(table: Table, datasets: tuple[PlannedDataset, ...], dataset_id: str = "dataset_id") -> Leaf:
    """Leaves of expressions over rows: columns of the table, and metadata looked up by the data set's id."""

    def leaf(expression: Expression) -> Compiled | None:
        if isinstance(expression, ColumnRef):
            found = table.column(expression.name)
            return None if found is None else Compiled(column(found.name), kind_of_column(found))
        if isinstance(expression, AttributeRef):
            return Compiled(_attribute(expression.name, datasets, dataset_id), TEXT)
        return None

    return leaf


def _attribute(name: str, datasets: tuple[PlannedDataset, ...], dataset_id: str) -> exp.Expr:
    if not datasets:
        return text("")
    # Written once as text, since a tree of two nodes per data set costs far more than all the rest of compiling.
    values = ", ".join(text(dataset.attributes[name]).sql(dialect="clickhouse") for dataset in datasets)
    ids, found = exp.var(f"[{uuids(dataset.dataset_id for dataset in datasets)}]"), exp.var(f"[{values}]")
    return call("transform", column(dataset_id), ids, found, text(""))


def _literal(value: bool | int | float | str | None) -> exp.Expr:
    if value is None:
        return exp.Null()
    if isinstance(value, bool):
        return exp.Boolean(this=value)
    if isinstance(value, str):
        return text(value)
    return number(value)


def _operation(expression: Call, arguments: list[Compiled], kind: Kind) -> exp.Expr:
    operator = expression.operator
    if operator is Operator.DIV:
        dividend, divisor = (call("toFloat64", argument.sql) for argument in arguments)
        return call("divide", dividend, call("nullIf", divisor, number(0.0)))
    if operator in _COMPARISONS:
        operands = _comparable(arguments, ordered=operator in _ORDERED)
        if operator is Operator.IN:
            return exp.Paren(this=exp.In(this=exp.Paren(this=operands[0]), expressions=operands[1:]))
        return call(_FUNCTIONS[operator], *operands)
    operands = [argument.sql for argument in arguments]
    if operator in _ARITHMETIC or operator is Operator.COALESCE:
        values = 1 if operator is Operator.ROUND else len(operands)
        operands = [_widened(a, kind, arguments) for a in arguments[:values]] + operands[values:]
    return call(_FUNCTIONS[operator], *operands)


def _widened(argument: Compiled, kind: Kind, beside: list[Compiled]) -> exp.Expr:
    """An operand in the type the operation is computed in."""
    if kind.shape is Shape.FLOAT:
        return call("toFloat64", argument.sql)
    if kind.shape is Shape.INTEGER:
        return call(_wide_integer(max(kind.reach, *(a.kind.reach for a in beside), 0)), argument.sql)
    return call("toString", argument.sql) if kind.shape is Shape.TEXT else argument.sql


def _wide_integer(reach: int) -> str:
    return "toInt64" if reach < 2**63 else "toInt128" if reach < 2**127 else "toInt256"


def _comparable(arguments: list[Compiled], *, ordered: bool) -> list[exp.Expr]:
    shapes = {argument.kind.shape for argument in arguments}
    if Shape.UUID in shapes and ordered:
        # ClickHouse orders UUIDs by their second half first; ORDER BY, MIN and MAX see them as text.
        return [call("lower" if a.kind.shape is Shape.TEXT else "toString", a.sql) for a in arguments]
    if Shape.UUID in shapes:
        return [call("toUUID", a.sql) if a.kind.shape is Shape.TEXT else a.sql for a in arguments]
    if any(argument.kind.reach >= 2**64 for argument in arguments):
        cast = "toFloat64" if Shape.FLOAT in shapes else "toInt256"
        return [call(cast, argument.sql) for argument in arguments]
    return [argument.sql for argument in arguments]
