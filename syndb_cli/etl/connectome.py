"""Connectomes as cells and weighted connections: what readers of such files produce, and its tables.

A row of ``synapses`` is a connected pair of cells with one type of synapse; its ``synapse_count`` is the weight in the
source. The pair belongs to its presynaptic cell. Electrical synapses have no direction: they stand once, in the order
of the source.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pyarrow as pa

from syndb_cli.etl.source import Extract, Finding, Level, Progress, Report, SourceFile, silent
from syndb_common.errors import DataError, InvalidRequest
from syndb_common.tables import TABLES
from syndb_common.tables.identity import dataset_id as default_dataset_id
from syndb_common.tables.identity import row_id
from syndb_common.tables.versions import DatasetMetadata

CHEMICAL, ELECTRICAL = "chemical", "electrical"
MAX_WEIGHT = 2**32 - 1

_NAME = re.compile(r"[^\s>:\x00-\x1f][^>:\x00-\x1f]{0,99}")

_NEURONS = pa.schema(
    [(name, pa.string()) for name in ("cid", "source_id", "name", "cell_class", "cell_subclass")],
)
_SYNAPSES = pa.schema(
    [
        ("cid", pa.string()),
        ("source_id", pa.string()),
        ("parent_id", pa.string()),
        ("parent_enum", pa.uint8()),
        ("neuron_id", pa.string()),
        ("pre_id", pa.string()),
        ("post_id", pa.string()),
        ("synapse_type", pa.string()),
        ("synapse_count", pa.uint32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A node of the connectome; class and subclass are empty where the source does not tell them."""

    name: str
    cell_class: str = ""
    cell_subclass: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """All synapses of one type from cell ``pre`` to cell ``post``."""

    pre: str
    post: str
    synapse_type: str
    weight: int

    @property
    def source_id(self) -> str:
        """Name of the row: ``ADAL>ADAR:chemical``."""
        return f"{self.pre}>{self.post}:{self.synapse_type}"


@dataclass(frozen=True, slots=True)
class Connectome:
    """Cells and their connections; every end point is a cell, no connection stands twice."""

    cells: tuple[Cell, ...]
    connections: tuple[Connection, ...]

    def __post_init__(self) -> None:
        names = {cell.name for cell in self.cells}
        if len(names) != len(self.cells):
            raise DataError("a cell stands twice")
        seen: set[str] = set()
        for connection in self.connections:
            if connection.source_id in seen:
                raise DataError(f"the connection {connection.source_id} stands twice")
            seen.add(connection.source_id)
            if not {connection.pre, connection.post} <= names:
                raise DataError(f"the connection {connection.source_id} has an end that is no cell")

    def tables(self, dataset: UUID) -> dict[str, pa.Table]:
        """``neurons`` and ``synapses`` as rows of that data set."""
        ids = {cell.name: str(row_id(dataset, "neurons", cell.name)) for cell in self.cells}
        neurons = [
            {
                "cid": ids[cell.name],
                "source_id": cell.name,
                "name": cell.name,
                "cell_class": cell.cell_class,
                "cell_subclass": cell.cell_subclass,
            }
            for cell in self.cells
        ]
        synapses = [
            {
                "cid": str(row_id(dataset, "synapses", connection.source_id)),
                "source_id": connection.source_id,
                "parent_id": ids[connection.pre],
                "parent_enum": TABLES["neurons"].enum,
                "neuron_id": ids[connection.pre],
                "pre_id": ids[connection.pre],
                "post_id": ids[connection.post],
                "synapse_type": connection.synapse_type,
                "synapse_count": connection.weight,
            }
            for connection in self.connections
        ]
        return {
            "neurons": pa.Table.from_pylist(neurons, schema=_NEURONS),
            "synapses": pa.Table.from_pylist(synapses, schema=_SYNAPSES),
        }


def cell_name(value: object, where: str) -> str:
    """The name in a cell of a sheet, without the blanks around it."""
    name = value.strip() if isinstance(value, str) else ""
    if not _NAME.fullmatch(name):
        raise DataError(f"{where}: {value!r} is not the name of a cell")
    return name


