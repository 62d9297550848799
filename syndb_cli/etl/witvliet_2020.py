"""Witvliet et al. (2021), "Connectomes across development reveal principles of brain maturation in C. elegans".

doi:10.1038/s41586-021-03778-8, preprint of 2020. Eight brains from hatching to adulthood, one workbook each with
one sheet: header ``pre, post, type, synapses``, then one row per connected pair and type. Classes are not told.
"""

from __future__ import annotations

from pathlib import Path

from syndb_cli.etl.cect import LICENCE, LICENCE_NOTE, data_file
from syndb_cli.etl.connectome import (
    CHEMICAL,
    ELECTRICAL,
    Cell,
    Connection,
    Connectome,
    ConnectomePart,
    ConnectomeSource,
    cell_name,
    weight,
)
from syndb_cli.etl.workbook import Row, address, read_sheets
from syndb_common.errors import DataError
from syndb_common.tables.versions import DatasetMetadata

HEADER = ("pre", "post", "type", "synapses")

STAGES = (
    ("L1", "e988deaa25d290786434a23131c1bf3f144e3ca07980233a6edbfcfb8d4d30be"),
    ("L1", "b365bdd96dea52c261c748232dd5d333671721865be1282f3b7efa806d010e2a"),
    ("L1", "d94d522af2a64177ebef0dea0951b2a252eb973bbed01a85a19aaafe4ff0244b"),
    ("L1", "10f16bd1f122288e9111acabccbf3fbd4811b861ce6e3293600d4eb5e42e4fbe"),
    ("L2", "011ebda64c379fa066254ddd5c8ff0ab89621e1e85e8d31ffc0b37b9602fc163"),
    ("L3", "9b342751812bf42733ae7c0de8b40f41ea0af0c5c560215d59525631b220b177"),
    ("adult", "d0fd2dd32adbe5f04ce90a2e5b74c01c9a831876527b0a2b8bd5b94edc86b037"),
    ("adult", "fdead89606257c1b26e57069fbe1de14c7696633b75b59b79e74c0bcc3497e62"),
)
"""Larval stage and SHA-256 of the workbooks 1 to 8, youngest first."""


def read(path: Path) -> Connectome:
    """Read the connectome of one stage."""
    sheets = read_sheets(path)
    sheet, rows = next(iter(sheets.items()))
    if len(sheets) > 1:
        raise DataError(f"{path} has the sheets {', '.join(sheets)} where one is expected")
    header = tuple(rows[0]) if rows else ()
    if header != HEADER:
        raise DataError(f"{path} starts with the columns {header}, not {HEADER}")
    connections = tuple(
        _connection(sheet, number, row)
        for number, row in enumerate(rows[1:], 1)
        if any(value is not None for value in row)
    )
    if not connections:
        raise DataError(f"{path} holds no connections")
    names = dict.fromkeys(name for connection in connections for name in (connection.pre, connection.post))
    return Connectome(tuple(map(Cell, names)), connections)


def _connection(sheet: str, number: int, row: Row) -> Connection:
    if len(row) != len(HEADER):
        raise DataError(f"{address(sheet, number, 0)}: the row has {len(row)} values, not {len(HEADER)}")
    pre, post, synapse_type, synapses = row
    if synapse_type not in (CHEMICAL, ELECTRICAL):
        raise DataError(f"{address(sheet, number, 2)}: unknown type of synapse {synapse_type!r}")
    return Connection(
        cell_name(pre, address(sheet, number, 0)),
        cell_name(post, address(sheet, number, 1)),
        str(synapse_type),
        weight(synapses, address(sheet, number, 3)),
    )


def _part(number: int, stage: str, sha256: str) -> ConnectomePart:
    metadata = DatasetMetadata(
        dataset=f"witvliet-2020-{number}",
        title=f"Witvliet et al. 2021, C. elegans brain {number} of 8 ({stage})",
        description=(
            f"Chemical and electrical connections of the brain of one hermaphrodite, number {number} of 8 by age. "
            f"synapse_count is the number of synapses. {LICENCE_NOTE}"
        ),
        species="Caenorhabditis elegans",
        sex="hermaphrodite",
        stage=stage,
        brain_region="nerve ring and ventral ganglion",
        microscopy="serial section electron microscopy",
        publication="10.1038/s41586-021-03778-8",
        licence=LICENCE,
        tags="connectome,development",
    )
    return ConnectomePart(metadata, data_file(f"witvliet_2020_{number} {stage}.xlsx", sha256), read)


DEVELOPMENT = ConnectomeSource(
    "c-elegans-dev",
    "C. elegans brains through development, eight stages (Witvliet 2020)",
    tuple(_part(number, stage, sha256) for number, (stage, sha256) in enumerate(STAGES, 1)),
)
