"""Which data sets a query is about: the conditions on metadata, answered from the catalogue while planning.

A condition that speaks of nothing but metadata, ``dataset_id`` and ``version`` has one value per published
version. It is answered here, the data sets it excludes are not planned, and no node is asked in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from syndb_common.syql.like import like
from syndb_common.syql.plan import AttributeRef, Call, ColumnRef, Expression, LiteralValue, Operator, walk
from syndb_common.tables.versions import PublishedVersion

_Evaluator = Callable[[PublishedVersion], Any]
_IDENTITY = ("dataset_id", "version")
_ANSWERED = frozenset(
    (
        Operator.AND, Operator.OR, Operator.NOT, Operator.EQ, Operator.NE, Operator.LT, Operator.LE, Operator.GT,
        Operator.GE, Operator.IN, Operator.LIKE, Operator.ILIKE, Operator.IS_NULL, Operator.LOWER, Operator.UPPER,
        Operator.COALESCE,
    )
)  # fmt: skip


def conjuncts(where: Expression | None) -> list[Expression]:
    """The conditions that must all hold."""
    if where is None:
        return []
    if isinstance(where, Call) and where.operator is Operator.AND:
        return [part for argument in where.arguments for part in conjuncts(argument)]
    return [where]


def conjunction(parts: list[Expression]) -> Expression | None:
    """One condition out of several."""
    if len(parts) <= 1:
        return parts[0] if parts else None
    return Call(operator=Operator.AND, arguments=tuple(parts))


def known_while_planning(expression: Expression) -> bool:
    """Whether a condition has one value per published version."""
    return all(
        (isinstance(node, Call) and node.operator in _ANSWERED)
        or (isinstance(node, ColumnRef) and node.name in _IDENTITY)
        or isinstance(node, AttributeRef | LiteralValue)
        for node in walk(expression)
    )


def steps(condition: Expression) -> int:
    """What one version costs: a step for each operator and operand, more for LIKE, one for all of a list."""
    count, pending = 0, [condition]
    while pending:
        node = pending.pop()
        count += 1
        if not isinstance(node, Call):
            continue
        pending += node.arguments[:1] if node.operator is Operator.IN else node.arguments
        if node.operator in (Operator.LIKE, Operator.ILIKE):
            texts = (below.value for below in walk(node) if isinstance(below, LiteralValue))
            count += 50 + sum(len(text) for text in texts if isinstance(text, str))
    return count


def select_versions(catalogue: Iterable[PublishedVersion], conditions: list[Expression]) -> list[PublishedVersion]:
    """The newest version of each data set for which all conditions hold, ordered by name and id.

    Older versions are candidates only when a condition speaks of ``version``.
    """
    by_dataset: dict[UUID, dict[int, PublishedVersion]] = {}
    for published in catalogue:
        by_dataset.setdefault(published.dataset_id, {})[published.version] = published
    pinned = any(
        isinstance(node, ColumnRef) and node.name == "version" for condition in conditions for node in walk(condition)
    )
    holds = [_evaluator(condition) for condition in conditions]
    chosen = []
    for versions in by_dataset.values():
        for number in sorted(versions, reverse=True) if pinned else [max(versions)]:
            if all(condition(versions[number]) is True for condition in holds):
                chosen.append(versions[number])
                break
    return sorted(chosen, key=lambda published: (published.metadata.dataset, published.dataset_id))


def attribute(published: PublishedVersion, name: str) -> str:
    """A metadata value of a published version; empty when unknown."""
    return str(getattr(published.metadata, name))


def _evaluator(expression: Expression) -> _Evaluator:
    """Value of a condition for a version, by SQL's three-valued logic; None is unknown. Constants are prepared once."""
    if isinstance(expression, LiteralValue):
        constant = expression.value
        return lambda _: constant
    if isinstance(expression, AttributeRef):
        name = expression.name
        return lambda published: attribute(published, name)
    if isinstance(expression, ColumnRef):
        return _dataset_id if expression.name == "dataset_id" else lambda published: published.version
    assert isinstance(expression, Call)
    operator = expression.operator
    work = _prepared(expression)
    used = (
        expression.arguments[:1] if operator in (Operator.IN, Operator.LIKE, Operator.ILIKE) else expression.arguments
    )
    arguments = [_evaluator(argument) for argument in used]
    unknown_passes = operator in _THREE_VALUED

    def value(published: PublishedVersion) -> Any:
        values = [argument(published) for argument in arguments]
        return None if None in values and not unknown_passes else work(values)

    return value


def _dataset_id(published: PublishedVersion) -> str:
    return str(published.dataset_id)


def _prepared(call: Call) -> Callable[[list[Any]], Any]:
    """The work of an operator on the values of its arguments; IN and LIKE hold their constants already."""
    constants = [argument.value for argument in call.arguments[1:] if isinstance(argument, LiteralValue)]
    ids = any(isinstance(argument, ColumnRef) and argument.name == "dataset_id" for argument in call.arguments)
    match call.operator:
        case Operator.IN:
            listed = {_lower(constant) if ids else constant for constant in constants}
            return lambda values: (_lower(values[0]) if ids else values[0]) in listed
        case Operator.LIKE | Operator.ILIKE:
            matches = like(str(constants[0]), ignore_case=call.operator is Operator.ILIKE)
            return lambda values: matches(values[0])
    work = _WORK[call.operator]
    return (lambda values: work([_lower(value) for value in values])) if ids else work


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


_THREE_VALUED = (Operator.AND, Operator.OR, Operator.IS_NULL, Operator.COALESCE)
_WORK: dict[Operator, Callable[[list[Any]], Any]] = {
    Operator.AND: lambda values: False if False in values else None if None in values else True,
    Operator.OR: lambda values: True if True in values else None if None in values else False,
    Operator.IS_NULL: lambda values: values[0] is None,
    Operator.COALESCE: lambda values: next((value for value in values if value is not None), None),
    Operator.NOT: lambda values: not values[0],
    Operator.EQ: lambda values: values[0] == values[1],
    Operator.NE: lambda values: values[0] != values[1],
    Operator.LT: lambda values: values[0] < values[1],
    Operator.LE: lambda values: values[0] <= values[1],
    Operator.GT: lambda values: values[0] > values[1],
    Operator.GE: lambda values: values[0] >= values[1],
    Operator.LOWER: lambda values: values[0].lower(),
    Operator.UPPER: lambda values: values[0].upper(),
}
