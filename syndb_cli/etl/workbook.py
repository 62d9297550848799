"""Reading spreadsheets that may be cut, corrupt, or larger than anyone meant."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path
from xml.etree.ElementTree import ParseError

from openpyxl import load_workbook
from openpyxl.utils import get_column_letter
from openpyxl.utils.exceptions import InvalidFileException

from syndb_common.errors import DataError

Row = tuple[object, ...]

MAX_UNPACKED_BYTES = 256 * 1024**2
"""The parts of a workbook together; the largest source has 32 MB."""

MAX_ROWS, MAX_COLUMNS = 100_000, 2_000
"""Of one sheet; the largest source has 2,497 rows or 590 columns."""

_DAMAGE = (
    zipfile.BadZipFile, zlib.error, InvalidFileException, ParseError, EOFError, KeyError, ValueError, TypeError,
    AttributeError, IndexError, NotImplementedError, OSError,
)  # fmt: skip
"""What the zip, XML and workbook readers raise on files that are no workbooks any more."""


def read_sheets(path: Path, sheets: Collection[str] | None = None) -> dict[str, list[Row]]:
    """The cells of the named sheets, of all sheets by default; rows may differ in length.

    Raises:
        DataError: the file is missing, not a readable workbook, lacks a sheet, or is larger than the limits above.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        _check_size(path)
        workbook = load_workbook(path, read_only=True, data_only=True)
        try:
            names = workbook.sheetnames if sheets is None else list(sheets)
            if missing := [name for name in names if name not in workbook.sheetnames]:
                raise DataError(f"{path} has no sheet {missing[0]!r}; its sheets are {', '.join(workbook.sheetnames)}")
            return {name: _rows(path, name, workbook[name].iter_rows(values_only=True)) for name in names}
        finally:
            workbook.close()
    except _DAMAGE as error:
        raise DataError(f"{path} is cut or corrupt: {type(error).__name__}: {error}"[:1000]) from error


def address(sheet: str, row: int, column: int) -> str:
    """Where a cell is, for a person; ``row`` and ``column`` count from 0."""
    return f"sheet {sheet!r}, cell {get_column_letter(column + 1)}{row + 1}"


def _check_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
    if unpacked > MAX_UNPACKED_BYTES:
        raise DataError(f"{path} unpacks to {unpacked} bytes; more than {MAX_UNPACKED_BYTES} are not read")


def _rows(path: Path, sheet: str, rows: Iterable[Row]) -> list[Row]:
    kept: list[Row] = []
    for row in rows:
        if len(kept) == MAX_ROWS or len(row) > MAX_COLUMNS:
            raise DataError(f"{path}, sheet {sheet!r}: more than {MAX_ROWS} rows or {MAX_COLUMNS} columns are not read")
        kept.append(row)
    return kept
