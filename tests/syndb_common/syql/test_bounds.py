"""A short text or a small plan cannot ask for unbounded work; what is refused says what to do."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest

from syndb_common.errors import NotSupported, SyQLError
from syndb_common.syql import Plan, to_clickhouse
from syndb_common.syql.plan import PlannedDataset

Planned = Callable[[str], Plan]


def of_datasets(found: Plan, count: int) -> Plan:
    """The same plan over many data sets."""
    attributes = {"sex": "male", "stage": "it's"}
    datasets = tuple(PlannedDataset(dataset_id=uuid4(), version=1, attributes=attributes) for _ in range(count))
    return found.model_copy(update={"datasets": datasets})


def test_nested_between_does_not_double_the_work_at_every_level(planned: Planned) -> None:
    nested = "(" * 20 + "mesh_volume BETWEEN 1 AND 2)" + " BETWEEN TRUE AND TRUE)" * 19
    with pytest.raises(NotSupported, match="the expression is too large"):
        planned(f"FROM neurons WHERE {nested}")


def test_a_long_column_named_again_and_again_is_refused(planned: Planned) -> None:
    listed = ", ".join(str(i) for i in range(6000))
    text = f"SELECT mesh_volume IN ({listed}) AS a FROM neurons ORDER BY a"
    assert len(planned(text).order_by) == 1
    with pytest.raises(NotSupported, match="too large together"):
        planned(text + ", NOT a" * 40)
    with pytest.raises(NotSupported, match="too large"):
        planned(f"SELECT COUNT(*) IN ({listed}) AS a FROM neurons HAVING a" + " OR a" * 2000)


@pytest.mark.parametrize(("clause", "what"), [("GROUP BY", "groups"), ("ORDER BY", "orders")])
def test_fifty_keys_are_the_most(planned: Planned, clause: str, what: str) -> None:
    def text(count: int) -> str:
        return f"FROM neurons {clause} " + ", ".join(f"mesh_volume + {i}" for i in range(count))

    assert planned(text(50)).table == "neurons"
    with pytest.raises(NotSupported, match=f"{what} by at most 50 keys"):
        planned(text(51))


def test_metadata_of_many_data_sets_is_written_out_a_few_times(planned: Planned) -> None:
    found = of_datasets(planned("SELECT sex, stage FROM neurons"), 10_000)
    assert to_clickhouse(found, "node").count("'it''s'") == 10_000
    often = of_datasets(planned("SELECT " + ", ".join(f"sex AS a{i}" for i in range(400)) + " FROM neurons"), 10_000)
    with pytest.raises(NotSupported, match="metadata of too many data sets"):
        to_clickhouse(often, "node")


def test_variances_are_bounded_by_what_each_repeats(planned: Planned) -> None:
    variances = ", ".join(f"VAR_POP(mesh_volume + {i}) AS v{i}" for i in range(480))
    assert "__v" not in to_clickhouse(planned(f"SELECT {variances} FROM neurons"), "hub")
    listed = ", ".join(f"'{i}'" for i in range(4000))
    for found in (
        planned(f"SELECT {variances} FROM neurons WHERE name IN ({listed})"),
        of_datasets(planned(f"SELECT {variances} FROM neurons"), 10_000),
    ):
        with pytest.raises(NotSupported, match="too many variances"):
            to_clickhouse(found, "node")


@pytest.mark.parametrize("chain", ["::int" * 6000, ".a" * 9000])
def test_an_endless_chain_is_refused_and_not_an_internal_error(planned: Planned, chain: str) -> None:
    with pytest.raises(SyQLError):
        planned(f"SELECT name{chain} FROM neurons")
