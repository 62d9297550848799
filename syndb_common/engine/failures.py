"""ClickHouse's error codes as our errors.

ClickHouse says ``Code: 241. DB::Exception: text. (NAME)``, sometimes with the query or a stack trace behind it.
People see its first line without the query.
"""

from __future__ import annotations

import re

from syndb_common.errors import Cancelled, LimitExceeded, SynDBError, SyQLError, UnknownName

_MESSAGE = re.compile(r"Code: (?P<code>\d+)\. DB::\w+: (?P<text>.*)", re.DOTALL)
_TAIL = re.compile(
    r":? (?:Expected one of|In scope|While executing|while executing|In query|\(in query:|Stack trace|\(version) .*",
    re.DOTALL,
)
_NAME = re.compile(r"\.? \([A-Z_]+\)$")
_TIME, _MEMORY, _CANCELLED = 159, 241, 394
_LIMITS = frozenset({158, 160, 191, 306, 307, 396})
_UNKNOWN = frozenset({16, 46, 47, 60, 81})
_WRONG = frozenset({6, 27, 36, 38, 41, 42, 43, 48, 53, 62, 69, 70, 72, 153, 164, 184, 215, 349, 386, 395, 407})


def from_clickhouse(text: str) -> SynDBError:
    """The error that a ClickHouse message stands for; its number is in ``details["clickhouse_code"]``."""
    match = _MESSAGE.search(text)
    if match is None:
        return SynDBError(f"the engine failed: {_first_line(text)}")
    code = int(match["code"])
    message = _first_line(match["text"])
    if code == _CANCELLED:
        return Cancelled("the query was cancelled")
    if code == _TIME:
        return LimitExceeded(f"the query took too long: {message}", hint="ask for less, or allow more time")
    if code == _MEMORY:
        return LimitExceeded(
            f"the query needs more memory than it may use: {message}",
            hint="group by fewer distinct values, select fewer columns, or allow more memory",
        )
    if code in _LIMITS:
        return LimitExceeded(message, hint="ask for less: add a condition or a LIMIT", clickhouse_code=code)
    kind: type[SynDBError] = SynDBError
    if code in _UNKNOWN:
        kind = UnknownName
    elif code in _WRONG:
        kind = SyQLError
    return kind(f"the engine refused: {message}", clickhouse_code=code)


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "no message"
    return _TAIL.sub("", _NAME.sub("", line))[:500].rstrip(". ")
