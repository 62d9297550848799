"""A federation answers like one ClickHouse that holds all rows, and both answer like exact arithmetic."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syndb_common.syql import Plan, conform, needs_care, parse, partial_schema, plan, to_clickhouse
from syndb_common.tables.identity import dataset_id, row_id
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion

pytestmark = pytest.mark.slow

NAMES = tuple(f"node-{i}" for i in range(4))
PROPERTY = settings(
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FUNCTIONS = ("SUM", "AVG", "MIN", "MAX", "VAR_POP", "VAR_SAMP", "STDDEV_POP", "STDDEV_SAMP", "COUNT")


@dataclass(frozen=True)
class Row:
    """One synapse row as far as these tests look at it."""

    dataset: str
    region: str
    count: int
    score: int | None
    area: float | None


def table_of(rows: list[Row]) -> pa.Table:
    """Rows of ``syndb.synapses``."""
    ids = [dataset_id(row.dataset) for row in rows]
    cells = [str(row_id(owner, "synapses", str(i))) for i, owner in enumerate(ids)]
    return pa.table(
        {
            "dataset_id": pa.array([str(owner) for owner in ids], pa.string()),
            "version": pa.array([1] * len(rows), pa.uint32()),
            "cid": pa.array(cells, pa.string()),
            "source_id": pa.array([str(i) for i in range(len(rows))], pa.string()),
            "pre_id": pa.array(cells, pa.string()),
            "post_id": pa.array(cells, pa.string()),
            "brain_region": pa.array([row.region for row in rows], pa.string()),
            "synapse_count": pa.array([row.count for row in rows], pa.uint32()),
            "cleft_score": pa.array([row.score for row in rows], pa.int32()),
            "psd_area": pa.array([row.area for row in rows], pa.float64()),
        }
    )


def node_part(clickhouse: Any, question: Plan, name: str) -> pa.Table:
    """What one node sends, computed again carefully where the first part asks for it."""
    own = question.for_datasets(frozenset({(dataset_id(name), 1)}))
    part = clickhouse.query(to_clickhouse(own, "node"))
    if needs_care(part):
        part = clickhouse.query(to_clickhouse(own.model_copy(update={"careful": True}), "node"))
        assert not needs_care(part)
    return conform(partial_schema(own), part)


def federated(clickhouse: Any, question: Plan, names: tuple[str, ...] = NAMES) -> list[dict[str, Any]]:
    """The hub's answer from the parts of all nodes."""
    parts = [partial_schema(question).empty_table(), *(node_part(clickhouse, question, name) for name in names)]
    return clickhouse.query(to_clickhouse(question, "hub"), pa.concat_tables(parts)).to_pylist()


def question(text: str, names: tuple[str, ...] = NAMES) -> Plan:
    """The plan of a text over data sets named like their nodes."""
    catalogue = [
        PublishedVersion(
            dataset_id=dataset_id(name),
            version=1,
            metadata=DatasetMetadata(dataset=name, species="odd" if i % 2 else "even"),
            row_counts={},
            content_hash="0" * 64,
            schema_version=1,
            published_at=datetime(2025, 1, 1, tzinfo=UTC),
        )
        for i, name in enumerate(names)
    ]
    return plan(parse(text), catalogue)


def fill(clickhouse: Any, rows: list[Row]) -> None:
    """Make these the rows of the table."""
    clickhouse.query("", table_of(rows), "syndb.synapses")


def exact(function: str, values: list[int | float]) -> Fraction | float | int | None:
    """The aggregate by exact arithmetic; standard deviations as the square root of an exact variance."""
    numbers = [Fraction(value) for value in values]
    n = len(numbers)
    if function == "COUNT":
        return n
    if not n or (n == 1 and function.endswith("SAMP")):
        return None
    if function in ("MIN", "MAX"):
        return min(numbers) if function == "MIN" else max(numbers)
    total = sum(numbers, Fraction(0))
    if function == "SUM":
        return total
    if function == "AVG":
        return total / n
    spread = sum(((x - total / n) ** 2 for x in numbers), Fraction(0))
    variance = spread / (n - 1 if function.endswith("SAMP") else n)
    return variance if function.startswith("VAR") else math.sqrt(variance)


def agree(function: str, got: Any, wanted: Fraction | float | int | None, values: list[int | float]) -> bool:
    """Whether an answer is as close as is promised."""
    if wanted is None or got is None:
        return got is None and wanted is None
    if isinstance(values[0] if values else 0, int) and function in ("COUNT", "SUM", "MIN", "MAX"):
        return bool(got == wanted)
    if function in ("SUM", "AVG"):
        size = sum(abs(Fraction(value)) for value in values) / (len(values) if function == "AVG" else 1)
        return bool(abs(Fraction(got) - wanted) <= size * Fraction(1, 10**12))
    return bool(abs(Fraction(got) - Fraction(wanted)) <= abs(Fraction(wanted)) * Fraction(1, 10**9))


