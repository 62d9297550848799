"""``syndb-hub ontology``: terms in and out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Command = Callable[..., Result]


@pytest.fixture
def ontology(syndb_hub: Command, config: Path) -> Command:
    """Run ``syndb-hub ontology`` on the configured hub."""
    return lambda *words: syndb_hub("ontology", *words, "--config", str(config))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "terms.csv"
    path.write_text(
        "name,vocabulary,deprecated_by\nmedulla,brain_region,\nME,brain_region,brain_region:medulla\nfly,species,\n"
    )
    return path


def test_terms_are_imported_shown_and_replaced(ontology: Command, file: Path) -> None:
    empty = ontology("show")
    assert (empty.exit_code, "syndb-hub ontology import" in empty.stderr) == (0, True)
    done = ontology("import", str(file))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("3 terms are revision ")
    assert ontology("show").stdout.splitlines()[1:] == ["brain_region  2 terms", "species  1 terms"]
    assert ontology("show", "--vocabulary", "brain_region").stdout.splitlines() == [
        "brain_region:ME  ME  (use brain_region:medulla)",
        "brain_region:medulla  medulla",
    ]
    file.write_text("name,vocabulary\nworm,species\n")
    assert ontology("import", str(file)).exit_code == 0
    [term] = json.loads(ontology("show", "--vocabulary", "species", "--json").stdout)["terms"]
    assert (term["id"], term["label"]) == ("species:worm", "worm")
    assert ontology("show", "--vocabulary", "brain_region").exit_code == 5


def test_what_is_printed_for_programs_is_one_document(ontology: Command, file: Path) -> None:
    imported = json.loads(ontology("import", str(file), "--json").stdout)
    assert imported["vocabularies"] == {"brain_region": 2, "species": 1}
    assert json.loads(ontology("show", "--json").stdout) == imported


def test_a_table_with_a_fault_changes_nothing(ontology: Command, file: Path) -> None:
    ontology("import", str(file))
    before = ontology("show", "--json").stdout
    file.write_text("name,vocabulary,parent_name\nfly,species,insect\n")
    refused = ontology("import", str(file))
    assert (refused.exit_code, "line 2" in refused.stderr) == (3, True)
    assert ontology("import", str(file) + "x").exit_code == 2
    assert ontology("show", "--json").stdout == before
