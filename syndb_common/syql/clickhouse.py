"""Plan -> ClickHouse SQL: a node's part, the hub's part over all nodes' parts, or both in one statement.

A node reduces its rows to group keys ``__k0``, ``__k1``, ... and states ``__s0``, ... (:mod:`.partials`), or, for a
plan that does not aggregate, to result columns ``__c0``, ... and order keys ``__o0``, .... The hub reads the
concatenation of those parts as table ``partials``. Names with two underscores cannot clash with a column of a
table or with a name a user gives. A node groups by a data set's id where the plan groups by its metadata, which
costs nothing per row; several groups of a part may therefore have equal keys, and the hub adds them up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, assert_never
from uuid import UUID

import pyarrow as pa
from sqlglot import exp

from syndb_common.errors import NotSupported, SyQLError
from syndb_common.syql.check import check
from syndb_common.syql.finals import final_columns, merged_columns
from syndb_common.syql.kinds import Kind, Shape, kind_of_aggregate
from syndb_common.syql.moments import grouped_pivots, moment_columns, moment_sums, sample_pivot, whole_pivot
from syndb_common.syql.partials import Merge, State, States, arrow_type
from syndb_common.syql.plan import AttributeRef, ColumnRef, Expression, Plan, fingerprint, walk
from syndb_common.syql.scalars import Compiled, Leaf, call, column, compile_scalar, number, row_leaf, uuids
from syndb_common.tables import TABLES
from syndb_common.tables.model import DATABASE

Part = Literal["node", "hub", "all"]
PARTIALS = "partials"
"""Name of the table the hub's part reads."""
MAX_PIVOT_STEPS = 60_000
_DATASET = "__dataset"


def to_clickhouse(plan: Plan, part: Part) -> str:
    """Compile a plan, which is validated again: nothing a hostile peer could put into one gets past here.

    ``"node"`` reads the tables and yields a part of :func:`partial_schema`; ``"hub"`` reads ``partials``; ``"all"``
    gives the final answer over one ClickHouse that holds all rows. ``"all"`` is always
    careful, a node's part when the plan says so.

    Raises:
        SyQLError: the plan is not one that our planner could have made.
    """
    statement = _Statement(plan, careful=plan.careful or part == "all")
    match part:
        case "node":
            tree = statement.node()
        case "hub":
            tree = statement.hub(exp.to_table(PARTIALS))
        case "all":
            tree = statement.hub(statement.node().subquery(PARTIALS))
        case _:
            assert_never(part)
    return tree.sql(dialect="clickhouse", comments=False, copy=False)


def partial_schema(plan: Plan) -> pa.Schema:
    """Names and types of a node's part of a plan; ``partial_schema(plan).empty_table()`` is the part of no node.

    Raises:
        SyQLError: as for :func:`to_clickhouse`.
    """
    return _Statement(plan).schema()


@dataclass(frozen=True, slots=True)
class _Key:
    """A group key: what rows are grouped by, and whether that is the data set's id instead of the value itself."""

    expression: Expression
    compiled: Compiled
    by_dataset: bool


