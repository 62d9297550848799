"""ClickHouse's error codes as our errors.

ClickHouse says ``Code: 241. DB::Exception: text. (NAME)``, sometimes with the query or a stack trace behind it.
People see its first line without the query.
"""

from __future__ import annotations

import re

from syndb_common.errors import (
    Cancelled,
    ConfigError,
    DataError,
    EngineUnavailable,
    LimitExceeded,
    SynDBError,
    SyQLError,
    TooManyRequests,
    UnknownName,
)

_MESSAGE = re.compile(r"Code: (?P<code>\d+)\. DB::\w+: (?P<text>.*)", re.DOTALL)
_TAIL = re.compile(
    r":? (?:Expected one of|In scope|[Ww]hile executing|In query|\(in query:|Stack trace|\(version|\(for url)"
    r"[: ].*",
    re.DOTALL,
)
_NAME = re.compile(r"\.? \([A-Z_]+\)$")
_TIME, _MEMORY, _CANCELLED = 159, 241, 394
_TOO_MANY_QUERIES = 202
_NO_SPACE = 243
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_UNAVAILABLE = frozenset({203, 209, 210, 225, 236, 242, 279, 285, 319, 373, 439, 999})
"""Cut off, stopping, or a replica without its coordinator: the same may work a moment later."""
_REFUSED = frozenset({192, 193, 194, 195, 291, 497, 516})
"""The user that the configuration names is unknown, or may not do this."""
_DAMAGED = frozenset({33, 40, 246, 271, 432})
"""What is stored cannot be read back."""
_LIMITS = frozenset({158, 160, 191, 306, 307, 396})
_UNKNOWN = frozenset({16, 46, 47, 60, 81})
_WRONG = frozenset({6, 27, 36, 38, 41, 42, 43, 48, 53, 62, 69, 70, 72, 153, 164, 184, 215, 349, 386, 395, 407})


def disk_full() -> EngineUnavailable:
    """What to say when the engine has no room to write."""
    return EngineUnavailable(
        "the disk of the engine is full",
        hint="make room there and do the same again: published versions, and what an upload has sent, are kept",
    )


def explains(text: str) -> bool:
    """Whether ClickHouse says in this text what is wrong."""
    return _MESSAGE.search(text) is not None


def from_clickhouse(text: str) -> SynDBError:
    """The error that a ClickHouse message stands for; its number is in ``details["clickhouse_code"]``."""
    match = _MESSAGE.search(text)
    if match is None:
        return disk_full() if _FULL.search(text) else SynDBError(f"the engine failed: {_first_line(text)}")
    code = int(match["code"])
    error = disk_full() if _FULL.search(text) else _error(code, _first_line(match["text"]))
    error.details["clickhouse_code"] = code
    return error


def said_by_clickhouse(error: SynDBError) -> bool:
    """Whether ClickHouse itself says that it did not do it. Otherwise it may have, or may yet."""
    code = error.details.get("clickhouse_code")
    return code is not None and code not in _UNAVAILABLE


def _error(code: int, message: str) -> SynDBError:
    if code == _NO_SPACE:
        return disk_full()
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
        return LimitExceeded(message, hint="ask for less: add a condition or a LIMIT")
    if code == _TOO_MANY_QUERIES:
        return TooManyRequests("the engine has too many queries", hint="try again in a moment")
    if code in _UNAVAILABLE:
        return EngineUnavailable(f"the engine cannot do this now: {message}", hint="repeat the query")
    if code in _DAMAGED:
        return DataError(
            f"stored rows are damaged: {message}",
            hint="upload them again, or restore a backup; check the disk",
        )
    if code in _REFUSED:
        return ConfigError(
            f"the engine does not admit us: {message}",
            hint="check user, password_file and what that user may do",
        )
    kind: type[SynDBError] = SynDBError
    if code in _UNKNOWN:
        kind = UnknownName
    elif code in _WRONG:
        kind = SyQLError
    return kind(f"the engine refused: {message}")


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "no message"
    return _NAME.sub("", _TAIL.sub("", line))[:500].rstrip(". ")
