"""The published connectomes come out of their files complete, once, and with the same ids every time."""

from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from syndb_cli.etl.commands import CATALOG
from syndb_cli.etl.cook_2019 import HERMAPHRODITE, MALE
from syndb_cli.etl.source import Extract
from syndb_cli.etl.witvliet_2020 import DEVELOPMENT
from syndb_common.errors import InvalidRequest
from syndb_common.tables import TABLES
from syndb_common.tables.identity import dataset_id, row_id

ARROW_TYPES = {"UUID": pa.string(), "String": pa.string(), "UInt8": pa.uint8(), "UInt32": pa.uint32()}


def count_and_sum(extract: Extract, synapse_type: str) -> tuple[int, int]:
    synapses = extract.tables["synapses"]
    weights = synapses.filter(pc.equal(synapses["synapse_type"], synapse_type))["synapse_count"]
    return len(weights), pc.sum(weights).as_py()


@pytest.mark.parametrize(
    ("name", "chemical", "electrical", "neurons"),
    [
        ("cook-2019-hermaphrodite", (4879, 28113), (1450, 11680), 473),
        ("cook-2019-male", (5306, 45959), (1758, 15910), 598),
        ("witvliet-2020-1", (775, 1296), (83, 104), 187),
        ("witvliet-2020-8", (2186, 7970), (310, 430), 219),
    ],
)
def test_counts_are_those_of_the_publication(
    extracts: dict[str, Extract], name: str, chemical: tuple[int, int], electrical: tuple[int, int], neurons: int
) -> None:
    extract = extracts[name]
    assert count_and_sum(extract, "chemical") == chemical
    assert count_and_sum(extract, "electrical") == electrical
    assert extract.tables["neurons"].num_rows == neurons


def test_development_is_eight_data_sets_in_the_order_of_age(extracts: dict[str, Extract]) -> None:
    stages = [extracts[f"witvliet-2020-{stage}"] for stage in range(1, 9)]
    assert list(extracts)[-8:] == [extract.metadata.dataset for extract in stages]
    assert [extract.metadata.stage for extract in stages] == ["L1"] * 4 + ["L2", "L3", "adult", "adult"]
    assert [count_and_sum(extract, "chemical")[0] for extract in stages] == [
        775, 986, 1012, 1136, 1515, 1525, 2202, 2186,
    ]  # fmt: skip


def test_gap_junctions_stand_once_per_pair(extracts: dict[str, Extract]) -> None:
    for extract in extracts.values():
        rows = extract.tables["synapses"].to_pylist()
        pairs = [frozenset((r["pre_id"], r["post_id"])) for r in rows if r["synapse_type"] == "electrical"]
        assert len(pairs) == len(set(pairs)) > 0


def test_a_second_extraction_gives_the_same_rows(real_files: Path, extracts: dict[str, Extract]) -> None:
    (again,) = HERMAPHRODITE.extract(real_files)
    assert again == extracts["cook-2019-hermaphrodite"]
    assert again.dataset_id == dataset_id("cook-2019-hermaphrodite")


def test_ids_follow_from_data_set_table_and_source_id(extracts: dict[str, Extract]) -> None:
    extract = extracts["witvliet-2020-1"]
    for table, rows in extract.tables.items():
        for row in rows.to_pylist():
            assert row["cid"] == str(row_id(extract.dataset_id, table, row["source_id"]))


def test_another_dataset_id_gives_other_rows(real_files: Path, extracts: dict[str, Extract]) -> None:
    chosen = UUID("00000000-0000-4000-8000-000000000001")
    (extract,) = DEVELOPMENT.extract(real_files, datasets=["witvliet-2020-1"], dataset_id=chosen)
    ours = set(extract.tables["neurons"]["cid"].to_pylist())
    default = set(extracts["witvliet-2020-1"].tables["neurons"]["cid"].to_pylist())
    assert extract.dataset_id == chosen
    assert not ours & default


def test_synapses_point_to_neurons_and_are_named_after_them(extracts: dict[str, Extract]) -> None:
    for extract in extracts.values():
        names = {row["cid"]: row["name"] for row in extract.tables["neurons"].to_pylist()}
        for row in extract.tables["synapses"].to_pylist():
            assert row["source_id"] == f"{names[row['pre_id']]}>{names[row['post_id']]}:{row['synapse_type']}"
            assert row["parent_id"] == row["neuron_id"] == row["pre_id"]
            assert row["parent_enum"] == TABLES["neurons"].enum
            assert row["synapse_count"] > 0


