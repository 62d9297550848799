"""Our own statements as a cluster of ClickHouse servers wants them.

One shard with any number of replicas: tables become replicated ones, and what changes tables is run on all machines.
Only statements of this package and of migrations come here, so their few forms are all that is understood.
"""

from __future__ import annotations

import re

_DDL = re.compile(
    r"(?P<head>\s*(?:CREATE\s+(?:DATABASE|TABLE|VIEW)(?:\s+IF\s+NOT\s+EXISTS)?"
    r"|DROP\s+(?:DATABASE|TABLE|VIEW)(?:\s+IF\s+EXISTS)?"
    r"|ALTER\s+TABLE|TRUNCATE\s+TABLE|KILL\s+QUERY)(?P<name>\s+(?!WHERE\b)(?:`[^`]*`|\w+)(?:\.(?:`[^`]*`|\w+))?)?)",
    re.IGNORECASE,
)
_ENGINE = re.compile(r"\bENGINE\s*=\s*((?:Replacing|Summing|Aggregating)?MergeTree)\b(?!\s*\(\s*')", re.IGNORECASE)


def on_cluster(sql: str, cluster: str) -> str:
    """The statement for all machines of ``cluster``; unchanged when it is not about databases, tables or queries."""
    match = _DDL.match(sql)
    if match is None:
        return sql
    rest = sql[match.end() :]
    if match["head"].lstrip().upper().startswith("CREATE"):
        rest = _ENGINE.sub(r"ENGINE = Replicated\1", rest)
    return f"{match['head']} ON CLUSTER `{cluster}`{rest}"
