"""What must hold before an upload is published, and the digest of its content.

Ids are unique and made from the data set and the source id; every reference resolves within the version. Violations
are counted, and the first are shown.
"""

# ruff: noqa: S608 - names come from the data model, ids are UUIDs

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from uuid import UUID

from syndb_common.engine.work import Work
from syndb_common.errors import DataError
from syndb_common.tables.model import TABLES, Table

EXAMPLES = 5

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
        if name in with_ids:
            _check_sent_ids(work, name, staging[name], dataset)
        _check_unique(work, name, staging[name])
    for name in counts:
        for column, targets in TABLES[name].references.items():
            _check_reference(work, TABLES[name], column, targets, staging)
    return counts


def _check_sent_ids(work: Work, name: str, place: str, dataset: UUID) -> None:
    foreign = f"dataset_id != toUUID('{dataset}')"
    _refuse(work, place, foreign, f"{name}.dataset_id: {{n}} rows belong to another data set")
    wrong = f"cid != {ROW_ID.format(namespace=dataset.hex, table=name)}"
    _refuse(work, place, wrong, f"{name}.cid: {{n}} rows have a cid that is not made from data set and source_id")


def _check_unique(work: Work, name: str, place: str) -> None:
    # The key is the order of the table: groups are found while reading, without holding them all.
    duplicates = f"SELECT any(source_id) AS source_id FROM {place} GROUP BY dataset_id, version, cid HAVING count() > 1"
    in_order = "SETTINGS optimize_aggregation_in_order = 1"
    number = _count(work, f"SELECT count() AS n FROM ({duplicates}) {in_order}")
    if number:
        examples = _examples(work, f"{duplicates} ORDER BY source_id LIMIT {EXAMPLES} {in_order}")
        raise DataError(
            f"{name}.source_id: {number} source ids occur more than once: {examples}",
            hint="correct the source and import again; nothing was published",
            examples=examples,
        )


def _check_reference(
    work: Work, table: Table, column: str, targets: tuple[str, ...], staging: Mapping[str, str]
) -> None:
    def among(names: tuple[str, ...]) -> str:
        selects = [f"SELECT cid FROM {staging[name]}" for name in names if name in staging]
        return f"{column} IN ({' UNION ALL '.join(selects)})" if selects else "0"

    resolves = among(targets)
    if column == "parent_id":
        cases = ", ".join(f"parent_enum = {TABLES[name].enum}, {among((name,))}" for name in targets)
        resolves = f"multiIf(isNull(parent_enum), {resolves}, {cases}, 0)"
    _refuse(
        work,
        staging[table.name],
        f"isNotNull({column}) AND NOT ({resolves})",
        f"{table.name}.{column}: {{n}} rows have a {column} that is in none of {', '.join(targets)}",
        unresolved=column,
    )


def _refuse(work: Work, place: str, condition: str, message: str, **details: str) -> None:
    number = _count(work, f"SELECT count() AS n FROM {place} WHERE {condition}")
    if number:
        examples = _examples(
            work, f"SELECT source_id FROM {place} WHERE {condition} ORDER BY source_id LIMIT {EXAMPLES}"
        )
        raise DataError(
            f"{message.format(n=number)}; first source ids: {examples}",
            hint="correct the source and import again; nothing was published",
            count=number,
            examples=examples,
            **details,
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
        columns = ", ".join(column.name for column in TABLES[name].columns if column.name != "version")
        row = f"sipHash128(formatRow('RowBinary', {columns}))"
        (found,) = work.read_all(
            f"SELECT count() AS n, hex(sum(reinterpretAsUInt128({row}))) AS d FROM {place}"
        ).to_pylist()
        if found["n"]:
            digests[name] = [found["n"], found["d"]]
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
