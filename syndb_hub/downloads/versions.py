"""Whole versions of data sets: which there are, the query for the rows of one table, and whether all of them came.

Rows come from the owner of the data set only. The hub does not compute the content hash anew, it passes on what was
announced: so both are one holder's word, whose name is told. A replica could announce the same hash for other rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from syndb_common.errors import IncompleteResult, InvalidRequest, NotFound
from syndb_common.syql.plan import Scope
from syndb_common.tables.model import TABLES
from syndb_common.tables.versions import PublishedVersion
from syndb_hub.federation.targets import Holding, check_names


def select(holdings: Sequence[Holding], dataset: str, version: int | None) -> Holding:
    """The version of that number, or the newest, of the data set with this name or id, where its owner holds it.

    Raises:
        NotFound: nobody holds it.
        Conflict: the name is that of two data sets.
    """
    named = [holding for holding in holdings if dataset in (holding.version.metadata.dataset, str(holding.key[0]))]
    check_names(named)
    found: dict[int, Holding] = {}
    for holding in sorted(named, key=lambda holding: holding.seniority):
        found.setdefault(holding.version.version, holding)
    if not found:
        raise NotFound(f"no data set {dataset[:100]}", hint="`syndb federation clusters` shows what there is.")
    number = max(found) if version is None else version
    if number not in found:
        there = ", ".join(str(each) for each in sorted(found))
        raise NotFound(f"{dataset} has no version {number}", hint=f"There are: {there}.")
    return found[number]


def tables_of(version: PublishedVersion, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The tables of a version that have rows, or those of them that are wanted.

    Raises:
        InvalidRequest: it does not have what is wanted, or the hub does not know a table of it.
    """
    with_rows = [table for table, rows in version.row_counts.items() if rows]
    there = [table for table in with_rows if table in TABLES]
    if wanted is None and len(there) < len(with_rows):
        unknown = ", ".join(sorted(set(with_rows) - set(there)))
        raise InvalidRequest(
            f"this hub does not know {unknown[:200]} of this version", hint=f"Name tables: {', '.join(sorted(there))}."
        )
    if missing := sorted(set(wanted or ()) - set(there)):
        raise InvalidRequest(
            f"this version has no {', '.join(missing)[:200]}", hint=f"It has: {', '.join(sorted(there))}."
        )
    return tuple(table for table in there if wanted is None or table in wanted)


def asked_of(holding: Holding) -> dict[str, Any]:
    """How a job asks this holder and nobody else, and fails without it."""
    if holding.cluster is None:
        return {"scope": Scope.LOCAL, "require": "all"}
    return {"scope": Scope.REMOTE, "cluster_ids": [holding.cluster.record.id], "require": "all"}


def rows_query(version: PublishedVersion, table: str) -> str:
    """SyQL for all rows of one table of a version."""
    which = f"dataset_id = '{version.dataset_id}' AND version = {version.version}"
    return f"SELECT * FROM {table} WHERE {which}"  # noqa: S608 - SyQL, of a published version's own names


def check_rows(version: PublishedVersion, table: str, rows: int) -> None:
    """Whether so many rows are all of the table.

    Raises:
        IncompleteResult: they are not.
    """
    expected = version.row_counts.get(table, 0)
    if rows != expected:
        raise IncompleteResult(
            f"{rows:,} of {expected:,} rows of {table} came", hint="Ask again; if it stays so, tell the owner."
        )