OFFSETS = st.sampled_from((0.0, 1.0, -7.5, 1e9, -1e9, 1e3))


@st.composite
def populations(draw: st.DrawFn) -> list[Row]:
    """Rows of up to four nodes: NULLs, empty nodes, single rows, constant groups, groups at very different offsets."""
    randomness = random.Random(draw(st.integers(0, 2**32)))
    rows: list[Row] = []
    offsets = {region: draw(OFFSETS) for region in ("", "medulla", 'it\'s \\ "odd"')}
    scales = {region: draw(st.sampled_from((0.0, 1.0, 1e-3, 1e4))) for region in offsets}
    for name in NAMES:
        for _ in range(draw(st.sampled_from((0, 1, 2, 7, 40)))):
            region = randomness.choice(tuple(offsets))
            area = offsets[region] + scales[region] * randomness.gauss(0, 1)
            rows.append(
                Row(
                    name,
                    region,
                    randomness.choice((0, 1, 5, 2**32 - 1, 2**32 - 2, 10**9 + randomness.randrange(3))),
                    randomness.choice((None, -(2**31), 2**31 - 1, 0, -3, 1_000_000_007)),
                    None if randomness.random() < 0.2 else area,
                )
            )
    return rows


VALUES = {
    "synapse_count": lambda row: row.count,
    "cleft_score": lambda row: row.score,
    "psd_area": lambda row: row.area,
    "synapse_count * cleft_score - 1": lambda row: None if row.score is None else row.count * row.score - 1,
}
KEYS = {
    "": lambda row: (),
    "brain_region": lambda row: (row.region,),
    "dataset": lambda row: (row.dataset,),
    "species, brain_region": lambda row: ("odd" if NAMES.index(row.dataset) % 2 else "even", row.region),
    "cleft_score": lambda row: (row.score,),
}


@PROPERTY
@given(rows=populations(), column=st.sampled_from(tuple(VALUES)), keys=st.sampled_from(tuple(KEYS)))
def test_aggregates_over_nodes_are_those_over_one_clickhouse_and_exact(
    clickhouse: Any, rows: list[Row], column: str, keys: str
) -> None:
    fill(clickhouse, rows)
    functions = [f for f in FUNCTIONS if not (f == "SUM" and "*" in column)]
    selected = ", ".join([*(keys.split(", ") if keys else []), *(f"{f}({column}) AS {f.lower()}" for f in functions)])
    asked = question(f"SELECT {selected}, COUNT(*) AS n FROM synapses" + (f" GROUP BY {keys}" if keys else ""))
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    if not keys:
        groups[()] = []
    for row in rows:
        groups[KEYS[keys](row)].append(row)
    names = keys.split(", ") if keys else []
    for answer in (federated(clickhouse, asked), clickhouse.query(to_clickhouse(asked, "all")).to_pylist()):
        assert {tuple(found[name] for name in names) for found in answer} == set(groups)
        assert len(answer) == len(groups)
        for found in answer:
            members = groups[tuple(found[name] for name in names)]
            values = [value for row in members if (value := VALUES[column](row)) is not None]
            assert found["n"] == len(members)
            for function in functions:
                wanted = exact(function, values)
                assert agree(function, found[function.lower()], wanted, values), (function, found, wanted, values)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("text", ["", " GROUP BY brain_region"])
def test_a_small_variance_at_a_large_offset_survives_federation(clickhouse: Any, scale: float, text: str) -> None:
    randomness = random.Random(7)
    rows = [Row(NAMES[i % 3], "a", 1, None, 1e9 + scale * randomness.gauss(0, 1)) for i in range(3000)]
    fill(clickhouse, rows)
    (found,) = federated(clickhouse, question(f"SELECT VARIANCE(psd_area) AS v FROM synapses{text}"))
    values = [row.area for row in rows if row.area is not None]
    assert agree("VAR_SAMP", found["v"], exact("VAR_SAMP", values), values)


def test_a_group_far_from_the_common_pivot_makes_the_node_take_care(clickhouse: Any) -> None:
    randomness = random.Random(3)
    far = {"near": 0.0, "far": 1e9}
    rows = [Row(NAMES[0], region, 1, None, far[region] + randomness.random()) for region in far for _ in range(500)]
    fill(clickhouse, rows)
    asked = question("SELECT brain_region, VAR_POP(psd_area) AS v FROM synapses GROUP BY brain_region")
    assert needs_care(clickhouse.query(to_clickhouse(asked, "node")))
    for found in federated(clickhouse, asked):
        values = [row.area for row in rows if row.region == found["brain_region"] and row.area is not None]
        assert agree("VAR_POP", found["v"], exact("VAR_POP", values), values)


