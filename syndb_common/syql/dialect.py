"""SyQL's dialect for sqlglot: ANSI strings and quoting, and no function known by name.

Every function call reaches the planner as a plain name with arguments, so that the only list of functions is
ours. ``SCOPE`` and ``DOWNLOAD`` are reserved words; being tokens, they mean nothing inside a string, a comment
or a quoted name.
"""

from __future__ import annotations

from sqlglot import exp, parser, tokens
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ErrorLevel
from sqlglot.tokenizer_core import Token, TokenType

QUOTED = (TokenType.STRING, TokenType.IDENTIFIER)


class SyQL(Dialect):
    """Strings in ``'...'`` with ``''`` for a quote, names in ``"..."`` or backticks, NULLs last."""

    NULL_ORDERING = "nulls_are_last"

    class Tokenizer(tokens.Tokenizer):
        """The base tokenizer with backticks as a second way to quote names."""

        IDENTIFIERS = ['"', "`"]  # noqa: RUF012

    class Parser(parser.Parser):
        """The base parser, with no function treated specially."""

        FUNCTIONS = {}  # noqa: RUF012
        FUNCTION_PARSERS = {}  # noqa: RUF012
        NO_PAREN_FUNCTIONS = {}  # noqa: RUF012
        FUNC_TOKENS = parser.Parser.FUNC_TOKENS | {TokenType.FILE}


_DIALECT = SyQL()


def tokenize(text: str) -> list[Token]:
    """Tokens of a text. Raises sqlglot's ``TokenError``."""
    return list(_DIALECT.tokenize(text))


def parse_tokens(statement: list[Token], text: str) -> list[exp.Expr | None]:
    """One tree per statement. Raises sqlglot's ``ParseError``."""
    return list(_DIALECT.parser(error_level=ErrorLevel.RAISE).parse(statement, text))


def render(node: exp.Expr) -> str:
    """A tree as SyQL text, for messages and for names of result columns; only its kind when it is nested too deeply."""
    try:
        return node.sql(dialect=SyQL, unsupported_level=ErrorLevel.IGNORE)
    except RecursionError:
        return type(node).__name__
