"""LIKE while planning is ClickHouse's LIKE, and no pattern makes it slow."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syndb_common.errors import SyQLError
from syndb_common.syql import Plan, parse, plan
from syndb_common.syql.like import ends_in_escape, like
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion

CHARACTERS = "aAbÄä%_\\\n"
TEXTS = st.text(CHARACTERS, max_size=8)


def oracle(text: str, pattern: str) -> bool:
    """LIKE straight from its definition."""
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(oracle(text[i:], pattern[1:]) for i in range(len(text) + 1))
    if pattern[0] == "\\" and pattern[1:2] in ("%", "_", "\\"):
        return text[:1] == pattern[1] and oracle(text[1:], pattern[2:])
    return bool(text) and pattern[0] in ("_", text[0]) and oracle(text[1:], pattern[1:])


@given(TEXTS, TEXTS)
def test_like_is_its_definition(text: str, pattern: str) -> None:
    assert like(pattern)(text) == oracle(text, pattern)


@pytest.mark.parametrize("operator", ["like", "ilike"])
@settings(
    max_examples=100,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(texts=st.lists(TEXTS, min_size=5, max_size=40), pattern=TEXTS.filter(lambda text: not ends_in_escape(text)))
def test_like_is_that_of_clickhouse(clickhouse: Any, operator: str, texts: list[str], pattern: str) -> None:
    quoted = pattern.replace("\\", "\\\\")
    found = clickhouse.query(f"SELECT t, {operator}(t, '{quoted}') AS m FROM partials", pa.table({"t": texts}))
    matches = like(pattern, ignore_case=operator == "ilike")
    assert [matches(text) for text in found["t"].to_pylist()] == [bool(m) for m in found["m"].to_pylist()]


@pytest.mark.parametrize("unit", ["%_", "%a", "a%", "%aa%_", "_%"])
def test_no_pattern_backtracks(unit: str) -> None:
    assert not like(unit * 3000 + "X")("a" * 9000)


def test_a_hostile_pattern_is_planned() -> None:
    text = f"SELECT COUNT(*) FROM neurons WHERE dataset LIKE '{'%_' * 40}%X'"
    version = PublishedVersion(
        dataset_id=dataset_id("a"),
        version=1,
        metadata=DatasetMetadata(dataset="a" * 100),
        row_counts={},
        content_hash="0" * 64,
        schema_version=1,
        published_at=datetime(2025, 1, 1, tzinfo=UTC),
    )
    assert plan(parse(text), [version]).datasets == ()


def test_a_pattern_that_ends_in_an_escape_is_refused(planned: Callable[[str], Plan]) -> None:
    with pytest.raises(SyQLError, match="escapes nothing"):
        planned("SELECT name FROM neurons WHERE name LIKE 'a\\'")
    assert planned("SELECT name FROM neurons WHERE name LIKE 'a\\\\'").where is not None