@pytest.mark.parametrize("variance", ["", ", VAR_POP(psd_area) AS v"])
def test_many_equal_values_sum_without_drift(clickhouse: Any, variance: str) -> None:
    fill(clickhouse, [Row(NAMES[0], "a", 1, None, 0.1)] * 300_000)
    (found,) = federated(
        clickhouse, question(f"SELECT SUM(psd_area) AS s{variance} FROM synapses GROUP BY brain_region")
    )
    assert abs(Fraction(found["s"]) - 300_000 * Fraction(0.1)) <= 300_000 * Fraction(0.1) / 10**12
    assert found.get("v", 0) == 0


def test_no_value_of_a_row_leaves_the_node_as_a_pivot(clickhouse: Any) -> None:
    rows = [Row(NAMES[0], "a", 1, None, 1e6 + i * i / 7) for i in range(9)]
    fill(clickhouse, rows)
    part = clickhouse.query(to_clickhouse(question("SELECT VARIANCE(psd_area) FROM synapses"), "node"))
    sent = {value for column in part.columns for value in column.to_pylist()}
    assert sent.isdisjoint({row.area for row in rows})


@pytest.mark.parametrize("names", [(), NAMES[:1]])
def test_nothing_to_read_gives_one_row_without_keys_and_none_with_them(clickhouse: Any, names: tuple[str, ...]) -> None:
    fill(clickhouse, [])
    text = "SELECT COUNT(*) AS n, SUM(synapse_count) AS s, AVG(psd_area) AS a, VARIANCE(psd_area) AS v, MIN(cid) AS m"
    wanted = {"n": 0, "s": None, "a": None, "v": None, "m": None}
    asked = question(f"{text} FROM synapses", names)
    assert federated(clickhouse, asked, names) == [wanted]
    assert clickhouse.query(to_clickhouse(asked, "all")).to_pylist() == [wanted]
    assert federated(clickhouse, question(f"{text} FROM synapses GROUP BY dataset", names), names) == []


@PROPERTY
@given(
    rows=populations(),
    limit=st.integers(0, 12),
    offset=st.integers(0, 6),
    descending=st.booleans(),
    data=st.data(),
)
def test_rows_in_order_are_those_of_one_clickhouse(
    clickhouse: Any, rows: list[Row], limit: int, offset: int, descending: bool, data: st.DataObject
) -> None:
    fill(clickhouse, rows)
    key = data.draw(st.sampled_from(("psd_area", "brain_region", "cleft_score", "dataset")))
    asked = question(
        "SELECT source_id, synapse_count * 2 AS twice, psd_area > 3 AS large FROM synapses "
        f"ORDER BY {key} {'DESC' if descending else ''}, cid LIMIT {limit} OFFSET {offset}"
    )
    got = federated(clickhouse, asked)
    assert got == clickhouse.query(to_clickhouse(asked, "all")).to_pylist()
    assert len(got) == max(0, min(limit, len(rows) - offset))
    for found in got:
        row = rows[int(found["source_id"])]
        assert found["twice"] == row.count * 2
        assert found["large"] is (None if row.area is None else row.area > 3)


def test_having_order_and_limit_of_groups_happen_at_the_hub(clickhouse: Any) -> None:
    rows = [Row(name, region, i, None, None) for i, name in enumerate(NAMES) for region in ("a", "b", "b")]
    fill(clickhouse, rows)
    asked = question(
        "SELECT brain_region, SUM(synapse_count) / COUNT(*) AS ratio, 'x' AS constant FROM synapses "
        "GROUP BY brain_region HAVING COUNT(*) > 4 ORDER BY ratio DESC LIMIT 1"
    )
    assert federated(clickhouse, asked) == [{"brain_region": "b", "ratio": 1.5, "constant": "x"}]


def test_distinct_rows_of_all_nodes(clickhouse: Any) -> None:
    fill(clickhouse, [Row(name, region, 1, None, None) for name in NAMES for region in ("a", "b", "b")])
    asked = question("SELECT DISTINCT brain_region FROM synapses ORDER BY brain_region DESC")
    assert federated(clickhouse, asked) == [{"brain_region": "b"}, {"brain_region": "a"}]


def test_a_sum_beyond_64_bits_is_an_error_never_a_wrong_number(clickhouse: Any) -> None:
    fill(clickhouse, [Row(NAMES[0], "a", 2**32 - 1, 2**31 - 1, None)] * 3)
    asked = question("SELECT SUM(synapse_count * cleft_score) FROM synapses")
    with pytest.raises(RuntimeError, match="cannot be safely converted"):
        federated(clickhouse, asked)


