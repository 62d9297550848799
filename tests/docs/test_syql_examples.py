"""Every query of the SyQL page: planned and compiled, or refused as the page says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from syndb_common.errors import SyQLError
from syndb_common.syql import parse, partial_schema, plan, to_clickhouse
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion
from tests.docs.pages import examples, rows

REFUSED = [(row[0].strip("`"), row[1].strip("`")) for row in rows("docs/syql.md") if row[1].startswith("`syql_")]


@pytest.fixture(scope="module")
def catalogue() -> list[PublishedVersion]:
    return [
        PublishedVersion(
            dataset_id=dataset_id(name),
            version=1,
            metadata=DatasetMetadata(dataset=name, sex=sex, species="Caenorhabditis elegans"),
            row_counts={},
            content_hash="0" * 64,
            schema_version=1,
            published_at=datetime(2025, 1, 1, tzinfo=UTC),
        )
        for name, sex in (("cook-2019-hermaphrodite", "hermaphrodite"), ("cook-2019-male", "male"))
    ]


@pytest.mark.parametrize("query", [query for query, _ in examples("docs/syql.md", "sql")])
def test_an_example_is_planned_and_compiled(query, catalogue):
    planned = plan(parse(query), catalogue)
    assert planned.datasets
    assert len(partial_schema(planned)) > 0
    for part in ("node", "hub", "all"):
        assert to_clickhouse(planned, part).startswith(("SELECT", "WITH"))


@pytest.mark.parametrize(("query", "code"), REFUSED)
def test_a_refused_query_is_refused_as_documented(query, code, catalogue):
    with pytest.raises(SyQLError) as refused:
        plan(parse(query), catalogue)
    assert refused.value.code == code


def test_there_are_examples_of_every_kind_of_refusal():
    assert {code for _, code in REFUSED} == {"syql_unknown_name", "syql_not_supported", "syql_error", "syql_syntax"}
