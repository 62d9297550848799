"""Cook et al. (2019), "Whole-animal connectomes of both Caenorhabditis elegans sexes", doi:10.1038/s41586-019-1352-7.

Supplementary information 5 as corrected in July 2020 holds three matrices for each sex. Rows are presynaptic, columns
postsynaptic; weights are electron microscopy sections in which a synapse is seen. Names stand in row 3 and column C,
their classes in rows 1 and 2 above, cells from D4 on; the last row and the last column repeat the names. Gap
junctions are read from the sheet "asymmetric", which holds each pair once; the one called "symmetric" mirrors it.
"""

from __future__ import annotations

from collections.abc import Callable
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

FILE = data_file(
    "SI 5 Connectome adjacency matrices, corrected July 2020.xlsx",
    "1f4fdbf84746b69b49a8da0816f52787860ce349b638dce37924ba80f90c70c9",
)

CLASS_ROW, SUBCLASS_ROW, NAME_ROW, FIRST_ROW = 0, 1, 2, 3
NAME_COLUMN, FIRST_COLUMN = 2, 3

CLASSES = {
    "PHARYNX": "pharynx",
    "SENSORY NEURONS": "sensory neuron",
    "SENSOSRY NEURONS": "sensory neuron",
    "INTERNEURONS": "interneuron",
    "MOTOR NEURONS": "motor neuron",
    "BODYWALL MUSCLES": "body wall muscle",
    "OTHER END ORGANS": "other end organ",
    "SEX-SPECIFIC": "sex-specific cell",
    "SEX-SPECIFIC CELLS": "sex-specific cell",
}
"""Labels of the class row as written in the sheets, slips included."""

SUBCLASSES = {
    "HEAD MOTOR NEURONS": "head motor neuron",
    "SUBLATERAL MOTOR NEURONS": "sublateral motor neuron",
    "VENTRAL CORD MOTOR NEURONS": "ventral cord motor neuron",
    "BODY MOTOR NEURONS": "ventral cord motor neuron",
    "HEAD": "head",
    "SENSORY NEURONS": "sensory neuron",
    "INTERNEURONS": "interneuron",
    "MOTOR NEURONS": "motor neuron",
    "MUSCLES": "muscle",
    "OTHER": "other",
}
"""Labels of the row below; numbers there are the layers of sensory neurons and interneurons."""

CLASSES_AMONG_SUBCLASSES = ("BODYWALL MUSCLES", "OTHER END ORGANS")
"""Classes that some sheets write in the row of the subclasses, under MOTOR NEURONS."""


def reader(sex: str) -> Callable[[Path], Connectome]:
    """The function that reads the connectome of one sex from the workbook."""

    def read(path: Path) -> Connectome:
        chemical, electrical = f"{sex} chemical", f"{sex} gap jn asymmetric"
        sheets = read_sheets(path, (chemical, electrical))
        cells: dict[str, Cell] = {}
        connections: list[Connection] = []
        for sheet, synapse_type in ((chemical, CHEMICAL), (electrical, ELECTRICAL)):
            rows = sheets[sheet]
            columns = _names(sheet, list(rows[NAME_ROW]) if len(rows) > NAME_ROW else [], along_row=True)
            names = _names(sheet, [row[NAME_COLUMN] if len(row) > NAME_COLUMN else None for row in rows])
            cells |= {name: Cell(name) for name in names if name not in cells}
            cells |= {cell.name: cell for cell in _classified(sheet, rows, columns)}
            connections += _connections(sheet, rows, names, columns, synapse_type)
        return Connectome(tuple(cells.values()), tuple(connections))

    return read


def _names(sheet: str, values: list[object], *, along_row: bool = False) -> list[str]:
    """The names along one edge of the matrix, up to the first blank; the repeated ones beyond belong to no cell."""
    first = FIRST_COLUMN if along_row else FIRST_ROW
    names: list[str] = []
    for position, value in enumerate(values[first:], first):
        if value is None:
            break
        where = address(sheet, NAME_ROW, position) if along_row else address(sheet, position, NAME_COLUMN)
        names.append(cell_name(value, where))
    if not names:
        raise DataError(f"sheet {sheet!r} has no names of cells in {'row 3' if along_row else 'column C'}")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"sheet {sheet!r} names the cell {twice} twice in {'row 3' if along_row else 'column C'}")
    return names


def _classified(sheet: str, rows: list[Row], columns: list[str]) -> list[Cell]:
    """The cells of the columns with the classes above them; the row labels misplace um2AL and um2AR."""
    cells: list[Cell] = []
    label = sublabel = None
    for column, name in enumerate(columns, FIRST_COLUMN):
        if (above := _at(rows, CLASS_ROW, column)) is not None:
            label, sublabel = above, None
        if (above := _at(rows, SUBCLASS_ROW, column)) is not None:
            sublabel = above
        cell_class, cell_subclass = _class_of(label, sublabel, address(sheet, CLASS_ROW, column))
        cells.append(Cell(name, cell_class, cell_subclass))
    return cells


def _class_of(label: object, sublabel: object, where: str) -> tuple[str, str]:
    if sublabel in CLASSES_AMONG_SUBCLASSES:
        label, sublabel = sublabel, None
    cell_class = CLASSES.get(str(label).strip())
    if cell_class is None:
        raise DataError(f"{where}: unknown class of cells {label!r}")
    if sublabel is None:
        return cell_class, ""
    if isinstance(sublabel, int):
        return cell_class, f"{cell_class} layer {sublabel}"
    if sublabel not in SUBCLASSES:
        raise DataError(f"{where}: unknown subclass of cells {sublabel!r}")
    return cell_class, SUBCLASSES[str(sublabel)]


def _connections(
    sheet: str, rows: list[Row], names: list[str], columns: list[str], synapse_type: str
) -> list[Connection]:
    connections: list[Connection] = []
    for row_number, row in enumerate(rows[FIRST_ROW:], FIRST_ROW):
        inside = row_number < FIRST_ROW + len(names)
        for column, value in enumerate(row[FIRST_COLUMN:], FIRST_COLUMN):
            if value is None:
                continue
            where = address(sheet, row_number, column)
            if inside and column < FIRST_COLUMN + len(columns):
                pre, post = names[row_number - FIRST_ROW], columns[column - FIRST_COLUMN]
                connections.append(Connection(pre, post, synapse_type, weight(value, where)))
            elif not isinstance(value, str):
                raise DataError(f"{where}: {value!r} stands outside the matrix of named cells")
    return connections


def _at(rows: list[Row], row: int, column: int) -> object:
    return rows[row][column] if column < len(rows[row]) else None


def _source(key: str, sex: str) -> ConnectomeSource:
    metadata = DatasetMetadata(
        dataset=f"cook-2019-{sex}",
        title=f"Cook et al. 2019, C. elegans adult {sex}",
        description=(
            f"Chemical and electrical connections of the whole adult {sex}, assembled from several animals "
            f"(supplementary information 5, corrected July 2020). synapse_count is the number of electron microscopy "
            f"sections with synaptic contact. {LICENCE_NOTE}"
        ),
        species="Caenorhabditis elegans",
        sex=sex,
        stage="adult",
        brain_region="whole animal",
        microscopy="serial section electron microscopy",
        publication="10.1038/s41586-019-1352-7",
        licence=LICENCE,
        tags="connectome",
    )
    title = f"C. elegans {sex}, whole animal (Cook 2019)"
    return ConnectomeSource(key, title, (ConnectomePart(metadata, FILE, reader(sex)),))


HERMAPHRODITE = _source("c-elegans-herm", "hermaphrodite")
MALE = _source("c-elegans-male", "male")
