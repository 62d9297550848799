"""A plan from elsewhere is compiled only if our planner could have made it."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest
from pydantic import ValidationError

from syndb_common.errors import DataError, SyQLError
from syndb_common.syql import Plan, conform, partial_schema, to_clickhouse
from syndb_common.syql.plan import (
    Aggregate,
    AttributeRef,
    Call,
    ColumnRef,
    Expression,
    Function,
    LiteralValue,
    Operator,
    Order,
    Output,
    PlannedDataset,
)

PARTS = ("node", "hub", "all")
VOLUME, NAME, COUNT = ColumnRef(name="mesh_volume"), ColumnRef(name="name"), Aggregate(function=Function.COUNT_ALL)
READ = (PlannedDataset(dataset_id=uuid4(), version=1),)


def make(expression: Expression = NAME, name: str = "x", **more: object) -> Plan:
    """A plan with one output."""
    values = {"table": "neurons", "datasets": READ, "outputs": (Output(name=name, expression=expression),), **more}
    return Plan(**values)  # type: ignore[arg-type]


def call(operator: Operator, *arguments: Expression) -> Call:
    """An operator applied to arguments."""
    return Call(operator=operator, arguments=arguments)


def deep(levels: int) -> Expression:
    """A nest of negations."""
    found: Expression = VOLUME
    for _ in range(levels):
        found = call(Operator.NEG, found)
    return found


HOSTILE = {
    "another protocol": make(protocol=99),
    "a table of the system": make(table="system.tables"),
    "a quote in the table": make(table='neurons" WHERE 1 --'),
    "an unknown column": make(ColumnRef(name="nothing")),
    "a quote in a column": make(ColumnRef(name='name" FROM system.tables --')),
    "a column that is only metadata": make(ColumnRef(name="species")),
    "unknown metadata": make(AttributeRef(name="title")),
    "metadata that is not carried": make(AttributeRef(name="species")),
    "a data set in two versions": make(datasets=(*READ, READ[0].model_copy(update={"version": 2}))),
    "a quote in an output": make(name='x" FROM y'),
    "a backslash in an output": make(name="x\\"),
    "a NUL in an output": make(name="x\0"),
    "an internal name": make(name="__c0"),
    "no name": make(name=""),
    "two outputs of one name": make(outputs=(Output(name="x", expression=NAME), Output(name="x", expression=NAME))),
    "too few arguments": make(call(Operator.EQ, NAME)),
    "too many arguments": make(call(Operator.NOT, NAME, NAME)),
    "IN with columns": make(call(Operator.IN, NAME, ColumnRef(name="cell_type"))),
    "a pattern of rows": make(call(Operator.LIKE, NAME, NAME)),
    "text plus number": make(call(Operator.ADD, NAME, VOLUME)),
    "a sum of text": make(Aggregate(function=Function.SUM, argument=NAME)),
    "a sum of nothing": make(Aggregate(function=Function.SUM)),
    "COUNT(*) of something": make(Aggregate(function=Function.COUNT_ALL, argument=NAME)),
    "an aggregate in an aggregate": make(Aggregate(function=Function.MAX, argument=COUNT)),
    "an aggregate in WHERE": make(where=call(Operator.GT, COUNT, LiteralValue(value=1))),
    "an aggregate as key": make(COUNT, group_by=(COUNT,)),
    "a number in WHERE": make(where=VOLUME),
    "a number in HAVING": make(COUNT, having=COUNT),
    "HAVING without groups": make(having=call(Operator.EQ, NAME, LiteralValue(value="a"))),
    "a column beside an aggregate": make(call(Operator.ADD, VOLUME, COUNT)),
    "a column outside the keys": make(VOLUME, group_by=(NAME,)),
    "a position as key": make(COUNT, group_by=(LiteralValue(value=1),)),
    "a position as order": make(order_by=(Order(expression=LiteralValue(value=1)),)),
    "a number of 100 digits": make(LiteralValue(value=10**100)),
    "an id compared with text": make(call(Operator.EQ, ColumnRef(name="cid"), LiteralValue(value="x'"))),
    "rounding to a column": make(call(Operator.ROUND, VOLUME, ColumnRef(name="branch_count"))),
    "deep nesting": make(deep(200)),
    "a great many nodes": make(call(Operator.OR, *(call(Operator.AND, *[NAME] * 9999) for _ in range(6)))),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("part", PARTS)
def test_a_hostile_plan_is_refused_in_every_part(case: str, part: str) -> None:
    with pytest.raises(SyQLError):
        to_clickhouse(HOSTILE[case], part)  # type: ignore[arg-type]
    with pytest.raises(SyQLError):
        partial_schema(HOSTILE[case])


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_without_a_literal_are_no_plan(value: float) -> None:
    with pytest.raises(ValidationError):
        LiteralValue(value=value)


def test_strings_reach_sql_only_as_escaped_literals() -> None:
    evil = "'; DROP TABLE x; -- \\"
    dataset = PlannedDataset(dataset_id=uuid4(), version=1, attributes={"species": evil})
    same = call(Operator.EQ, NAME, LiteralValue(value=evil))
    sql = to_clickhouse(make(AttributeRef(name="species"), where=same, datasets=(dataset,)), "node")
    assert sql.count("'''; DROP TABLE x; -- \\\\'") == 2


def test_sql_is_the_same_after_a_round_trip(planned: Callable[[str], Plan]) -> None:
    found = planned("SELECT sex, STDDEV(psd_area) AS s, MIN(1) AS m FROM synapses WHERE psd_area > 1.0 GROUP BY sex")
    again = Plan.model_validate_json(found.model_dump_json())
    for part in PARTS:
        assert to_clickhouse(again, part) == to_clickhouse(found, part)  # type: ignore[arg-type]


def test_equal_looking_constants_stay_apart(planned: Callable[[str], Plan]) -> None:
    found = planned("SELECT SUM(synapse_count + 1) AS a, SUM(synapse_count + 1.0) AS b FROM synapses")
    assert len(found.aggregates) == 2
    assert [str(type) for type in partial_schema(found).types].count("decimal256(76, 0)") == 1


def test_a_plan_of_no_data_set_reads_nothing(planned: Callable[[str], Plan]) -> None:
    sql = to_clickhouse(planned("SELECT sex, COUNT(*) FROM neurons WHERE sex = 'none' GROUP BY sex"), "node")
    assert "WHERE FALSE" in sql


def test_a_part_with_other_columns_is_refused(planned: Callable[[str], Plan]) -> None:
    rows, groups = partial_schema(planned("FROM neurons")), partial_schema(planned("FROM neurons GROUP BY name"))
    assert conform(rows, rows.empty_table()).schema == rows
    with pytest.raises(DataError):
        conform(rows, groups.empty_table())
    with pytest.raises(DataError):
        conform(rows, rows.empty_table().rename_columns([*rows.names[:-1], "other"]))
