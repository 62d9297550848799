"""Names, kinds, grouping and the choice of data sets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from syndb_common.errors import NotSupported, SyQLError, UnknownName
from syndb_common.syql import Plan, parse, plan, to_clickhouse
from syndb_common.syql.plan import Aggregate, AttributeRef, Call, ColumnRef, Function, Operator
from syndb_common.syql.planner import minimum_schema
from syndb_common.tables import TABLES
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.model import Column, Kind, Table
from syndb_common.tables.versions import PublishedVersion

Planned = Callable[[str], Plan]


def chosen(found: Plan) -> list[tuple[str, int]]:
    """The data sets of a plan by name."""
    names = {dataset_id(n): n for n in ("cook-2019-hermaphrodite", "cook-2019-male", "witvliet-2020-1")}
    return [(names[dataset.dataset_id], dataset.version) for dataset in found.datasets]


def names(found: Plan) -> list[str]:
    """Names of a plan's result columns."""
    return [output.name for output in found.outputs]


def test_from_alone_means_all_columns(planned: Planned) -> None:
    assert names(planned("FROM synapses")) == [column.name for column in TABLES["synapses"].columns]


def test_from_with_group_by_means_the_keys_and_how_many(planned: Planned) -> None:
    assert names(planned("FROM synapses GROUP BY brain_region, sex")) == ["brain_region", "sex", "count(*)"]


def test_columns_are_named_by_alias_or_by_their_text(planned: Planned) -> None:
    text = "SELECT Brain_Region, COUNT(*), AVG( synapse_count ), VarSamp(psd_area) AS V FROM synapses GROUP BY 1"
    assert names(planned(text)) == ["brain_region", "count(*)", "avg(synapse_count)", "V"]


def test_a_column_wins_over_metadata_of_the_same_name(planned: Planned) -> None:
    first, second = planned("SELECT brain_region, dataset.brain_region FROM synapses").outputs
    assert first.expression == ColumnRef(name="brain_region")
    assert second.expression == AttributeRef(name="brain_region")
    assert planned("SELECT brain_region FROM axons").outputs[0].expression == AttributeRef(name="brain_region")


def test_only_metadata_that_is_used_travels(planned: Planned) -> None:
    found = planned("SELECT sex, COUNT(*) FROM neurons WHERE stage = 'adult' GROUP BY sex")
    assert [dataset.attributes for dataset in found.datasets] == [{"sex": "hermaphrodite"}, {"sex": "male"}]
    assert found.where is None


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("1 = 1", [("cook-2019-hermaphrodite", 1), ("cook-2019-male", 2), ("witvliet-2020-1", 1)]),
        ("dataset = 'cook-2019-male'", [("cook-2019-male", 2)]),
        ("dataset IN ('cook-2019-male', 'witvliet-2020-1')", [("cook-2019-male", 2), ("witvliet-2020-1", 1)]),
        ("dataset LIKE 'cook%' AND NOT sex = 'male'", [("cook-2019-hermaphrodite", 1)]),
        ("UPPER(stage) = 'L1' OR sex ILIKE 'MALE'", [("cook-2019-male", 2), ("witvliet-2020-1", 1)]),
        ("dataset LIKE 'cook_2019_male'", [("cook-2019-male", 2)]),
        ("version = 1 AND sex = 'male'", [("cook-2019-male", 1)]),
        ("version > 7", []),
        ("tags IS NULL", []),
        ("COALESCE(tags, 'x') <> ''", [("witvliet-2020-1", 1)]),
        ("stage BETWEEN 'a' AND 'b'", [("cook-2019-hermaphrodite", 1), ("cook-2019-male", 2)]),
        (f"dataset_id = '{dataset_id('witvliet-2020-1')}'", [("witvliet-2020-1", 1)]),
        (f"dataset_id IN ('{str(dataset_id('witvliet-2020-1')).upper()}')", [("witvliet-2020-1", 1)]),
    ],
)
def test_conditions_on_metadata_choose_the_data_sets(
    planned: Planned, condition: str, wanted: list[tuple[str, int]]
) -> None:
    found = planned(f"SELECT COUNT(*) FROM neurons WHERE ({condition}) AND name <> ''")
    assert chosen(found) == wanted
    assert found.where == planned("FROM neurons WHERE name <> ''").where


