"""What tests of several parts share."""

from __future__ import annotations

from pathlib import Path

import pytest

from syndb_cli.etl.commands import CATALOG
from syndb_cli.etl.download import download
from syndb_common.errors import Unavailable


@pytest.fixture(scope="session")
def real_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of every source; without a package index the tests that need it are skipped."""
    folder = tmp_path_factory.mktemp("connectomes")
    files = dict.fromkeys(file for entry in CATALOG for file in entry.load().files)
    try:
        download(list(files), folder)
    except Unavailable as error:
        pytest.skip(f"the data files cannot be fetched: {error.message}")
    return folder
