"""An independent reading of the source files: what the right answers are.

Nothing here is shared with the importers, the query path or the statistics of SynDB: the workbooks are read as zipped
XML with the standard library, sums are exact integers, variances exact fractions, and the pooled effect is found
by maximising the restricted likelihood with a plain search instead of Fisher scoring.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
Row = dict[int, str]


@dataclass(frozen=True)
class Expected:
    """What is right for one data set: weights of its chemical and of its electrical connections."""

    dataset: str
    chemical: tuple[int, ...]
    electrical: tuple[int, ...]

    @property
    def weights(self) -> tuple[int, ...]:
        """All weights."""
        return self.chemical + self.electrical


def read_all(folder: Path) -> dict[str, Expected]:
    """The ten data sets by name, from the folder that holds the workbooks."""
    cook = next(folder.rglob("SI 5 Connectome adjacency matrices, corrected July 2020.xlsx"))
    found = {
        f"cook-2019-{sex}": Expected(
            f"cook-2019-{sex}",
            tuple(matrix_weights(cook, f"{sex} chemical")),
            tuple(matrix_weights(cook, f"{sex} gap jn asymmetric")),
        )
        for sex in ("hermaphrodite", "male")
    }
    for stage in range(1, 9):
        path = next(folder.rglob(f"witvliet_2020_{stage} *.xlsx"))
        rows = list(edge_rows(path))
        name = f"witvliet-2020-{stage}"
        found[name] = Expected(
            name,
            tuple(weight for kind, weight in rows if kind == "chemical"),
            tuple(weight for kind, weight in rows if kind == "electrical"),
        )
    return found


def matrix_weights(path: Path, sheet: str) -> Iterator[int]:
    """Weights of an adjacency matrix: names in the third row and the third column, cells from the fourth on."""
    rows = read_sheet(path, sheet)
    named = {column for column, text in rows[3].items() if column >= 4 and text.strip()}
    for number, row in rows.items():
        if number >= 4 and row.get(3, "").strip():
            yield from (int(float(text)) for column, text in row.items() if column in named and float(text) > 0)


def edge_rows(path: Path) -> Iterator[tuple[str, int]]:
    """Type and weight of the rows of an edge list with the columns pre, post, type, synapses."""
    rows = read_sheet(path, None)
    for number, row in rows.items():
        if number > 1 and row:
            yield row[3].strip(), int(float(row[4]))


def read_sheet(path: Path, name: str | None) -> dict[int, Row]:
    """A worksheet (the first when ``name`` is None) as texts by row and column number, both from 1."""
    with zipfile.ZipFile(path) as archive:
        strings = [
            "".join(part.text or "" for part in item.iter(MAIN + "t"))
            for item in ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
        ]
        relations = {
            item.attrib["Id"]: item.attrib["Target"]
            for item in ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
        }
        sheets = ElementTree.fromstring(archive.read("xl/workbook.xml")).iter(MAIN + "sheet")
        chosen = next(item for item in sheets if name is None or item.attrib["name"] == name)
        target = relations[chosen.attrib[RELATION]].removeprefix("/xl/").removeprefix("/")
        rows: dict[int, Row] = {}
        for row in ElementTree.fromstring(archive.read(f"xl/{target}")).iter(MAIN + "row"):
            rows[int(row.attrib["r"])] = dict(_cells(row, strings))
        return rows


def _cells(row: ElementTree.Element, strings: list[str]) -> Iterator[tuple[int, str]]:
    for cell in row.iter(MAIN + "c"):
        value = cell.find(MAIN + "v")
        inline = cell.find(f"{MAIN}is/{MAIN}t")
        text = inline.text if inline is not None else value.text if value is not None else None
        if text is not None:
            letters = re.match("[A-Z]+", cell.attrib["r"])
            assert letters is not None
            column = 0
            for letter in letters[0]:
                column = column * 26 + ord(letter) - ord("A") + 1
            yield column, strings[int(text)] if cell.attrib.get("t") == "s" else text


def mean(values: tuple[int, ...]) -> float:
    """Arithmetic mean, exact before the final rounding."""
    return float(Fraction(sum(values), len(values)))


def variance(values: tuple[int, ...]) -> float:
    """Sample variance, exact before the final rounding."""
    n, total, squares = len(values), sum(values), sum(value * value for value in values)
    return float(Fraction(n * squares - total * total, n * (n - 1)))


@dataclass(frozen=True)
class Pooled:
    """A random-effects estimate: effect, its 95 % confidence interval, and the variance between studies."""

    estimate: float
    ci: tuple[float, float]
    tau2: float
    q: float


def pool(studies: list[tuple[int, ...]]) -> Pooled:
    """Pool the means of several samples under random effects, REML, Wald interval."""
    effects = [mean(study) for study in studies]
    errors = [variance(study) / len(study) for study in studies]

    def fit(tau2: float) -> tuple[float, float, float]:
        weights = [1 / (error + tau2) for error in errors]
        total = math.fsum(weights)
        estimate = math.fsum(w * y for w, y in zip(weights, effects, strict=True)) / total
        squares = math.fsum(w * (y - estimate) ** 2 for w, y in zip(weights, effects, strict=True))
        return estimate, total, squares

    def log_likelihood(tau2: float) -> float:
        _, total, squares = fit(tau2)
        return -0.5 * (math.fsum(math.log(error + tau2) for error in errors) + math.log(total) + squares)

    spread = max(effects) - min(effects)
    tau2 = maximise(log_likelihood, 0.0, 10 * spread * spread + 1e-12)
    estimate, total, _ = fit(tau2)
    half = 1.959963984540054 * math.sqrt(1 / total)
    return Pooled(estimate, (estimate - half, estimate + half), tau2, fit(0.0)[2])


def maximise(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one maximum is largest, by golden-section search."""
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(200):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if function(left) < function(right):
            low = left
        else:
            high = right
    return (low + high) / 2