def test_a_condition_on_metadata_and_columns_stays_in_the_plan(planned: Planned) -> None:
    found = planned("SELECT COUNT(*) FROM neurons WHERE sex = 'male' OR name = 'AVAL'")
    assert len(found.datasets) == 3
    assert found.where is not None
    assert found.datasets[0].attributes == {"sex": "hermaphrodite"}


def test_replicas_of_a_version_are_read_once(catalogue: list[PublishedVersion]) -> None:
    assert len(plan(parse("FROM neurons"), [*catalogue, *catalogue]).datasets) == 3


@pytest.mark.parametrize(
    ("text", "offending", "nearest", "line", "column"),
    [
        ("SELECT mesh_volum FROM neurons", "mesh_volum", "mesh_volume", 1, 8),
        ("SELECT name\nFROM neurons\nWHERE mesh_volum > 3", "mesh_volum", "mesh_volume", 3, 7),
        ("SELECT dataset.specis FROM neurons", "specis", "species", 1, 8),
        ("SELECT name FROM neuron", "neuron", "neurons", 1, 18),
        ("SELECT varsmp(mesh_volume) FROM neurons", "varsmp", "varsamp", 1, 8),
        ("SELECT name FROM neurons WHERE dataset = 'cook-2019-mal'", "cook-2019-mal", "cook-2019-male", 1, 42),
        ("SELECT name FROM neurons WHERE 'cook-2019-mal' <> dataset", "cook-2019-mal", "cook-2019-male", 1, 32),
    ],
)
def test_an_unknown_name_is_located_and_the_nearest_is_named(
    planned: Planned, text: str, offending: str, nearest: str, line: int, column: int
) -> None:
    with pytest.raises(UnknownName, match=f"did you mean `{nearest}`") as raised:
        planned(text)
    details = raised.value.details
    assert (details["offending"], details["line"], details["column"]) == (offending, line, column)
    assert details["nearest"][0] == nearest


FORBIDDEN = [
    "file",
    "url",
    "remote",
    "remoteSecure",
    "sleep",
    "sleepEachRow",
    "s3",
    "numbers",
    "mysql",
    "postgresql",
    "executable",
    "input",
    "hostName",
]


@pytest.mark.parametrize("name", [*FORBIDDEN, "getSetting", "dictGet", "joinGet", "format", "if", "now", "currentUser"])
def test_no_function_of_clickhouse_is_reachable(planned: Planned, name: str) -> None:
    for text in (f"SELECT {name}('x') FROM neurons", f"SELECT name FROM neurons WHERE {name}('x') = 1"):
        with pytest.raises(SyQLError, match=r"not part of SyQL|did you mean|Unexpected|missing|Expect"):
            planned(text)
    with pytest.raises(SyQLError):
        planned(f"SELECT * FROM {name}('x')")


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_forbidden_function_is_named(planned: Planned, name: str) -> None:
    for text in (f"SELECT {name}('x') FROM neurons", f"SELECT * FROM {name}('x')"):
        with pytest.raises(UnknownName, match=f"function `{name}` is not part of SyQL"):
            planned(text)


