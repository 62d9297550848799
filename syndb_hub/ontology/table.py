"""Terms as a table: CSV in UTF-8, a line with the names of the columns first, then one term a line.

| column | |
|---|---|
| ``name`` | what people read and metadata hold |
| ``vocabulary`` | ``brain_region``, ``species``, ... |
| ``parent_name`` | names of broader terms of the same vocabulary |
| ``description`` | what the term means |
| ``id`` | stable name of the term; ``vocabulary:name`` where there is none |
| ``synonyms`` | other names |
| ``parents`` | ids of broader terms |
| ``deprecated_by`` | id of the term to use instead |

The first two are needed. ``|`` separates several values of one cell, and blanks around a value do not count.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from pydantic import ValidationError

from actors.ontology_sync import MAX_BYTES, MAX_TERMS
from syndb_common.errors import ConfigError, DataError, LimitExceeded
from syndb_common.messages import OntologyTerm

NEEDED = ("name", "vocabulary")
COLUMNS = (*NEEDED, "parent_name", "description", "id", "synonyms", "parents", "deprecated_by")
_COLUMN_OF = {"label": "name", "definition": "description"}
"""Where a column is called otherwise than a term's field."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One line, with its values without blanks."""

    line: int
    cells: Mapping[str, str]

    @property
    def id(self) -> str:
        return self.cells.get("id") or f"{self.cells['vocabulary']}:{self.cells['name']}"

    def list(self, column: str) -> tuple[str, ...]:
        """The values of a cell that may hold several, each once."""
        parts = (part.strip() for part in self.cells.get(column, "").split("|"))
        return tuple(dict.fromkeys(part for part in parts if part))


def read_file(path: Path) -> list[OntologyTerm]:
    """The terms of a file.

    Raises:
        ConfigError: it cannot be read.
        DataError, LimitExceeded: as of :func:`read`.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LimitExceeded(f"{path} is larger than {MAX_BYTES} bytes, and a node keeps no more")
        with path.open(encoding="utf-8-sig", newline="") as file:
            return read(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8", hint="Save it as CSV in UTF-8.") from error


def read(lines: Iterable[str]) -> list[OntologyTerm]:
    """The terms of a table, which refer to each other and to nothing else.

    Raises:
        DataError: it is no such table, a term is not as it has to be, stands twice, refers to one that does not exist
            or, over others, to itself; the message names the line.
        LimitExceeded: it has more terms than a federation.
    """
    rows: list[_Row] = []
    for row in _rows(lines):
        if len(rows) == MAX_TERMS:
            raise LimitExceeded(f"more than {MAX_TERMS} terms, and a federation has at most so many")
        rows.append(row)
    if not rows:
        raise DataError("the table has no terms", hint="One line for each, after the line with the columns' names.")
    by_id: dict[str, _Row] = {}
    by_name: defaultdict[tuple[str, str], list[_Row]] = defaultdict(list)
    for row in rows:
        if (former := by_id.setdefault(row.id, row)) is not row:
            raise _wrong(row, f"the term {row.id} stands in line {former.line} already")
        by_name[row.cells["vocabulary"], row.cells["name"]].append(row)
    terms = [_term(row, by_id, by_name) for row in rows]
    _refuse_cycles(by_id, {term.id: term.parents for term in terms}, "is broader than itself")
    replaced = {term.id: (term.deprecated_by,) for term in terms if term.deprecated_by}
    _refuse_cycles(by_id, replaced, "is to be replaced by itself")
    return terms


def _rows(lines: Iterable[str]) -> Iterator[_Row]:
    reader = csv.reader(lines, strict=True)
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        _check_columns(columns)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                raise DataError(
                    f"line {reader.line_num} has {len(cells)} cells for {len(columns)} columns",
                    hint='A value with a comma is written in quotes: "a, b".',
                )
            row = _Row(reader.line_num, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)})
            for column in NEEDED:
                if not row.cells[column]:
                    raise _wrong(row, f"{column} is empty")
            yield row
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} is no CSV: {error}") from error


def _check_columns(columns: Sequence[str]) -> None:
    unknown = [name for name in columns if name not in COLUMNS]
    missing = [name for name in NEEDED if name not in columns]
    twice = [name for name in columns if columns.count(name) > 1]
    if unknown or missing or twice:
        wrong = f"lacks {missing[0]}" if missing else f"has {(unknown or twice)[0][:100]!r}" + " twice" * (not unknown)
        raise DataError(
            f"line 1, which names the columns, {wrong}",
            hint=f"The columns are {', '.join(COLUMNS)}; the first two are needed.",
        )


def _term(row: _Row, by_id: Mapping[str, _Row], by_name: Mapping[tuple[str, str], Sequence[_Row]]) -> OntologyTerm:
    parents = list(row.list("parents"))
    for name in row.list("parent_name"):
        found = by_name.get((row.cells["vocabulary"], name), ())
        if len(found) != 1:
            raise _wrong(
                row,
                f"{len(found) or 'no'} terms of the vocabulary {row.cells['vocabulary']} have the name {name}",
                hint="Name the parent by its id, in the column parents." if found else "",
            )
        parents.append(found[0].id)
    deprecated_by = row.cells.get("deprecated_by", "")
    for other in (*parents, *filter(None, [deprecated_by])):
        if other not in by_id:
            raise _wrong(row, f"there is no term {other}")
    try:
        return OntologyTerm(
            id=row.id,
            vocabulary=row.cells["vocabulary"],
            label=row.cells["name"],
            definition=row.cells.get("description", ""),
            synonyms=row.list("synonyms"),
            parents=tuple(dict.fromkeys(parents)),
            deprecated_by=deprecated_by,
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        field = str(fault["loc"][0])
        raise _wrong(row, f"{_COLUMN_OF.get(field, field)}: {fault['msg']}") from None


def _refuse_cycles(by_id: Mapping[str, _Row], edges: Mapping[str, Iterable[str]], what: str) -> None:
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        way = error.args[1]
        names = " - ".join(way if len(way) <= 10 else (*way[:9], "...", way[-1]))
        raise _wrong(by_id[way[0]], f"the term {way[0]} {what}: {names}") from None


def _wrong(row: _Row, text: str, hint: str = "") -> DataError:
    return DataError(f"line {row.line}: {text[:1000]}", hint=hint)