def test_names_carry_no_blanks_and_labels_are_no_neurons(extracts: dict[str, Extract]) -> None:
    for extract in extracts.values():
        names = extract.tables["neurons"]["name"].to_pylist()
        assert all(name == name.strip() != "" for name in names)
        assert len(names) == len(set(names))
        assert not {name for name in names if name.upper().endswith(("NEURONS", "MUSCLES", "CELLS", "TOTAL"))}
        assert not {"vm2pL", "pm9"} & set(names)  # slips in the repeated labels beyond the matrix


@pytest.mark.parametrize(
    ("sex", "name", "cell_class", "cell_subclass"),
    [
        ("hermaphrodite", "I1L", "pharynx", ""),
        ("hermaphrodite", "ASHL", "sensory neuron", "sensory neuron layer 5"),
        ("hermaphrodite", "AVAL", "interneuron", "interneuron layer 1"),
        ("hermaphrodite", "DA01", "motor neuron", "ventral cord motor neuron"),
        ("hermaphrodite", "dBWML1", "body wall muscle", ""),
        ("hermaphrodite", "hyp", "other end organ", ""),
        ("hermaphrodite", "VC04", "sex-specific cell", "motor neuron"),
        ("hermaphrodite", "um2AL", "sex-specific cell", "muscle"),
        ("hermaphrodite", "vm1AL", "sex-specific cell", "muscle"),
        ("male", "CEMDL", "sex-specific cell", "head"),
        ("male", "R1AL", "sex-specific cell", "sensory neuron"),
        ("male", "ASHL", "sensory neuron", "sensory neuron layer 5"),
        ("male", "gonad", "sex-specific cell", "other"),
    ],
)
def test_classes_are_those_of_the_section_labels(
    extracts: dict[str, Extract], sex: str, name: str, cell_class: str, cell_subclass: str
) -> None:
    (row,) = [row for row in extracts[f"cook-2019-{sex}"].tables["neurons"].to_pylist() if row["name"] == name]
    assert (row["cell_class"], row["cell_subclass"]) == (cell_class, cell_subclass)


def test_every_cook_neuron_has_a_class_and_no_witvliet_neuron_is_given_one(extracts: dict[str, Extract]) -> None:
    for sex in ("hermaphrodite", "male"):
        assert "" not in extracts[f"cook-2019-{sex}"].tables["neurons"]["cell_class"].to_pylist()
    assert set(extracts["witvliet-2020-8"].tables["neurons"]["cell_class"].to_pylist()) == {""}


def test_columns_and_types_are_those_of_the_table_model(extracts: dict[str, Extract]) -> None:
    extract = extracts["witvliet-2020-1"]
    for table, rows in extract.tables.items():
        for field in rows.schema:
            column = TABLES[table].column(field.name)
            assert column is not None, field.name
            assert field.type == ARROW_TYPES[column.base_type], field.name
        assert not {"dataset_id", "version"} & set(rows.column_names)


def test_metadata_says_what_the_data_are(extracts: dict[str, Extract]) -> None:
    metadata = extracts["cook-2019-male"].metadata
    assert (metadata.species, metadata.sex, metadata.publication) == (
        "Caenorhabditis elegans",
        "male",
        "10.1038/s41586-019-1352-7",
    )
    assert metadata.licence == "not stated"
    assert "no licence" in metadata.description


def test_the_real_files_validate_without_a_finding(real_files: Path) -> None:
    for source in (HERMAPHRODITE, MALE, DEVELOPMENT):
        report = source.validate(real_files)
        assert report.ok
        assert report.findings == ()
        assert set(report.rows) == set(source.datasets)


def test_the_catalogue_of_commands_agrees_with_its_sources() -> None:
    for entry in CATALOG:
        source = entry.load()
        assert (entry.key, entry.title) == (source.key, source.title)
        assert entry.stages in (0, len(source.datasets))


def test_data_sets_must_exist_and_one_id_names_one_data_set(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no data set witvliet-2020-9"):
        DEVELOPMENT.extract(tmp_path, datasets=["witvliet-2020-9"])
    with pytest.raises(InvalidRequest, match="cannot name 8 data sets"):
        DEVELOPMENT.extract(tmp_path, dataset_id=dataset_id("x"))