def test_nan_and_infinity_do_not_break_the_other_groups(clickhouse: Any) -> None:
    rows = [Row(NAMES[i % 2], "odd", 1, None, value) for i, value in enumerate((math.nan, math.inf, 1.0))]
    rows += [Row(NAMES[i % 2], "fine", 1, None, float(i)) for i in range(4)]
    fill(clickhouse, rows)
    asked = question("SELECT brain_region, VAR_POP(psd_area) AS v FROM synapses GROUP BY brain_region ORDER BY 1")
    fine, odd = federated(clickhouse, asked)
    assert fine["v"] == 1.25
    assert math.isnan(odd["v"])
    by_value = question("SELECT psd_area, COUNT(*) AS n FROM synapses GROUP BY psd_area")
    assert sum(found["n"] for found in federated(clickhouse, by_value)) == len(rows)


@PROPERTY
@given(text=st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_string_is_only_ever_a_string(clickhouse: Any, text: str) -> None:
    fill(clickhouse, [Row(NAMES[0], "medulla", 1, None, None)])
    quoted = text.replace("'", "''")
    asked = question(f"SELECT '{quoted}' AS s, brain_region = '{quoted}' AS same FROM synapses")
    (found,) = clickhouse.query(to_clickhouse(asked, "all")).to_pylist()
    assert found == {"s": text, "same": text == "medulla"}


@pytest.mark.parametrize(
    "text", ["\\", "\\'", "'; DROP TABLE x; --", "a\0b", "\\0", "\\x41", "{a:String}", "/* */", "é\u2028"]
)
def test_dangerous_strings_are_only_strings(clickhouse: Any, text: str) -> None:
    fill(clickhouse, [Row(NAMES[0], "medulla", 1, None, None)])
    quoted = text.replace("'", "''")
    (found,) = clickhouse.query(to_clickhouse(question(f"SELECT '{quoted}' AS s FROM synapses"), "all")).to_pylist()
    assert found == {"s": text}


def test_parts_have_the_schema_they_are_said_to_have(clickhouse: Any) -> None:
    fill(clickhouse, [Row(NAMES[0], "a", 1, 2, 3.0)])
    for text in (
        "SELECT * FROM synapses",
        "SELECT brain_region, cid, version, MIN(psd_area), MAX(cleft_score), SUM(cleft_score), AVG(psd_area), "
        "STDDEV(psd_area), STDDEV(synapse_count), COUNT(cid), COUNT(*), MIN(brain_region) FROM synapses "
        "GROUP BY 1, 2, 3",
        "SELECT COALESCE(psd_area, 0) + 1 AS a, ROUND(psd_area, 1) AS b, LOWER(dataset) AS c, NULL AS d, "
        "NOT psd_area > 1 AS e, root_id AS f, SQRT(synapse_count) AS g, "
        "-cleft_score AS h, ABS(cleft_score) AS i FROM synapses",
    ):
        asked = question(text)
        for careful in (False, True):
            part = clickhouse.query(to_clickhouse(asked.model_copy(update={"careful": careful}), "node"))
            assert conform(partial_schema(asked), part).num_rows == 1


def test_paging_by_id_meets_every_row_once(clickhouse: Any) -> None:
    fill(clickhouse, [Row(NAMES[i % 4], "", i, None, None) for i in range(60)])
    every = [row["cid"] for row in federated(clickhouse, question("SELECT cid FROM synapses ORDER BY cid"))]
    assert len(every) == 60
    met: list[str] = []
    last = "00000000-0000-0000-0000-000000000000"
    while page := federated(
        clickhouse, question(f"SELECT cid FROM synapses WHERE cid > '{last.upper()}' ORDER BY cid LIMIT 7")
    ):
        met += [row["cid"] for row in page]
        last = met[-1]
    assert met == every


def test_ids_compare_in_the_order_they_are_sorted_in(clickhouse: Any) -> None:
    fill(clickhouse, [Row(NAMES[0], "", i, None, None) for i in range(30)])
    every = [row["cid"] for row in federated(clickhouse, question("SELECT cid FROM synapses ORDER BY cid"))]
    middle = every[11]
    for operator, wanted in (("<", 11), ("<=", 12), (">", 18), (">=", 19), ("=", 1), ("<>", 29)):
        text = f"SELECT COUNT(*) AS n FROM synapses WHERE cid {operator} '{middle}'"
        assert federated(clickhouse, question(text)) == [{"n": wanted}]
    counted = "SELECT COUNT(*) AS n FROM synapses HAVING MIN(cid) < '{}' AND MAX(cid) > '{}'"
    assert federated(clickhouse, question(counted.format(middle, middle))) == [{"n": 30}]
