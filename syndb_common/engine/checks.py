"""What must hold before an upload is published, and the digest of its content.

Ids are unique and made from the data set and the source id; every reference resolves within the version. Violations
are counted, and the first are shown.
"""

# ruff: noqa: S608 - names come from the data model, ids are UUIDs

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from uuid import UUID

from syndb_common.engine.work import Work
from syndb_common.errors import DataError
from syndb_common.tables.model import TABLES, Table

EXAMPLES = 5
UNIQUE_ROWS = 50_000_000
"""Ids that are compared with each other at once: they take some GB of memory. More are compared in several passes."""

ROW_ID = (
    "reinterpretAsUUID(bitOr("
    "bitShiftLeft(toUInt128(bitOr(bitAnd(byteSwap(reinterpretAsUInt64(substring("
    "SHA1(concat(unhex('{namespace}'), '{table}/', source_id)) AS sha1, 9, 8))), "
    "0x3FFFFFFFFFFFFFFF), 0x8000000000000000)), 64), "
    "toUInt128(bitOr(bitAnd(byteSwap(reinterpretAsUInt64(substring(sha1, 1, 8))), 0xFFFFFFFFFFFF0FFF), 0x5000))))"
)
""":func:`syndb_common.tables.identity.row_id` in ClickHouse: UUID version 5; ``namespace`` is the data set's hex."""


def check_rows(
    work: Work, staging: Mapping[str, str], dataset: UUID, with_ids: Collection[str] = tuple(TABLES)
) -> dict[str, int]:
    """Check the staged tables (table name to staging table) and return the rows of every table that has any.

    ``with_ids`` are the tables whose ids came with the rows; those that the engine made are right.

    Raises:
        DataError: a rule is broken; the message says which, how often and where.
    """
    counts = {name: _count(work, f"SELECT count() AS n FROM {place}") for name, place in staging.items()}
    counts = {name: count for name, count in counts.items() if count}
    if not counts:
        raise DataError("the upload holds no rows")
    for name in counts:
        rules = _id_rules(name, dataset) if name in with_ids else []
        rules += [
            _reference(TABLES[name], column, targets, staging) for column, targets in TABLES[name].references.items()
        ]
        _check(work, staging[name], rules)
        _check_unique(work, name, staging[name], counts[name])
    return counts


@dataclass(frozen=True, slots=True)
class _Rule:
    """What no row may be; ``message`` has a place for the number of rows that are."""

    condition: str
    message: str
    details: Mapping[str, str]


def _id_rules(name: str, dataset: UUID) -> list[_Rule]:
    wrong = f"cid != {ROW_ID.format(namespace=dataset.hex, table=name)}"
    return [
        _Rule(f"dataset_id != toUUID('{dataset}')", f"{name}.dataset_id: {{n}} rows belong to another data set", {}),
        _Rule(wrong, f"{name}.cid: {{n}} rows have a cid that is not made from data set and source_id", {}),
    ]


def _reference(table: Table, column: str, targets: tuple[str, ...], staging: Mapping[str, str]) -> _Rule:
    def among(names: tuple[str, ...]) -> str:
        selects = [f"SELECT cid FROM {staging[name]}" for name in names if name in staging]
        return f"{column} IN ({' UNION ALL '.join(selects)})" if selects else "0"

    resolves = among(targets)
    if column == "parent_id":
        cases = ", ".join(f"parent_enum = {TABLES[name].enum}, {among((name,))}" for name in targets)
        resolves = f"multiIf(isNull(parent_enum), {resolves}, {cases}, 0)"
    return _Rule(
        f"isNotNull({column}) AND NOT ({resolves})",
        f"{table.name}.{column}: {{n}} rows have a {column} that is in none of {', '.join(targets)}",
        {"unresolved": column},
    )


def _check(work: Work, place: str, rules: Sequence[_Rule]) -> None:
    """Count what breaks each rule, all in one pass, and refuse the first that is broken."""
    if not rules:
        return
    counts = ", ".join(f"countIf({rule.condition}) AS n{number}" for number, rule in enumerate(rules))
    (found,) = work.read_all(f"SELECT {counts} FROM {place}").to_pylist()
    for number, rule in enumerate(rules):
        if count := found[f"n{number}"]:
            first = f"SELECT source_id FROM {place} WHERE {rule.condition} ORDER BY source_id LIMIT {EXAMPLES}"
            examples = _examples(work, first)
            raise DataError(
                f"{rule.message.format(n=count)}; first source ids: {examples}",
                hint="correct the source and import again; nothing was published",
                count=count,
                examples=examples,
                **rule.details,
            )


def _check_unique(work: Work, name: str, place: str, rows: int) -> None:
    passes = 1 + rows // UNIQUE_ROWS
    shares = [f" WHERE cityHash64(cid) % {passes} = {number}" for number in range(passes)] if passes > 1 else [""]
    if all(not _count(work, f"SELECT count() - uniqExact(cid) AS n FROM {place}{share}") for share in shares):
        return
    # The key is the order of the table: groups are found while reading, without holding them all.
    duplicates = f"SELECT any(source_id) AS source_id FROM {place} GROUP BY dataset_id, version, cid HAVING count() > 1"
    in_order = "SETTINGS optimize_aggregation_in_order = 1"
    number = _count(work, f"SELECT count() AS n FROM ({duplicates}) {in_order}")
    examples = _examples(work, f"{duplicates} ORDER BY source_id LIMIT {EXAMPLES} {in_order}")
    raise DataError(
        f"{name}.source_id: {number} source ids occur more than once: {examples}",
        hint="correct the source and import again; nothing was published",
        examples=examples,
    )


def _count(work: Work, sql: str) -> int:
    return int(work.read_all(sql).column(0)[0].as_py())


def _examples(work: Work, sql: str) -> str:
    return ", ".join(str(value)[:100] for value in work.read_all(sql).column(0).to_pylist())


def content_hash(work: Work, staging: Mapping[str, str]) -> str:
    """SHA-256 over the tables' names, row counts and sums of row digests: independent of row order and version.

    A row's digest is that of its columns in ClickHouse's RowBinary, one text: hashing sixty columns one by one and
    combining the hashes costs six times as much.
    """
    digests = {}
    for name, place in sorted(staging.items()):
        row = f"sipHash128({_row_binary(work, name, place)})"
        (found,) = work.read_all(
            f"SELECT count() AS n, hex(sum(reinterpretAsUInt128({row}))) AS d FROM {place}"
        ).to_pylist()
        if found["n"]:
            digests[name] = [found["n"], found["d"]]
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _row_binary(work: Work, name: str, place: str) -> str:
    """All columns but the version in RowBinary, as SQL.

    Most sources fill few of the columns. Those without any value are not formatted row by row, which would take a third
    of the time: their byte, which says that the value is missing, is a constant.
    """
    columns = [column for column in TABLES[name].columns if column.name != "version"]
    counted = [f"count({column.name}) AS {column.name}" for column in columns if column.nullable]
    (values,) = work.read_all(f"SELECT {', '.join(counted)} FROM {place}").to_pylist()
    pieces = ["''", "''"]  # concat wants two
    for empty, run in groupby(columns, lambda column: values.get(column.name) == 0):
        names = [column.name for column in run]
        pieces.append(f"unhex('{'01' * len(names)}')" if empty else f"formatRow('RowBinary', {', '.join(names)})")
    return f"concat({', '.join(pieces)})"