@pytest.mark.parametrize(
    "text",
    [
        "WITH a AS (SELECT 1) SELECT name FROM neurons",
        "SELECT n.name FROM neurons n JOIN synapses s ON n.cid = s.pre_id",
        "SELECT name FROM neurons, axons",
        "SELECT name FROM (SELECT name FROM neurons)",
        "SELECT name FROM neurons WHERE cid IN (SELECT cid FROM axons)",
        "SELECT (SELECT 1) FROM neurons",
        "SELECT COUNT(DISTINCT name) FROM neurons",
        "SELECT COUNT(*) OVER () FROM neurons",
        "SELECT COUNT(*) FILTER (WHERE name = 'a') FROM neurons",
        "SELECT CASE WHEN name = 'a' THEN 1 END FROM neurons",
        "SELECT name::int FROM neurons",
        "SELECT name || 'a' FROM neurons",
        "SELECT name FROM neurons ORDER BY name NULLS FIRST",
        "SELECT COUNT(*) FROM neurons GROUP BY ROLLUP (name)",
        "SELECT COUNT(*) FROM neurons GROUP BY ALL",
        "SELECT name FROM neurons LIMIT 1 BY name",
        "SELECT name FROM neurons TABLESAMPLE (10)",
        "SELECT name FROM neurons FOR UPDATE",
        "SELECT name FROM neurons@x",
        "SELECT name FROM neurons AS n(a, b)",
        "SELECT * EXCEPT (name) FROM neurons",
        "SELECT DISTINCT ON (name) name FROM neurons",
        "SELECT name, 99999999999999999999 FROM neurons",
        "SELECT neurons.* FROM neurons",
        "SELECT ? FROM neurons",
        "SELECT {x: 1} FROM neurons",
        "SELECT name FROM neurons WHERE name LIKE cell_type",
    ],
)
def test_other_sql_is_refused_before_anything_is_sent(planned: Planned, text: str) -> None:
    with pytest.raises(NotSupported) as raised:
        planned(text)
    assert raised.value.details["line"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1", "names no table"),
        ("SELECT brain_region, COUNT(*) FROM neurons", "`brain_region` is neither grouped nor aggregated"),
        ("SELECT COUNT(*) FROM neurons ORDER BY name", "`name` is neither grouped nor aggregated"),
        ("SELECT COUNT(*) FROM neurons HAVING name = 'a'", "`name` is neither grouped nor aggregated"),
        ("SELECT DISTINCT name FROM neurons ORDER BY cid", "`cid` is neither grouped nor aggregated"),
        ("SELECT name FROM neurons HAVING name = 'a'", "HAVING needs GROUP BY"),
        ("SELECT SUM(cell_type) FROM neurons", "SUM needs a measurement"),
        ("SELECT AVG(is_tree) FROM neurons", "AVG needs a measurement"),
        ("SELECT SUM(version) FROM neurons", "SUM needs a measurement"),
        ("SELECT SUM(AVG(mesh_volume)) FROM neurons", "inside another"),
        ("SELECT SUM(1 + COUNT(*)) FROM neurons", "inside another"),
        ("SELECT name FROM neurons WHERE COUNT(*) > 1", "cannot stand in WHERE"),
        ("SELECT COUNT(*) FROM neurons GROUP BY COUNT(*)", "cannot stand in GROUP BY"),
        ("SELECT COUNT(*) FROM neurons GROUP BY 'a'", "same for every row"),
        ("SELECT COUNT(*) FROM neurons GROUP BY 2", "not the number of a selected column"),
        ("SELECT name FROM neurons WHERE name = NULL", "nothing equals NULL"),
        ("SELECT name FROM neurons WHERE name = 3", "cannot be compared"),
        ("SELECT name FROM neurons WHERE cid = 'AVAL'", "not one"),
        ("SELECT name FROM neurons WHERE name", "needs a condition"),
        ("SELECT name FROM neurons WHERE mesh_volume AND name = 'a'", "AND needs conditions"),
        ("SELECT name + 1 FROM neurons", "ADD needs numbers"),
        ("SELECT version + 1 FROM neurons", "not ids or categories"),
        ("SELECT LOWER(mesh_volume) FROM neurons", "LOWER needs text"),
        ("SELECT ROUND(mesh_volume, name) FROM neurons", "ROUND needs numbers"),
        ("SELECT COUNT(*), COUNT(*) FROM neurons", "two columns of the result are called"),
        ('SELECT name AS "__s0" FROM neurons', "does not begin with two underscores"),
        ('SELECT name AS "a\\b" FROM neurons', "no quotes, backslashes"),
        ("SELECT name FROM neurons LIMIT -1", "LIMIT needs a whole number"),
        ("SELECT name FROM neurons LIMIT 1.5", "LIMIT needs a whole number"),
        ("SELECT name FROM neurons dataset", "already names the metadata"),
        ("SELECT 1e999 FROM neurons", "not a number"),
        ("SELECT SUM(DISTINCT synapse_count) FROM synapses", "not part of SyQL yet"),
        (
            "SELECT name FROM neurons WHERE " + "(" * 40 + "name" + " = 'a')" * 1 + ")" * 39 + " + 1 = 2",
            "needs numbers",
        ),
        ("SELECT " + "+ ".join(["mesh_volume"] * 100) + " FROM neurons", "nested too deeply"),
        ("SELECT " + "* ".join(["synapse_count"] * 12) + " FROM synapses", "could overflow"),
    ],
)
def test_a_broken_rule_is_explained(planned: Planned, text: str, message: str) -> None:
    with pytest.raises(SyQLError, match=message) as raised:
        planned(text)
    assert raised.value.details["line"] == 1
    assert raised.value.details["column"] >= 1


