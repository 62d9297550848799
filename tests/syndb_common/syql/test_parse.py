"""Text becomes one bounded statement and its directives, or an error that says where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syndb_common.errors import NotSupported, SyQLSyntaxError
from syndb_common.syql import Download, Scope, parse

WORDS = (
    "SELECT",
    "FROM",
    "WHERE",
    "(",
    ")",
    ",",
    "*",
    "=",
    "'a'",
    "a",
    "t",
    "1",
    "SCOPE",
    "local",
    "DOWNLOAD",
    ";",
    "--",
    "/*",
    '"',
    "GROUP",
    "BY",
    "NOT",
    "CASE",
)


@pytest.mark.parametrize(
    ("text", "scope", "download"),
    [
        ("FROM synapses", None, None),
        ("FROM synapses SCOPE federation", Scope.FEDERATION, None),
        ("from synapses scope Remote download CSV", Scope.REMOTE, Download.CSV),
        ("SELECT a FROM t LIMIT 3 DOWNLOAD parquet SCOPE local;", Scope.LOCAL, Download.PARQUET),
        ("SELECT a FROM t WHERE b = 1 /* SCOPE remote */ SCOPE local -- DOWNLOAD csv", Scope.LOCAL, None),
        ("SELECT 'SCOPE federation' AS a FROM t", None, None),
        ("SELECT a FROM t WHERE b = 'x SCOPE remote'", None, None),
        ("SELECT a FROM t -- SCOPE federation", None, None),
        ('SELECT a AS "scope" FROM t', None, None),
    ],
)
def test_directives_are_words_at_the_end_of_the_query(
    text: str, scope: Scope | None, download: Download | None
) -> None:
    query = parse(text)
    assert (query.scope, query.download) == (scope, download)


def test_directives_leave_nothing_behind_in_the_statement() -> None:
    assert parse("FROM synapses SCOPE remote DOWNLOAD arrow").tree == parse("FROM synapses").tree


@pytest.mark.parametrize(
    ("text", "line", "column", "offending"),
    [
        ("SELECT a FROM t WHERE (x =", 1, 26, "="),
        ("SELECT a\nFROM t WHER x = 1 y", 2, 13, "x"),
        ("SELECT a,\n  'abc FROM t", 2, 3, "'abc FROM t"),
        ("SELECT 'a', \"b\" /* c */ -- d'\n, `e FROM t", 2, 3, "`e FROM t"),
        ("SELECT a FROM t /* never ends", 1, 17, "/* never ends"),
        ("SELECT a FROM t; SELECT b FROM t", 1, 16, ";"),
        ("SELECT a FROM t SCOPE everywhere", 1, 23, "everywhere"),
        ("SELECT a FROM t SCOPE 'local'", 1, 23, "local"),
        ("SELECT a FROM t SCOPE", 1, 17, "SCOPE"),
        ("SELECT a FROM t SCOPE local SCOPE local", 1, 17, "SCOPE"),
        ("SELECT a FROM t SCOPE remote WHERE b = 1", 1, 17, "SCOPE"),
        ("SELECT scope FROM t", 1, 8, "scope"),
        ("DROP TABLE t", 1, 1, "DROP"),
        ("", 1, 1, ""),
        ("-- nothing", 1, 1, ""),
    ],
)
def test_a_syntax_error_says_where(text: str, line: int, column: int, offending: str) -> None:
    with pytest.raises(SyQLSyntaxError) as raised:
        parse(text)
    assert raised.value.details == {"line": line, "column": column, "offending": offending}


@pytest.mark.parametrize(
    "text",
    [
        "SELECT " + "(" * 5000 + "a" + ")" * 5000 + " FROM t",
        "SELECT " + "NOT " * 9000 + "a FROM t",
        "SELECT " + "- " * 9000 + "a FROM t",
        "SELECT a FROM t WHERE " + "CASE WHEN " * 5000 + "a",
        "SELECT " + "a, " * 30_000 + "a FROM t",
        "SELECT '" + "x" * 1_000_000 + "' FROM t",
        "(" * 100_001,
    ],
)
def test_large_and_deep_texts_are_refused_as_syntax_errors(text: str) -> None:
    with pytest.raises(SyQLSyntaxError):
        parse(text)


@pytest.mark.parametrize("text", ["SELECT a FROM t UNION SELECT a FROM u", "(SELECT a FROM t)"])
def test_combined_queries_are_not_part_of_the_language(text: str) -> None:
    with pytest.raises(NotSupported):
        parse(text)


def parses_or_says_where(text: str) -> None:
    """The text is a query, or not supported, or the error names a place."""
    try:
        query = parse(text)
    except NotSupported:
        return
    except SyQLSyntaxError as error:
        line, column = error.details["line"], error.details["column"]
        assert 1 <= line <= text.count("\n") + 1
        assert column >= 1
        return
    assert query.text == text


@given(st.text(max_size=60))
def test_any_text_parses_or_fails_as_our_error(text: str) -> None:
    parses_or_says_where(text)


@given(st.lists(st.sampled_from(WORDS)))
def test_any_words_parse_or_fail_as_our_error(words: list[str]) -> None:
    parses_or_says_where(" ".join(words))
