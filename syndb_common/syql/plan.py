"""The typed plan: the only form in which a question travels between daemons.

A plan is a tree of frozen pydantic models with a closed set of operators and functions. It names the data-set
versions it reads, carries the metadata values it needs, and nothing in it is SQL text. Every receiver validates
it again and compiles it to SQL itself (:mod:`syndb_common.syql.clickhouse`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

PLAN_PROTOCOL = 1
"""Version of the plan language; a node refuses plans of a protocol it does not know."""


class Scope(StrEnum):
    """Whose data a query reads: the hub's own, the nodes', or both."""

    LOCAL = "local"
    REMOTE = "remote"
    FEDERATION = "federation"


class Operator(StrEnum):
    """Scalar operators and functions a plan may use; everything else is refused before sending."""

    AND = "and"
    OR = "or"
    NOT = "not"
    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    IN = "in"
    LIKE = "like"
    ILIKE = "ilike"
    IS_NULL = "is_null"
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    NEG = "neg"
    ABS = "abs"
    SQRT = "sqrt"
    LN = "ln"
    LOG10 = "log10"
    ROUND = "round"
    LOWER = "lower"
    UPPER = "upper"
    COALESCE = "coalesce"


class Function(StrEnum):
    """Aggregates; all of them merge exactly from partial results (floating sums up to rounding)."""

    COUNT_ALL = "count_all"
    COUNT = "count"
    SUM = "sum"
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    VAR_POP = "var_pop"
    VAR_SAMP = "var_samp"
    STDDEV_POP = "stddev_pop"
    STDDEV_SAMP = "stddev_samp"


class _Node(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ColumnRef(_Node):
    """A column of the plan's table."""

    kind: Literal["column"] = "column"
    name: str = Field(max_length=100)


class AttributeRef(_Node):
    """Metadata of the data set a row belongs to; the values travel in :class:`PlannedDataset`."""

    kind: Literal["attribute"] = "attribute"
    name: str = Field(max_length=100)


class LiteralValue(_Node):
    """A constant. UUIDs are strings; the compiler casts by the column they meet."""

    kind: Literal["literal"] = "literal"
    value: bool | int | float | Annotated[str, Field(max_length=10_000)] | None


class Call(_Node):
    """A scalar operator applied to arguments. ``IN`` takes the tested value first, then the alternatives."""

    kind: Literal["call"] = "call"
    operator: Operator
    arguments: tuple[Expression, ...] = Field(min_length=1, max_length=10_000)


class Aggregate(_Node):
    """An aggregate over the rows of a group; ``argument`` is None for COUNT(*) only."""

    kind: Literal["aggregate"] = "aggregate"
    function: Function
    argument: Expression | None = None


Expression = Annotated[
    ColumnRef | AttributeRef | LiteralValue | Call | Aggregate,
    Field(discriminator="kind"),
]

Call.model_rebuild()
Aggregate.model_rebuild()


class Output(_Node):
    """One column of the result."""

    name: str = Field(max_length=200)
    expression: Expression


class Order(_Node):
    """One key of ORDER BY. NULLs sort last in both directions, as in ClickHouse."""

    expression: Expression
    descending: bool = False


class PlannedDataset(_Node):
    """One data-set version the plan reads, with the metadata values the plan refers to."""

    dataset_id: UUID
    version: int = Field(ge=1, le=2**32 - 1)
    attributes: dict[str, str] = Field(default_factory=dict, max_length=32)


class Plan(_Node):
    """A checked question: one table, the data-set versions to read, and what to compute.

    When the plan aggregates, ``group_by`` are its keys and every output, order key and ``having`` is made of keys,
    aggregates and constants. ``minimum_schema`` is the lowest schema version that has the table and the columns it
    uses; a node below it is not asked. ``careful`` asks a node for its part again, with a second pass over the rows and
    every variance to full precision: the hub sets it when a first part says that digits were lost
    (:func:`syndb_common.syql.partials.needs_care`).
    """

    protocol: int = PLAN_PROTOCOL
    table: str = Field(max_length=100)
    datasets: tuple[PlannedDataset, ...] = Field(max_length=10_000)
    outputs: tuple[Output, ...] = Field(min_length=1, max_length=500)
    where: Expression | None = None
    group_by: tuple[Expression, ...] = Field(default=(), max_length=50)
    having: Expression | None = None
    order_by: tuple[Order, ...] = Field(default=(), max_length=50)
    limit: int | None = Field(default=None, ge=0, le=2**53)
    offset: int = Field(default=0, ge=0, le=2**53)
    minimum_schema: int = Field(default=1, ge=1)
    careful: bool = False

    @property
    def aggregates(self) -> tuple[Aggregate, ...]:
        """The distinct aggregates of outputs, HAVING and order keys, in order of first use."""
        found: dict[str, Aggregate] = {}
        for expression in self.results():
            for node in walk(expression):
                if isinstance(node, Aggregate):
                    found.setdefault(fingerprint(node), node)
        return tuple(found.values())

    @property
    def is_aggregate(self) -> bool:
        """Whether groups are computed rather than rows returned."""
        return bool(self.group_by) or bool(self.aggregates)

    @property
    def operators(self) -> frozenset[str]:
        """Names of all operators and functions the plan needs; nodes announce those they know."""
        names: set[str] = set()
        for expression in self.expressions():
            for node in walk(expression):
                if isinstance(node, Call):
                    names.add(node.operator.value)
                elif isinstance(node, Aggregate):
                    names.add(node.function.value)
        return frozenset(names)

    @property
    def hash(self) -> str:
        """SHA-256 of the plan's canonical JSON: the same question of the same versions has the same hash."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def results(self) -> Iterator[Expression]:
        """The expressions evaluated after grouping: outputs, order keys, HAVING."""
        yield from (output.expression for output in self.outputs)
        yield from (order.expression for order in self.order_by)
        if self.having is not None:
            yield self.having

    def expressions(self) -> Iterator[Expression]:
        """Every expression of the plan, outermost only."""
        yield from self.results()
        yield from self.group_by
        if self.where is not None:
            yield self.where

    def for_datasets(self, wanted: frozenset[tuple[UUID, int]]) -> Plan:
        """The same question restricted to some of its data-set versions: what one node is asked."""
        kept = tuple(d for d in self.datasets if (d.dataset_id, d.version) in wanted)
        return self.model_copy(update={"datasets": kept})


def fingerprint(expression: Expression) -> str:
    """Text equal for equal expressions only; Python's own equality takes 1, 1.0 and True for the same."""
    return expression.model_dump_json()


def walk(expression: Expression) -> Iterator[Expression]:
    """The expression and everything below it, parents first. Iterative: depth costs no stack."""
    pending: list[Expression] = [expression]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, Call):
            pending.extend(reversed(node.arguments))
        elif isinstance(node, Aggregate) and node.argument is not None:
            pending.append(node.argument)