def test_a_long_chain_of_conditions_is_no_deep_nesting(planned: Planned) -> None:
    found = planned("SELECT name FROM neurons WHERE " + " OR ".join(f"name = 'n{i}'" for i in range(2000)))
    assert found.where is not None


def test_spellings_of_clickhouse_and_of_sql_mean_the_same(planned: Planned) -> None:
    spellings = ("VARIANCE", "var_samp", "varSamp", "VARSAMPSTABLE")
    plans = {planned(f"SELECT {name}(mesh_volume) AS v FROM neurons").hash for name in spellings}
    assert len(plans) == 1
    assert planned("SELECT stddevPop(mesh_volume) AS v FROM neurons").operators == {"stddev_pop"}


def test_a_name_in_group_by_is_a_column_first_and_in_order_by_an_alias_first(planned: Planned) -> None:
    text = "SELECT LOWER(brain_region) AS r, MAX(synapse_count) AS synapse_count FROM synapses GROUP BY r ORDER BY "
    found = planned(text + "synapse_count")
    assert found.order_by[0].expression == found.outputs[1].expression
    assert found.group_by[0] == found.outputs[0].expression


def test_a_plan_survives_its_json(planned: Planned) -> None:
    found = planned(
        "SELECT dataset, AVG(synapse_count + 1.0) AS a, SUM(synapse_count + 1) AS b FROM synapses "
        "WHERE psd_area > 2 AND brain_region IN ('it''s', '\\') GROUP BY dataset HAVING COUNT(*) > 1 "
        "ORDER BY a DESC LIMIT 3 OFFSET 1"
    )
    again = Plan.model_validate_json(found.model_dump_json())
    assert again == found
    assert again.hash == found.hash


@pytest.mark.parametrize("condition", ["name <> '{}'", "dataset <> 'cook-2019-male'", "sex <> '{}'"])
def test_more_conditions_than_a_person_writes_are_refused_with_a_way_out(planned: Planned, condition: str) -> None:
    def text(count: int) -> str:
        return "FROM neurons WHERE " + " AND ".join(condition.format(i) for i in range(count))

    assert planned(text(500)).table == "neurons"
    with pytest.raises(NotSupported, match="at most 500 conditions") as raised:
        planned(text(501))
    assert "IN (" in raised.value.hint


def test_conditions_on_metadata_are_bounded_by_the_catalogue(catalogue: list[PublishedVersion]) -> None:
    text = "FROM neurons WHERE " + " OR ".join(f"sex = '{i}'" for i in range(1000))
    assert plan(parse(text), catalogue).datasets == ()
    with pytest.raises(NotSupported, match="conditions on metadata are too many"):
        plan(parse(text), catalogue * 500)
    listed = ", ".join(f"'{i}'" for i in range(9000))
    assert plan(parse(f"FROM neurons WHERE sex IN ({listed})"), catalogue * 500).datasets == ()


def test_compiling_grows_with_the_number_of_sums_and_not_with_its_square(planned: Planned) -> None:
    sums = " OR ".join(f"SUM(synapse_count + {i}) > 0" for i in range(1900))
    sql = to_clickhouse(planned(f"SELECT COUNT(*) FROM synapses HAVING {sums}"), "node")
    assert sql.count("sum(toInt128(") == 1900


def test_a_plan_needs_the_schema_version_that_brought_the_newest_column_it_uses() -> None:
    def column(name: str, since: int) -> Column:
        return Column(name, "Nullable(Float64)", Kind.METRIC, "", since=since)

    table = Table("neurons", 1, "", (column("old", 2), column("newer", 5), column("unused", 9)), since=2)
    total = Aggregate(function=Function.SUM, argument=Call(operator=Operator.NEG, arguments=(ColumnRef(name="newer"),)))
    assert minimum_schema(table, [Aggregate(function=Function.COUNT_ALL)]) == 2
    assert minimum_schema(table, [ColumnRef(name="old")]) == 2
    assert minimum_schema(table, [ColumnRef(name="old"), total]) == 5
    assert minimum_schema(table, [AttributeRef(name="unused")]) == 2
