"""The package ``cect``, which carries the spreadsheets of several publications on C. elegans unchanged."""

from __future__ import annotations

from syndb_cli.etl.source import Package, SourceFile

CECT = Package(
    name="cect",
    version="0.3.5",
    wheel="cect-0.3.5-py3-none-any.whl",
    sha256="ea47f7a6b0d69a8d0bd3b0ade4037b7cc32d31ad0449f823d7ec153d6fd25057",
)

LICENCE = "not stated"

LICENCE_NOTE = (
    "The supplement carries no licence of its own; the package the file was taken from is under MIT for its code. "
    "Ask the authors before redistributing the data, and cite the publication."
)


def data_file(name: str, sha256: str) -> SourceFile:
    """A file from the package's folder of data."""
    return SourceFile(name, sha256, CECT, f"cect/data/{name}")
