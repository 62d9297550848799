"""What people read when ClickHouse refuses."""

from __future__ import annotations

import pytest

from syndb_common.engine.failures import from_clickhouse
from syndb_common.errors import Cancelled, LimitExceeded, SynDBError, SyQLError, UnknownName


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)", LimitExceeded),
        ("Code: 159. DB::Exception: Timeout exceeded. (TIMEOUT_EXCEEDED)", LimitExceeded),
        ("Code: 396. DB::Exception: Limit for result exceeded. (TOO_MANY_ROWS_OR_BYTES)", LimitExceeded),
        ("Code: 394. DB::Exception: Query was cancelled. (QUERY_WAS_CANCELLED)", Cancelled),
        ("Code: 60. DB::Exception: Unknown table. (UNKNOWN_TABLE)", UnknownName),
        ("Code: 62. DB::Exception: Syntax error. (SYNTAX_ERROR)", SyQLError),
        ("Code: 9999. DB::Exception: Something new. (NEW)", SynDBError),
        ("no code at all", SynDBError),
    ],
)
def test_a_code_becomes_the_error_that_clients_know(said: str, kind: type[SynDBError]) -> None:
    assert type(from_clickhouse(said)) is kind


@pytest.mark.parametrize(
    "tail",
    [
        " (in query: SELECT secret FROM t). (ILLEGAL)",
        ": In scope SELECT secret FROM t. (ILLEGAL)",
        ": While executing MergeTree, secret. (ILLEGAL)",
        ". (ILLEGAL)\nStack trace: secret",
        ". (ILLEGAL) (version 26.9.2.1 (official build)) (for url http://secret:8123)",
    ],
)
def test_neither_the_query_nor_a_stack_trace_is_shown(tail: str) -> None:
    error = from_clickhouse(f"Code: 43. DB::Exception: Illegal type{tail}")
    assert error.message == "the engine refused: Illegal type"
