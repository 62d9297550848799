"""The real files as the importers read them."""

from pathlib import Path

import pytest

from syndb_cli.etl.commands import CATALOG
from syndb_cli.etl.source import Extract


@pytest.fixture(scope="session")
def extracts(real_files: Path) -> dict[str, Extract]:
    """All data sets of all sources by name, read once; nobody changes them."""
    return {x.metadata.dataset: x for entry in CATALOG for x in entry.load().extract(real_files)}