def weight(value: object, where: str) -> int:
    """The weight in a cell of a sheet: a positive whole number."""
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= MAX_WEIGHT:
        raise DataError(f"{where}: the weight {value!r} is not a positive whole number")
    return number


@dataclass(frozen=True, slots=True)
class ConnectomePart:
    """One data set of a publication: its description, its file, and the function that reads it."""

    metadata: DatasetMetadata
    file: SourceFile
    read: Callable[[Path], Connectome]


@dataclass(frozen=True, slots=True)
class ConnectomeSource:
    """A :class:`~syndb_cli.etl.source.Source` whose data sets are connectomes, one file each."""

    key: str
    title: str
    parts: tuple[ConnectomePart, ...]

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets, in the order of the publication."""
        return tuple(part.metadata.dataset for part in self.parts)

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """Files of all data sets."""
        return tuple(dict.fromkeys(part.file for part in self.parts))

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables every data set has rows of."""
        return ("neurons", "synapses")

    def validate(self, folder: Path, *, datasets: Collection[str] | None = None, progress: Progress = silent) -> Report:
        """Read the files; see :meth:`Source.validate`."""
        findings: list[Finding] = []
        rows: dict[str, dict[str, int]] = {}
        chosen = self._chosen(datasets)
        for done, part in enumerate(chosen):
            name = part.file.name
            progress(f"checking {name}", done, len(chosen))
            try:
                connectome = self._read(part, folder)
            except DataError as error:
                findings.append(Finding(Level.ERROR, name, error.message, error.hint))
                continue
            findings += _edition(part.file, folder)
            rows[part.metadata.dataset] = {"neurons": len(connectome.cells), "synapses": len(connectome.connections)}
        progress("checked", len(chosen), len(chosen))
        return Report(tuple(findings), rows)

    def extract(
        self,
        folder: Path,
        *,
        datasets: Collection[str] | None = None,
        dataset_id: UUID | None = None,
        progress: Progress = silent,
    ) -> Iterator[Extract]:
        """Yield the data sets; see :meth:`Source.extract`."""
        chosen = self._chosen(datasets)
        if dataset_id is not None and len(chosen) != 1:
            raise InvalidRequest(
                f"one dataset id cannot name {len(chosen)} data sets", hint="Choose one of them, or leave the id out."
            )
        return self._extract(chosen, folder, dataset_id, progress)

    def _chosen(self, datasets: Collection[str] | None) -> list[ConnectomePart]:
        if unknown := sorted(set(datasets or ()) - set(self.datasets)):
            raise InvalidRequest(f"{self.key} has no data set {unknown[0]}", hint=f"It has {', '.join(self.datasets)}.")
        return [part for part in self.parts if datasets is None or part.metadata.dataset in datasets]

    def _extract(
        self, chosen: list[ConnectomePart], folder: Path, dataset_id: UUID | None, progress: Progress
    ) -> Iterator[Extract]:
        for done, part in enumerate(chosen):
            progress(f"reading {part.file.name}", done, len(chosen))
            dataset = dataset_id or default_dataset_id(part.metadata.dataset)
            tables = self._read(part, folder).tables(dataset)
            yield Extract(part.metadata, dataset, tables, _edition(part.file, folder))
        progress("read", len(chosen), len(chosen))

    def _read(self, part: ConnectomePart, folder: Path) -> Connectome:
        path = folder / part.file.name
        try:
            return part.read(path)
        except DataError as error:
            message = error.message if str(path) in error.message else f"{path}: {error.message}"
            hint = f"Download it again with `syndb etl {self.key} download --output-dir {shlex.quote(str(folder))}`."
            raise DataError(message, hint=hint, file=str(path)) from error


def _edition(file: SourceFile, folder: Path) -> tuple[Finding, ...]:
    path = folder / file.name
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if sha256 == file.sha256:
        return ()
    message = f"{path} is another edition than the one this importer was checked with"
    hint = "Compare the numbers of rows with the publication before you rely on them."
    return (Finding(Level.WARNING, file.name, message, hint),)
