"""Files that are missing, cut, corrupt or changed are refused, naming the file, the place and the way out."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from openpyxl import Workbook

from syndb_cli.etl import workbook
from syndb_cli.etl.cook_2019 import FILE as COOK_FILE
from syndb_cli.etl.cook_2019 import HERMAPHRODITE
from syndb_cli.etl.source import Level, Report
from syndb_cli.etl.witvliet_2020 import DEVELOPMENT
from syndb_common.errors import DataError

STAGE_1 = DEVELOPMENT.files[0].name
HEADER = ("pre", "post", "type", "synapses")


def witvliet(folder: Path, *rows: tuple[object, ...], header: tuple[str, ...] = HEADER, sheets: int = 1) -> Report:
    book = Workbook()
    for row in (header, *rows):
        book.active.append(row)
    for number in range(1, sheets):
        book.create_sheet(f"more {number}")
    book.save(folder / STAGE_1)
    return DEVELOPMENT.validate(folder, datasets=["witvliet-2020-1"])


def cook(folder: Path, change: Callable[[dict[tuple[str, str], object]], None] = lambda cells: None) -> Report:
    """A workbook of two cells in the layout of SI 5; ``change`` edits its cells by sheet and address."""
    cells: dict[tuple[str, str], object] = {}
    for sheet in ("hermaphrodite chemical", "hermaphrodite gap jn asymmetric"):
        cells |= {
            (sheet, "D1"): "SENSORY NEURONS", (sheet, "E1"): "OTHER END ORGANS", (sheet, "D2"): 5,
            (sheet, "D3"): "ASHL", (sheet, "E3"): " hyp ", (sheet, "C4"): "ASHL ", (sheet, "E4"): 3,
            (sheet, "F4"): "ASHL", (sheet, "D5"): "ASHL", (sheet, "E5"): "hyp",
        }  # fmt: skip
    change(cells)
    book = Workbook()
    for sheet in dict.fromkeys(sheet for sheet, _ in cells):
        page = book.create_sheet(sheet)
        for (owner, place), value in cells.items():
            if owner == sheet:
                page[place] = value
    book.save(folder / COOK_FILE.name)
    return HERMAPHRODITE.validate(folder)


def error_of(report: Report) -> str:
    (message,) = [finding.message for finding in report.findings if finding.level is Level.ERROR]
    assert not report.ok
    assert not report.rows
    return message


def test_another_edition_is_read_with_a_warning(tmp_path: Path) -> None:
    report = witvliet(tmp_path, ("ADAL", "ADAR", "electrical", 1), (" ADAL ", "AIBR", "chemical", 2.0))
    assert report.ok
    assert report.rows == {"witvliet-2020-1": {"neurons": 3, "synapses": 2}}
    (finding,) = report.findings
    assert finding.level is Level.WARNING
    assert "another edition" in finding.message
    (extract,) = DEVELOPMENT.extract(tmp_path, datasets=["witvliet-2020-1"])
    assert extract.warnings == report.findings
    assert extract.tables["neurons"]["name"].to_pylist() == ["ADAL", "ADAR", "AIBR"]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (("ADAL", "ADAR", "chemical", 0), "cell D3: the weight 0 is not a positive whole number"),
        (("ADAL", "ADAR", "chemical", -1), "cell D3: the weight -1 is not"),
        (("ADAL", "ADAR", "chemical", 1.5), "cell D3: the weight 1.5 is not"),
        (("ADAL", "ADAR", "chemical", "many"), "cell D3: the weight 'many' is not"),
        (("ADAL", "ADAR", "chemical", None), "cell D3: the weight None is not"),
        (("ADAL", "ADAR", "chemical", 2**32), "cell D3: the weight 4294967296 is not"),
        (("ADAL", "ADAR", "magic", 1), "cell C3: unknown type of synapse 'magic'"),
        (("ADAL", "  ", "chemical", 1), "cell B3: '  ' is not the name of a cell"),
        ((None, "ADAR", "chemical", 1), "cell A3: None is not the name of a cell"),
        (("A>B", "ADAR", "chemical", 1), "cell A3: 'A>B' is not the name of a cell"),
        (("AIBR ", "ADAL", "chemical", 1), "the connection AIBR>ADAL:chemical stands twice"),
    ],
)
def test_a_bad_row_is_named_with_its_place(tmp_path: Path, row: tuple[object, ...], complaint: str) -> None:
    message = error_of(witvliet(tmp_path, ("AIBR", "ADAL", "chemical", 1), row))
    assert complaint in message
    assert STAGE_1 in message


def test_a_list_needs_its_header_one_sheet_and_some_rows(tmp_path: Path) -> None:
    row = ("ADAL", "ADAR", "chemical", 1)
    assert "starts with the columns" in error_of(witvliet(tmp_path, row, header=("from", "to", "type", "n")))
    assert "where one is expected" in error_of(witvliet(tmp_path, row, sheets=2))
    assert "no connections" in error_of(witvliet(tmp_path))


def test_a_matrix_is_read_up_to_its_repeated_labels(tmp_path: Path) -> None:
    assert cook(tmp_path).rows == {"cook-2019-hermaphrodite": {"neurons": 2, "synapses": 2}}
    (extract,) = HERMAPHRODITE.extract(tmp_path)
    assert [(row["name"], row["cell_class"]) for row in extract.tables["neurons"].to_pylist()] == [
        ("ASHL", "sensory neuron"),
        ("hyp", "other end organ"),
    ]


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("E4", 2.5, "cell E4: the weight 2.5 is not a positive whole number"),
        ("E4", "x", "cell E4: the weight 'x' is not"),
        ("G4", 7, "cell G4: 7 stands outside the matrix"),
        ("D6", 12, "cell D6: 12 stands outside the matrix"),
        ("E3", "ASHL", "names the cell ASHL twice in row 3"),
        ("E3", 17, "cell E3: 17 is not the name of a cell"),
        ("D3", None, "no names of cells in row 3"),
        ("C4", None, "no names of cells in column C"),
        ("D1", "GLIA", "unknown class of cells 'GLIA'"),
        ("D1", None, "unknown class of cells None"),
        ("D2", "TAIL", "unknown subclass of cells 'TAIL'"),
    ],
)
def test_a_bad_cell_of_a_matrix_is_named(tmp_path: Path, place: str, value: object, complaint: str) -> None:
    def change(cells: dict[tuple[str, str], object]) -> None:
        cells["hermaphrodite chemical", place] = value

    assert complaint in error_of(cook(tmp_path, change))


def test_a_missing_sheet_is_named_with_those_there_are(tmp_path: Path) -> None:
    def change(cells: dict[tuple[str, str], object]) -> None:
        for key in [key for key in cells if "gap jn" in key[0]]:
            del cells[key]

    assert "has no sheet 'hermaphrodite gap jn asymmetric'; its sheets are" in error_of(cook(tmp_path, change))


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing") as caught:
        list(HERMAPHRODITE.extract(tmp_path))
    assert f"syndb etl c-elegans-herm download --output-dir {tmp_path}" in caught.value.hint


def test_one_bad_stage_does_not_hide_the_others(real_files: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(real_files, tmp_path / "files")
    (folder / STAGE_1).write_bytes(b"not a workbook")
    report = DEVELOPMENT.validate(folder)
    assert [finding.file for finding in report.findings] == [STAGE_1]
    assert set(report.rows) == set(DEVELOPMENT.datasets) - {"witvliet-2020-1"}


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_file_is_refused(real_files: Path, tmp_path: Path, part: float) -> None:
    content = (real_files / STAGE_1).read_bytes()
    (tmp_path / STAGE_1).write_bytes(content[: int(len(content) * part)])
    report = DEVELOPMENT.validate(tmp_path, datasets=["witvliet-2020-1"])
    assert "cut or corrupt" in error_of(report)
    assert "download" in report.findings[0].hint


def test_no_flipped_byte_changes_what_is_read(real_files: Path, tmp_path: Path) -> None:
    content = (real_files / STAGE_1).read_bytes()
    rows = DEVELOPMENT.validate(real_files, datasets=["witvliet-2020-1"]).rows
    for position in range(0, len(content), 997):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        (tmp_path / STAGE_1).write_bytes(damaged)
        report = DEVELOPMENT.validate(tmp_path, datasets=["witvliet-2020-1"])
        assert not report.ok or report.rows == rows, position


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / STAGE_1, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b"0" * 2_000_000)
    monkeypatch.setattr(workbook, "MAX_UNPACKED_BYTES", 1_000_000)
    assert "unpacks to 2000000 bytes" in error_of(DEVELOPMENT.validate(tmp_path, datasets=["witvliet-2020-1"]))


def test_a_sheet_larger_than_any_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbook, "MAX_ROWS", 3)
    rows = [("ADAL", f"A{number}", "chemical", 1) for number in range(5)]
    assert "more than 3 rows" in error_of(witvliet(tmp_path, *rows))
