"""What an importer is: the contract of a source, and what it hands over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

if TYPE_CHECKING:  # the command line names all sources at start, and Arrow takes a while to load
    import pyarrow as pa

    from syndb_common.tables.versions import DatasetMetadata

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """The progress callback of a caller who does not look."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package of the Python package index that carries data files; its code is never run.

    Attributes:
        wheel: file name of the wheel.
        sha256: of the wheel, in hex.
    """

    name: str
    version: str
    wheel: str
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file a source reads.

    Attributes:
        name: its name in the data folder.
        sha256: of the edition the importer was written for, in hex.
        package, member: the package that carries it, and its path inside.
    """

    name: str
    sha256: str
    package: Package
    member: str


class Level(StrEnum):
    """How bad a finding is: an error prevents the import, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a person should know about a file before importing it, and what to do about it."""

    level: Level
    file: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a validation.

    Attributes:
        findings: what is wrong or unusual, in the order of the files.
        rows: for every data set that could be read, the rows of its tables.
    """

    findings: tuple[Finding, ...]
    rows: dict[str, dict[str, int]]

    @property
    def ok(self) -> bool:
        """Whether the files can be imported."""
        return all(finding.level is not Level.ERROR for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Extract:
    """One data set, ready for upload.

    Attributes:
        tables: Arrow tables by the name of ours, with the columns the source knows something about; UUIDs as text.
            ``dataset_id`` and ``version`` are left to the server.
        warnings: what a person should know before relying on it.
    """

    metadata: DatasetMetadata
    dataset_id: UUID
    tables: dict[str, pa.Table]
    warnings: tuple[Finding, ...] = ()


class Source(Protocol):
    """One publication.

    ``key`` names it on the command line, ``title`` says what it is; ``datasets`` and ``tables`` are the names of what
    it yields, ``files`` what it reads.
    """

    @property
    def key(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def datasets(self) -> tuple[str, ...]: ...

    @property
    def tables(self) -> tuple[str, ...]: ...

    @property
    def files(self) -> tuple[SourceFile, ...]: ...

    def validate(self, folder: Path, *, datasets: Collection[str] | None = None, progress: Progress = silent) -> Report:
        """Read the files of the data sets named, of all by default, and say what is wrong with them.

        Raises:
            InvalidRequest: an unknown data set. About the data nothing is raised: the report says it.
        """
        ...

    def extract(
        self,
        folder: Path,
        *,
        datasets: Collection[str] | None = None,
        dataset_id: UUID | None = None,
        progress: Progress = silent,
    ) -> Iterator[Extract]:
        """Yield the data sets named, all of them by default, one at a time.

        Args:
            dataset_id: id instead of the one that follows from the name; for a single data set only.

        Raises:
            InvalidRequest: an unknown data set, or one id for several.
            DataError: a file is missing, damaged or breaks a rule; the hint says what to do.
        """
        ...
