"""Names and expressions: sqlglot's tree -> the plan's expressions, or an error that says where and what would fit.

Only the node types handled here exist in SyQL. Whatever else the parser understood is refused by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NoReturn

from sqlglot import exp

from syndb_common.errors import NotSupported, SyQLError, UnknownName
from syndb_common.syql.dialect import render
from syndb_common.syql.kinds import TEXT, Kind, Shape, kind_of_aggregate, kind_of_call, kind_of_column, kind_of_literal
from syndb_common.syql.parse import location
from syndb_common.syql.plan import (
    Aggregate,
    AttributeRef,
    Call,
    ColumnRef,
    Expression,
    Function,
    LiteralValue,
    Operator,
)
from syndb_common.tables import METADATA, Table

MAX_DEPTH = 64
"""Deepest nesting of an expression; chains of AND and OR count once."""

MAX_NODES = 50_000
"""Most operators and operands of a plan. A short text can exceed it by naming a long column again and again."""

AGGREGATES: dict[str, Function] = {
    "count": Function.COUNT,
    "sum": Function.SUM,
    "avg": Function.AVG,
    "mean": Function.AVG,
    "min": Function.MIN,
    "max": Function.MAX,
    **dict.fromkeys(("variance", "var_samp", "varsamp", "varsampstable"), Function.VAR_SAMP),
    **dict.fromkeys(("variance_pop", "var_pop", "varpop", "varpopstable"), Function.VAR_POP),
    **dict.fromkeys(("stddev", "stddev_samp", "stddevsamp", "stddevsampstable"), Function.STDDEV_SAMP),
    **dict.fromkeys(("stddev_pop", "stddevpop", "stddevpopstable"), Function.STDDEV_POP),
}
SCALARS: dict[str, Operator] = {
    "abs": Operator.ABS,
    "sqrt": Operator.SQRT,
    "ln": Operator.LN,
    "log10": Operator.LOG10,
    "round": Operator.ROUND,
    "lower": Operator.LOWER,
    "upper": Operator.UPPER,
    "coalesce": Operator.COALESCE,
}
_BINARY: dict[type[exp.Expr], Operator] = {
    exp.EQ: Operator.EQ,
    exp.NEQ: Operator.NE,
    exp.LT: Operator.LT,
    exp.LTE: Operator.LE,
    exp.GT: Operator.GT,
    exp.GTE: Operator.GE,
    exp.Like: Operator.LIKE,
    exp.ILike: Operator.ILIKE,
    exp.Add: Operator.ADD,
    exp.Sub: Operator.SUB,
    exp.Mul: Operator.MUL,
    exp.Div: Operator.DIV,
}
_CONSTRUCTS = {
    "query": "a query inside IN",
    "Subquery": "a query inside a query",
    "expressions": "a list at this place",
    "DPipe": "||",
    "Mod": "%",
    "Window": "OVER",
    "Placeholder": "a placeholder",
    "Parameter": "a placeholder",
}


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The names most like ``name``, best first."""
    return difflib.get_close_matches(name.lower(), sorted(known), count, cutoff=0.55)


@dataclass(frozen=True, slots=True)
class Resolved:
    """An expression with the kind of its value and the number of its nodes."""

    expression: Expression
    kind: Kind
    size: int = 1


