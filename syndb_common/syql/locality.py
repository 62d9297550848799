"""Which data sets a query is about: the conditions on metadata, answered from the catalogue while planning.

A condition that speaks of nothing but metadata, ``dataset_id`` and ``version`` has one value per published
version. It is answered here, the data sets it excludes are not planned, and no node is asked in vain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from syndb_common.syql.plan import AttributeRef, Call, ColumnRef, Expression, LiteralValue, Operator, walk
from syndb_common.tables.versions import PublishedVersion

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
    chosen = []
    for versions in by_dataset.values():
        for number in sorted(versions, reverse=True) if pinned else [max(versions)]:
            if all(_value(condition, versions[number]) is True for condition in conditions):
                chosen.append(versions[number])
                break
    return sorted(chosen, key=lambda published: (published.metadata.dataset, published.dataset_id))


def attribute(published: PublishedVersion, name: str) -> str:
    """A metadata value of a published version; empty when unknown."""
    return str(getattr(published.metadata, name))


def _value(expression: Expression, published: PublishedVersion) -> Any:
    """Value by SQL's three-valued logic; None is unknown."""
    if isinstance(expression, LiteralValue):
        return expression.value
    if isinstance(expression, AttributeRef):
        return attribute(published, expression.name)
    if isinstance(expression, ColumnRef):
        return str(published.dataset_id) if expression.name == "dataset_id" else published.version
    assert isinstance(expression, Call)
    values = [_value(argument, published) for argument in expression.arguments]
    match expression.operator:
        case Operator.AND:
            return False if False in values else None if None in values else True
        case Operator.OR:
            return True if True in values else None if None in values else False
        case Operator.IS_NULL:
            return values[0] is None
        case Operator.COALESCE:
            return next((value for value in values if value is not None), None)
    if None in values:
        return None
    return _strict(expression, values)


def _strict(call: Call, values: list[Any]) -> Any:
    if any(isinstance(node, ColumnRef) and node.name == "dataset_id" for node in call.arguments):
        values = [value.lower() if isinstance(value, str) else value for value in values]
    first, last = values[0], values[-1]
    match call.operator:
        case Operator.NOT:
            return not first
        case Operator.EQ:
            return first == last
        case Operator.NE:
            return first != last
        case Operator.LT:
            return first < last
        case Operator.LE:
            return first <= last
        case Operator.GT:
            return first > last
        case Operator.GE:
            return first >= last
        case Operator.IN:
            return first in values[1:]
        case Operator.LIKE:
            return _like(first, last, re.DOTALL)
        case Operator.ILIKE:
            return _like(first, last, re.DOTALL | re.IGNORECASE)
        case Operator.LOWER:
            return first.lower()
        case _:
            return first.upper()


def _like(value: str, pattern: str, flags: int) -> bool:
    """SQL's LIKE: ``%`` any text, ``_`` one character, backslash takes the next one literally."""
    wild = {"%": ".*", "_": "."}
    parts = [wild.get(token, re.escape(token[-1])) for token in re.findall(r"\\.|.", pattern, re.DOTALL)]
    return re.fullmatch("".join(parts), value, flags) is not None
