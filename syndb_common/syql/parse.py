"""Text -> :class:`Query`: one bounded statement, its directives taken off, every failure located.

Nothing is resolved here: names, functions and types are the planner's business.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from enum import StrEnum

from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from syndb_common.errors import NotSupported, SyQLSyntaxError
from syndb_common.syql.dialect import QUOTED, parse_tokens, tokenize
from syndb_common.syql.plan import Scope

MAX_TEXT_BYTES = 100_000
MAX_TOKENS = 20_000
MAX_PARENTHESES = 50
"""Deepest nesting of parentheses; far above what a person writes, far below Python's stack."""


class Download(StrEnum):
    """File format a result is wanted in."""

    ARROW = "arrow"
    PARQUET = "parquet"
    CSV = "csv"


_CLOSED = re.compile(r"""[^'"`/-]+|'[^']*'|"[^"]*"|`[^`]*`|--[^\n]*|/\*.*?\*/|-|/(?!\*)""", re.DOTALL)
_DIRECTIVES: dict[str, type[StrEnum]] = {"SCOPE": Scope, "DOWNLOAD": Download}


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query.

    Attributes:
        tree: the statement without its directives.
        scope: as written in the text, None when it is not stated.
        download: as written in the text, None when it is not stated.
        text: the text itself.
    """

    tree: exp.Select
    scope: Scope | None
    download: Download | None
    text: str


def parse(text: str) -> Query:
    """Parse one SyQL statement.

    Raises:
        SyQLSyntaxError: the text is not one statement of SyQL or exceeds a bound; ``details`` carry ``line`` and
            ``column`` (both from 1) and the ``offending`` text.
        NotSupported: several queries combined into one.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_TEXT_BYTES:
        raise syntax_error(f"the query is longer than {MAX_TEXT_BYTES:,} bytes", text, 0, "")
    try:
        tokens = tokenize(text)
    except (SqlglotError, RecursionError, ValueError) as error:
        start = _opening_quote(text)
        raise syntax_error("a string, name or comment is not closed", text, start, text[start : start + 40]) from error
    tokens = _one_statement(tokens, text)
    directives = _take_directives(tokens, text)
    tree = _tree(tokens, text)
    scope, download = directives.get("SCOPE"), directives.get("DOWNLOAD")
    return Query(
        tree=tree,
        scope=Scope(scope) if scope else None,
        download=Download(download) if download else None,
        text=text,
    )


def location(text: str, start: int) -> tuple[int, int]:
    """Line and column, both from 1, of an offset in the text."""
    return text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)


def syntax_error(message: str, text: str, start: int, offending: str, hint: str = "") -> SyQLSyntaxError:
    """A syntax error that knows where it is."""
    line, column = location(text, start)
    return SyQLSyntaxError(
        f"{message} (line {line}, column {column})", hint=hint, line=line, column=column, offending=offending[:200]
    )


def _opening_quote(text: str) -> int:
    """Offset of the quote or comment that never closes."""
    start = 0
    while (closed := _CLOSED.match(text, start)) is not None:
        start = closed.end()
    return min(start, max(len(text) - 1, 0))


def _one_statement(tokens: list[Token], text: str) -> list[Token]:
    if len(tokens) > MAX_TOKENS:
        raise syntax_error(f"the query has more than {MAX_TOKENS:,} words", text, tokens[MAX_TOKENS].start, "")
    if tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        tokens = tokens[:-1]
    if not tokens:
        raise syntax_error("the query is empty", text, 0, "", hint="try: FROM neurons LIMIT 10")
    depth = 0
    for token in tokens:
        if token.token_type == TokenType.SEMICOLON:
            raise syntax_error("a query is exactly one statement", text, token.start, token.text)
        depth += (token.token_type == TokenType.L_PAREN) - (token.token_type == TokenType.R_PAREN)
        if depth > MAX_PARENTHESES:
            raise syntax_error("the query is nested too deeply", text, token.start, token.text)
    return tokens


def _directive(token: Token) -> str | None:
    word = token.text.upper()
    return word if word in _DIRECTIVES and token.token_type not in QUOTED else None


def _take_directives(tokens: list[Token], text: str) -> dict[str, str]:
    """Take ``SCOPE x`` and ``DOWNLOAD y`` off the end of the tokens; anywhere else they are an error."""
    found: dict[str, str] = {}
    while len(tokens) >= 2 and (name := _directive(tokens[-2])) is not None:
        value, allowed = tokens[-1], [member.value for member in _DIRECTIVES[name]]
        word = value.text.lower()
        if word not in allowed or value.token_type in QUOTED:
            near = difflib.get_close_matches(word, allowed, 1)
            raise syntax_error(
                f"{name} is one of {', '.join(allowed)}, not `{value.text}`",
                text,
                value.start,
                value.text,
                hint=f"did you mean {name} {near[0]}?" if near else "",
            )
        if name in found:
            raise syntax_error(f"{name} is stated twice", text, tokens[-2].start, tokens[-2].text)
        found[name] = word
        del tokens[-2:]
    for token in tokens:
        if (name := _directive(token)) is not None:
            values = ", ".join(member.value for member in _DIRECTIVES[name])
            raise syntax_error(
                f"{name} stands at the end of a query, followed by one of {values}",
                text,
                token.start,
                token.text,
                hint=f'to use it as a name, quote it: "{token.text}"',
            )
    return found


def _tree(tokens: list[Token], text: str) -> exp.Select:
    if not tokens:
        raise syntax_error("the query has nothing but directives", text, 0, text)
    first = tokens[0]
    try:
        trees = parse_tokens(tokens, text)
    except ParseError as error:
        found = error.errors[0] if error.errors else {}
        offending = str(found.get("highlight") or "")
        message = str(found.get("description") or "this is not SyQL")
        if message.startswith("Required keyword"):
            message = "something is missing"
        start = len(str(found.get("start_context") or ""))
        if found.get("line") and found.get("col"):
            start = _offset(text, int(found["line"]), int(found["col"])) - max(len(offending) - 1, 0)
        raise syntax_error(f"{message} at `{offending}`", text, max(start, 0), offending) from error
    except (SqlglotError, RecursionError) as error:
        raise syntax_error("the query is nested too deeply", text, first.start, first.text) from error
    except Exception as error:
        # The parser is foreign code fed with foreign text: whatever it trips over, the text is at fault.
        raise syntax_error("this is not SyQL", text, first.start, first.text) from error
    tree = trees[0] if len(trees) == 1 else None
    if isinstance(tree, exp.SetOperation | exp.Subquery):
        raise NotSupported("UNION, INTERSECT, EXCEPT and queries in parentheses are not part of SyQL")
    if not isinstance(tree, exp.Select):
        raise syntax_error(
            "a query starts with SELECT or FROM", text, first.start, first.text, hint="try: FROM neurons LIMIT 10"
        )
    return tree


def _offset(text: str, line: int, column: int) -> int:
    start = 0
    for _ in range(line - 1):
        start = text.find("\n", start) + 1
    return start + column - 1
