"""The gate: a plan may come from anyone, so its structure is checked again wherever it is compiled.

Kinds of values are checked while compiling; here stands everything that must hold before that.
"""

from __future__ import annotations

import re

from syndb_common.errors import NotSupported, SyQLError
from syndb_common.syql.plan import (
    PLAN_PROTOCOL,
    Aggregate,
    AttributeRef,
    Call,
    ColumnRef,
    Expression,
    Plan,
    fingerprint,
    walk,
)
from syndb_common.syql.planner import ungrouped
from syndb_common.syql.resolve import MAX_DEPTH, MAX_NODES
from syndb_common.tables import METADATA, TABLES

MAX_LOOKUPS = 100_000
"""Most metadata values written into one statement: uses of metadata times data sets."""
_OUTPUT_NAME = re.compile(r"(?!__)[^\\\"`\x00-\x1f\x7f\ud800-\udfff]{1,200}")


def check(plan: Plan) -> None:
    """Refuse a plan whose structure our planner could not have made.

    Raises:
        SyQLError: what is wrong with it; :class:`NotSupported` for another protocol.
    """
    if plan.protocol != PLAN_PROTOCOL:
        raise NotSupported(f"plans of protocol {plan.protocol} are not understood here", hint="update this daemon")
    if plan.table not in TABLES:
        raise SyQLError(f"the plan reads a table that does not exist: {plan.table[:100]!r}")
    _sizes(plan)
    _names(plan)
    _datasets(plan)
    _places(plan)


def _sizes(plan: Plan) -> None:
    nodes = 0
    for expression in plan.expressions():
        level: list[Expression] = [expression]
        depth = 0
        while level:
            nodes, depth = nodes + len(level), depth + 1
            if depth > MAX_DEPTH + 8 or nodes > MAX_NODES:
                raise SyQLError("the plan's expressions are too large or nested too deeply")
            level = [below for node in level for below in _children(node)]


def _children(node: Expression) -> tuple[Expression, ...]:
    if isinstance(node, Call):
        return node.arguments
    if isinstance(node, Aggregate) and node.argument is not None:
        return (node.argument,)
    return ()


def _names(plan: Plan) -> None:
    names = [output.name for output in plan.outputs]
    if len(set(names)) != len(names):
        raise SyQLError("two columns of the plan's result have one name")
    for name in names:
        if _OUTPUT_NAME.fullmatch(name) is None:
            raise SyQLError(f"a column of a result cannot be called {name[:100]!r}")
    table = TABLES[plan.table]
    for expression in plan.expressions():
        for node in walk(expression):
            if isinstance(node, ColumnRef) and table.column(node.name) is None:
                raise SyQLError(f"the plan reads a column that `{table.name}` does not have: {node.name!r}")
            if isinstance(node, AttributeRef) and node.name not in METADATA:
                raise SyQLError(f"the plan reads metadata that does not exist: {node.name!r}")


def _datasets(plan: Plan) -> None:
    if len({dataset.dataset_id for dataset in plan.datasets}) != len(plan.datasets):
        raise SyQLError("a plan reads one version of a data set")
    uses = [node.name for e in plan.expressions() for node in walk(e) if isinstance(node, AttributeRef)]
    if len(uses) * len(plan.datasets) > MAX_LOOKUPS:
        raise NotSupported(
            "the query uses metadata of too many data sets too often", hint="choose fewer data sets in WHERE"
        )
    used = set(uses)
    for dataset in plan.datasets:
        if missing := used - dataset.attributes.keys():
            raise SyQLError(f"the plan lacks metadata of a data set: {', '.join(sorted(missing))}")


def _places(plan: Plan) -> None:
    """Aggregates only where groups exist, never inside one another; keys that differ between rows."""
    keys = {fingerprint(key) for key in plan.group_by}
    for before in (*plan.group_by, *([plan.where] if plan.where is not None else [])):
        if any(isinstance(node, Aggregate) for node in walk(before)):
            raise SyQLError("the plan has an aggregate in WHERE or GROUP BY")
    for aggregate in plan.aggregates:
        if any(isinstance(node, Aggregate) for node in walk(aggregate) if node is not aggregate):
            raise SyQLError("the plan has an aggregate inside an aggregate")
    if plan.having is not None and not plan.is_aggregate:
        raise SyQLError("the plan has HAVING without groups")
    for key in (*plan.group_by, *(order.expression for order in plan.order_by)):
        if not any(isinstance(node, ColumnRef | AttributeRef | Aggregate) for node in walk(key)):
            raise SyQLError("the plan groups or orders by a constant")
    for result in plan.results() if plan.is_aggregate else ():
        if (loose := ungrouped(result, keys)) is not None:
            raise SyQLError(f"`{loose}` is neither grouped nor aggregated in the plan")