@dataclass(frozen=True, slots=True)
class Resolver:
    """Resolves names against one table of the model.

    Attributes:
        text: the query, to say where something stands.
        table: the table after FROM.
        alias: the name the query gives that table.
        aliases: outputs that may be referred to by name, for ORDER BY and HAVING.
        aliases_first: whether an output's name wins over a column's.
    """

    text: str
    table: Table
    alias: str
    aliases: dict[str, Resolved] = field(default_factory=dict)
    aliases_first: bool = False

    def resolve(self, node: exp.Expr, depth: int = 0) -> Resolved:
        """The plan's expression for a node, checked for names and kinds.

        Raises:
            UnknownName: a column or function does not exist.
            NotSupported: SQL that SyQL does not have.
            SyQLError: an operator does not take its arguments.
        """
        if depth > MAX_DEPTH:
            self.fail(NotSupported, "the expression is nested too deeply", node)
        if isinstance(node, exp.Paren):
            return self.resolve(node.this, depth + 1)
        if isinstance(node, exp.Column):
            return self._column(node)
        if isinstance(node, exp.Literal | exp.Boolean | exp.Null):
            return self._literal(node)
        if isinstance(node, exp.Anonymous):
            return self._function(node, depth)
        return self._operator(node, depth)

    def _operator(self, node: exp.Expr, depth: int) -> Resolved:
        if isinstance(node, exp.And | exp.Or):
            operator = Operator.AND if isinstance(node, exp.And) else Operator.OR
            return self._call(operator, list(node.flatten()), node, depth)
        if isinstance(node, exp.Not):
            return self._call(Operator.NOT, [node.this], node, depth)
        if isinstance(node, exp.Neg):
            inner = node.this
            if isinstance(inner, exp.Literal) and not inner.is_string:
                return self._literal(inner, negative=True)
            return self._call(Operator.NEG, [inner], node, depth)
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            return self._call(Operator.IS_NULL, [node.this], node, depth)
        if isinstance(node, exp.In):
            self.only(node, "this", "expressions")
            return self._call(Operator.IN, [node.this, *node.expressions], node, depth)
        if isinstance(node, exp.Between):
            self.only(node, "this", "low", "high")
            # The tested value is resolved once: doing it for each bound would double the work at every level.
            value, low, high = (self.resolve(node.args[part], depth + 2) for part in ("this", "low", "high"))
            bounds = [
                self._applied(Operator.GE, [value, low], node),
                self._applied(Operator.LE, [value, high], node),
            ]
            return self._applied(Operator.AND, bounds, node)
        operator_of = _BINARY.get(type(node))
        if operator_of is None:
            self.refuse(node)
        self.only(node, "this", "expression", "typed", "safe")
        return self._call(operator_of, [node.this, node.expression], node, depth)

    def _call(self, operator: Operator, nodes: list[exp.Expr], where: exp.Expr, depth: int) -> Resolved:
        resolved = [self.resolve(node, depth + 1) for node in nodes]
        if not resolved:
            self.fail(SyQLError, f"{operator.value.upper()} needs arguments", where)
        if len(resolved) > 10_000:
            self.fail(NotSupported, f"{operator.value.upper()} takes at most 10,000 arguments", where)
        return self._applied(operator, resolved, where)

    def _applied(self, operator: Operator, resolved: list[Resolved], where: exp.Expr) -> Resolved:
        size = 1 + sum(r.size for r in resolved)
        if size > MAX_NODES:
            self.fail(NotSupported, "the expression is too large", where)
        arguments = tuple(r.expression for r in resolved)
        if any(r.kind.shape is Shape.UUID for r in resolved):
            arguments = tuple(_lower(argument) for argument in arguments)
        call = Call(operator=operator, arguments=arguments)
        kind = self._located(where, lambda: kind_of_call(call, [r.kind for r in resolved]))
        return Resolved(call, kind, size)

    def _function(self, node: exp.Anonymous, depth: int) -> Resolved:
        name = str(node.this).lower()
        if name in AGGREGATES:
            return self._aggregate(node, AGGREGATES[name], depth)
        if name in SCALARS:
            return self._call(SCALARS[name], node.expressions, node, depth)
        near = nearest(name, (*AGGREGATES, *SCALARS))
        fits = f"; did you mean `{near[0]}`?" if near else ""
        raise self.error(UnknownName, f"function `{node.this}` is not part of SyQL{fits}", node, str(node.this), near)

    def _aggregate(self, node: exp.Anonymous, function: Function, depth: int) -> Resolved:
        arguments = node.expressions
        if any(isinstance(argument, exp.Distinct) for argument in arguments):
            self.fail(NotSupported, f"{node.this}(DISTINCT ...) is not part of SyQL yet", node)
        if function is Function.COUNT and (not arguments or isinstance(arguments[0], exp.Star)):
            aggregate, argument = Aggregate(function=Function.COUNT_ALL), None
        elif len(arguments) != 1:
            self.fail(SyQLError, f"{node.this} takes one argument", node)
        else:
            if arguments[0].find(exp.Anonymous, bfs=False) and self._has_aggregate(arguments[0]):
                self.fail(SyQLError, "an aggregate cannot stand inside another one", node)
            argument = self.resolve(arguments[0], depth + 1)
            aggregate = Aggregate(function=function, argument=argument.expression)
        kind = self._located(node, lambda: kind_of_aggregate(aggregate, argument.kind if argument else None))
        return Resolved(aggregate, kind, 1 + (argument.size if argument else 0))

    def _has_aggregate(self, node: exp.Expr) -> bool:
        return any(str(found.this).lower() in AGGREGATES for found in node.find_all(exp.Anonymous))

    def _column(self, node: exp.Column) -> Resolved:
        self.only(node, "this", "table")
        if not isinstance(node.this, exp.Identifier):
            self.fail(NotSupported, "`*` stands alone in SELECT or inside COUNT(*)", node)
        name, qualifier = node.name, node.table
        if qualifier.lower() == "dataset":
            if name.lower() not in METADATA:
                raise self._unknown(node, METADATA, "metadata of a data set")
            return Resolved(AttributeRef(name=name.lower()), TEXT)
        if qualifier and qualifier.lower() not in (self.alias.lower(), self.table.name):
            self.fail(UnknownName, f"`{qualifier}` is not the table of this query, which is `{self.table.name}`", node)
        alias = self.aliases.get(name.lower()) if not qualifier else None
        if alias is not None and self.aliases_first:
            return alias
        column = self.table.column(name) or self.table.column(name.lower())
        if column is not None:
            return Resolved(ColumnRef(name=column.name), kind_of_column(column))
        if alias is not None:
            return alias
        if not qualifier and name.lower() in METADATA:
            return Resolved(AttributeRef(name=name.lower()), TEXT)
        known = {column.name for column in self.table.columns} | set(self.aliases)
        raise self._unknown(node, known if qualifier else known | set(METADATA), f"column of `{self.table.name}`")

    def _unknown(self, node: exp.Column, known: Iterable[str], what: str) -> SyQLError:
        near = nearest(node.name, known)
        fits = f"; did you mean `{near[0]}`?" if near else ""
        hint = "" if near else f"a {what} is one of: {', '.join(sorted(known))}"
        return self.error(UnknownName, f"unknown column `{node.name}`{fits}", node, node.name, near, hint=hint)

    def _literal(self, node: exp.Expr, negative: bool = False) -> Resolved:
        value: bool | int | float | str | None
        if isinstance(node, exp.Null):
            value = None
        elif isinstance(node, exp.Boolean):
            value = bool(node.this)
        elif node.is_string:
            value = str(node.this)
            if len(value) > 10_000 or any("\ud800" <= character <= "\udfff" for character in value):
                self.fail(NotSupported, "a string is valid Unicode of at most 10,000 characters", node)
        else:
            value = self._number(node)
            value = -value if negative else value
        literal = LiteralValue(value=value)
        return Resolved(literal, self._located(node, lambda: kind_of_literal(literal)))

    def _number(self, node: exp.Expr) -> int | float:
        text = str(node.this)
        if text.isascii() and text.isdigit() and len(text) <= 30:
            return int(text)
        try:
            value = float(text)
        except ValueError:
            value = float("inf")
        if value in (float("inf"), float("-inf")):
            self.fail(SyQLError, f"`{text[:40]}` is not a number SyQL can hold", node)
        return value

    def _located(self, node: exp.Expr, work: Callable[[], Kind]) -> Kind:
        try:
            return work()
        except SyQLError as error:
            self.fail(type(error), error.message, node, hint=error.hint)

    def only(self, node: exp.Expr, *allowed: str) -> None:
        """Refuse a node that carries anything but the allowed parts."""
        for part, value in node.args.items():
            if value and part not in allowed:
                self.refuse(value if isinstance(value, exp.Expr) else node, part)

    def refuse(self, node: exp.Expr, what: str = "") -> NoReturn:
        """Say that a construct is not part of SyQL."""
        key = what.strip("_") or type(node).__name__
        name = _CONSTRUCTS.get(key) or key.replace("_", " ").upper()
        self.fail(NotSupported, f"{name} is not part of SyQL", node)

    def fail(
        self, kind: type[SyQLError], message: str, node: exp.Expr, offending: str = "", hint: str = ""
    ) -> NoReturn:
        """Raise :meth:`error`."""
        raise self.error(kind, message, node, offending, hint=hint)

    def error(
        self,
        kind: type[SyQLError],
        message: str,
        node: exp.Expr,
        offending: str = "",
        near: list[str] | None = None,
        hint: str = "",
    ) -> SyQLError:
        """An error located at a node: ``details`` carry ``line``, ``column``, ``offending`` and ``nearest``."""
        starts = [found.meta["start"] for found in node.walk() if "start" in found.meta]
        line, column = location(self.text, min(starts, default=0))
        return kind(
            f"{message} (line {line}, column {column})",
            hint=hint,
            line=line,
            column=column,
            offending=(offending or render(node))[:200],
            nearest=near or [],
        )


def _lower(argument: Expression) -> Expression:
    """An id as ids are written, so that it compares as text too."""
    if isinstance(argument, LiteralValue) and isinstance(argument.value, str):
        return LiteralValue(value=argument.value.lower())
    return argument