class _Statement:
    """The compiled pieces of one plan."""

    def __init__(self, plan: Plan, *, careful: bool = False) -> None:
        check(plan)
        self.careful, self.plan, self.table = careful, plan, TABLES[plan.table]
        rows = row_leaf(self.table, plan.datasets)
        self.where = None if plan.where is None else compile_scalar(plan.where, rows)
        if self.where is not None and self.where.kind.shape is not Shape.BOOLEAN:
            raise SyQLError("the plan's WHERE is not a condition")
        self.keys = [_Key(key, compile_scalar(key, rows), _of_dataset(key)) for key in plan.group_by]
        self.arguments = {
            fingerprint(a.argument): compile_scalar(a.argument, rows) for a in plan.aggregates if a.argument is not None
        }
        kinds = {key: compiled.kind for key, compiled in self.arguments.items()}
        self.kinds = {
            fingerprint(a): kind_of_aggregate(a, None if a.argument is None else kinds[fingerprint(a.argument)])
            for a in plan.aggregates
        }
        self.states = States(plan, kinds)
        self._bounded()
        self.rows = [] if plan.is_aggregate else [(name, compile_scalar(e, rows)) for name, e in self._row_values()]
        self._final(self._known())

    def _bounded(self) -> None:
        """A node looks for the pivot of each variance among the rows of WHERE, which is written out every time."""
        conditions = 0 if self.plan.where is None else sum(1 for _ in walk(self.plan.where))
        moments = sum(state.merge is Merge.MOMENTS for state in self.states)
        if moments * (100 + conditions + len(self.plan.datasets) // 4) > MAX_PIVOT_STEPS:
            raise NotSupported(
                "the query has too many variances of floats for its data sets and conditions",
                hint="ask for a few of them at a time",
            )

    def schema(self) -> pa.Schema:
        """Schema of a node's part."""
        if not self.plan.is_aggregate:
            return pa.schema([pa.field(name, arrow_type(compiled.kind)) for name, compiled in self.rows])
        keys = [pa.field(f"__k{i}", arrow_type(key.compiled.kind)) for i, key in enumerate(self.keys)]
        return pa.schema([*keys, *(field for state in self.states for field in state.fields())])

    def node(self) -> exp.Select:
        """The node's part."""
        if self.plan.is_aggregate:
            return self._node_groups()
        tree = exp.select(*(_as(compiled.transported(), name) for name, compiled in self.rows)).from_(self._source())
        tree = tree.where(self._filter())
        if self.plan.order_by:
            tree = tree.order_by(*(self._ordered(column(f"__o{i}"), i) for i in range(len(self.plan.order_by))))
        if self.plan.limit is not None:
            tree = tree.limit(exp.Literal.number(self.plan.limit + self.plan.offset))
        return tree

    def hub(self, source: exp.Expr) -> exp.Select:
        """The hub's part over a table or subquery."""
        known = self._known()
        if self.plan.is_aggregate:
            source = self._merged(source).subquery("__groups")
        outputs, having, order = self._final(known)
        tree = exp.select(*outputs).from_(source)
        if having is not None:
            tree = tree.where(having)
        if order:
            tree = tree.order_by(*(self._ordered(sql, i) for i, sql in enumerate(order)))
        if self.plan.limit is not None:
            tree = tree.limit(exp.Literal.number(self.plan.limit))
        if self.plan.offset:
            tree = tree.offset(exp.Literal.number(self.plan.offset))
        return tree

    def _row_values(self) -> Iterator[tuple[str, Expression]]:
        yield from ((f"__c{i}", output.expression) for i, output in enumerate(self.plan.outputs))
        yield from ((f"__o{i}", order.expression) for i, order in enumerate(self.plan.order_by))

    def _known(self) -> Leaf:
        """What the hub's last step may refer to: the columns of the step before, by what they stand for."""
        found: dict[str, Compiled] = {}
        for (name, compiled), (_, expression) in zip(self.rows, self._row_values(), strict=False):
            found.setdefault(fingerprint(expression), Compiled(column(name), _sent(compiled.kind)))
        for i, key in enumerate(self.keys):
            found[fingerprint(key.expression)] = Compiled(column(f"__k{i}"), _sent(key.compiled.kind))
        for i, aggregate in enumerate(self.plan.aggregates):
            kind = self.kinds[fingerprint(aggregate)]
            found[fingerprint(aggregate)] = Compiled(column(f"__a{i}"), _sent(kind))
        return lambda expression: found.get(fingerprint(expression))

    def _final(self, known: Leaf) -> tuple[list[exp.Expr], exp.Expr | None, list[exp.Expr]]:
        outputs = [_as(compile_scalar(o.expression, known).transported(), o.name) for o in self.plan.outputs]
        having = None if self.plan.having is None else compile_scalar(self.plan.having, known)
        if having is not None and having.kind.shape is not Shape.BOOLEAN:
            raise SyQLError("the plan's HAVING is not a condition")
        order = [compile_scalar(order.expression, known).transported() for order in self.plan.order_by]
        return outputs, None if having is None else having.sql, order

    def _ordered(self, sql: exp.Expr, i: int) -> exp.Expr:
        return exp.Ordered(this=sql, desc=self.plan.order_by[i].descending, nulls_first=False)

    def _source(self) -> exp.Expr:
        return exp.table_(self.table.name, db=DATABASE, quoted=True)

    def _filter(self, *more: exp.Expr) -> exp.Expr:
        """The rows of the plan's data-set versions for which WHERE holds."""
        version, datasets = column("version"), self.plan.datasets
        if not datasets:
            return exp.false()
        # Per version number, since comparing pairs is several times slower than comparing columns.
        by_version: dict[int, list[UUID]] = {}
        for dataset in datasets:
            by_version.setdefault(dataset.version, []).append(dataset.dataset_id)
        chosen = [
            exp.and_(
                call("equals", version, number(v)), exp.In(this=column("dataset_id"), expressions=[exp.var(uuids(ids))])
            )
            for v, ids in by_version.items()
        ]
        conditions: list[exp.Expr] = [exp.or_(*chosen)]
        if self.where is not None:
            conditions.append(self.where.sql)
        return exp.and_(*conditions, *more, copy=True)

    def _node_groups(self) -> exp.Select:
        """Two steps: reduce rows by what they are grouped by, then write keys and states as they travel."""
        carriers = self._carriers()
        by_group = self.careful and bool(carriers)
        moments = [state for state in self.states if state.merge is Merge.MOMENTS]
        columns = [_as(sql, name) for name, sql in carriers]
        columns += [sql for state in self.states for sql in self._reduced(state)]
        inner = exp.select(*columns, copy=False).from_(self._source()).where(self._filter(), copy=False)
        if by_group and moments:
            inner = grouped_pivots(
                inner, carriers, [(s, self._argument(s)) for s in moments], self._source(), self._filter()
            )
        elif moments:
            pivot = whole_pivot if self.careful else sample_pivot
            for state in moments:
                argument = self._argument(state)
                inner = pivot(inner, state, argument, self._source(), self._filter(call("isFinite", argument)))
        if carriers:
            inner = inner.group_by(*(column(name) for name, _ in carriers))
        outer = [_as(self._carried(i, key), f"__k{i}") for i, key in enumerate(self.keys)]
        outer += [sql for state in self.states for sql in self._travelling(state)]
        return exp.select(*outer).from_(inner.subquery("__rows"))

    def _carriers(self) -> list[tuple[str, exp.Expr]]:
        found = [(f"__g{i}", key.compiled.sql) for i, key in enumerate(self.keys) if not key.by_dataset]
        if any(key.by_dataset for key in self.keys):
            found.append((_DATASET, column("dataset_id")))
        return found

    def _carried(self, i: int, key: _Key) -> exp.Expr:
        if not key.by_dataset:
            return Compiled(column(f"__g{i}"), key.compiled.kind).transported()
        leaf = row_leaf(self.table, self.plan.datasets, _DATASET)
        return compile_scalar(key.expression, leaf).transported()

    def _argument(self, state: State) -> exp.Expr:
        assert state.argument is not None
        return call("toFloat64", self.arguments[fingerprint(state.argument)].sql)

    def _reduced(self, state: State) -> list[exp.Expr]:
        """Aggregates over rows, named like the state with ``__r`` before."""
        name = f"__r{state.index}"
        if state.argument is None:
            return [_as(call("count"), name)]
        argument = self.arguments[fingerprint(state.argument)]
        integer = argument.kind.shape is Shape.INTEGER
        present = call("ifNull", argument.sql, exp.Literal.number(0))
        match state.merge:
            case Merge.COUNT:
                sql = call("count", argument.sql)
            case Merge.SUM if integer:
                sql = call("sum", call("toInt128" if argument.kind.reach < 2**86 else "toInt256", present))
            case Merge.SUM:
                sql = call("sumKahan", call("toFloat64", present))
            case Merge.MIN | Merge.MAX:
                sql = call(f"{state.merge}OrNull", argument.transported())
            case Merge.SQUARES:
                wide = call("toInt128" if argument.kind.reach < 2**43 else "toInt256", present)
                sql = call("sum", call("multiply", wide, wide.copy()))
            case _:
                return moment_sums(state, call("toFloat64", argument.sql))
        return [_as(sql, name)]

    def _travelling(self, state: State) -> list[exp.Expr]:
        raw = column(f"__r{state.index}")
        if state.merge is Merge.MOMENTS:
            assert state.argument is not None
            count = self.states.of(Merge.COUNT, state.argument)
            assert count is not None
            return moment_columns(state, f"__r{count.index}", careful=self.careful)
        if state.merge in (Merge.SUM, Merge.SQUARES) and state.kind.shape is Shape.INTEGER:
            return [_as(call("toDecimal256", raw, exp.Literal.number(0)), state.name)]
        return [_as(raw, state.name)]

    def _merged(self, source: exp.Expr) -> exp.Select:
        """Parts of all nodes merged by key, then the value of every aggregate."""
        keys = [f"__k{i}" for i in range(len(self.keys))]
        merged = exp.select(*(column(key) for key in keys), *merged_columns(self.states)).from_(source)
        if keys:
            merged = merged.group_by(*(column(key) for key in keys))
        values = final_columns(self.plan.aggregates, self.states, self.kinds)
        return exp.select(*(column(key) for key in keys), *values).from_(merged.subquery("__merged"))


def _of_dataset(key: Expression) -> bool:
    """Whether a key has one value per data set."""
    leaves = [node for node in walk(key) if isinstance(node, ColumnRef | AttributeRef)]
    return all(isinstance(node, AttributeRef) for node in leaves)


def _sent(kind: Kind) -> Kind:
    """Kind of a value after it has travelled: ids are text, wide integers were checked to fit 64 bits."""
    if kind.shape is Shape.UUID:
        return Kind(Shape.TEXT, measure=False)
    if kind.shape is Shape.INTEGER and kind.reach >= 2**64:
        return Kind(Shape.INTEGER, -(2**63), 2**63 - 1, kind.measure)
    return kind


def _as(sql: exp.Expr, name: str) -> exp.Expr:
    return exp.alias_(sql, name, quoted=True)
