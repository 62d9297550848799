"""``syndb etl <dataset> {download,validate,import}`` as a person and as a script meet it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from syndb_cli.etl import app
from syndb_cli.etl.commands import CATALOG

STAGE_1 = "witvliet_2020_1 L1.xlsx"

NODE = """
data_dir = "{folder}"
[cluster]
name = "test-node"
[federation]
hub_peer_id = "12D3KooWQjpHjGsyfLAaLHdBnVRCnDVyqVMEBBNbEWTjqkMYYqVx"
password = "only for this test"
[flight]
host = "127.0.0.1"
port = {port}
"""


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def node_config(folder: Path, port: int = 50052) -> Path:
    path = folder / "node.toml"
    path.write_text(NODE.format(folder=folder / "node", port=port))
    return path


def test_help_names_every_data_set() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for entry in CATALOG:
        assert entry.key in result.stdout


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.key)
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("download", ["--output-dir", "--extract", "--json"]),
        ("validate", ["--data-dir", "--json"]),
        ("import", ["--data-dir", "--dataset-id", "--table", "--tables", "--config", "--json"]),
    ],
)
def test_every_data_set_has_the_same_three_commands(entry, command: str, options: list[str]) -> None:
    result = run(entry.key, command, "--help")
    assert result.exit_code == 0
    for option in options:
        assert option in result.stdout


def test_only_the_developmental_series_shows_stages() -> None:
    assert "--stage" in run("c-elegans-dev", "import", "--help").stdout
    assert "--stage" not in run("c-elegans-male", "import", "--help").stdout


def test_validate_shows_rows_and_accepts_underscores(real_files: Path) -> None:
    result = run("c-elegans-herm", "validate", "--data_dir", str(real_files))
    assert result.exit_code == 0
    assert "cook-2019-hermaphrodite" in result.stdout
    assert "6329" in result.stdout


def test_validate_speaks_json_to_programs(real_files: Path) -> None:
    result = run("c-elegans-dev", "validate", "--data-dir", str(real_files), "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["ok"] is True
    assert answer["rows"]["witvliet-2020-8"] == {"neurons": 219, "synapses": 2496}


def test_validate_of_a_damaged_file_exits_with_three_and_one_line(tmp_path: Path) -> None:
    for part in range(1, 9):
        stage = {5: "L2", 6: "L3", 7: "adult", 8: "adult"}.get(part, "L1")
        (tmp_path / f"witvliet_2020_{part} {stage}.xlsx").write_bytes(b"cut")
    result = run("c-elegans-dev", "validate", "--data-dir", str(tmp_path))
    assert result.exit_code == 3
    lines = result.stderr.splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 8
    assert len(lines) == 9
    assert "syndb etl c-elegans-dev download" in lines[-1]
    assert json.loads(run("c-elegans-dev", "validate", "--data-dir", str(tmp_path), "--json").stdout)["ok"] is False


def test_download_of_what_is_there_says_so(real_files: Path) -> None:
    result = run("c-elegans-dev", "download", "--output-dir", str(real_files), "--extract")
    assert result.exit_code == 0
    assert result.stdout.count("there already") == 8
    answer = json.loads(run("c-elegans-herm", "download", "--output_dir", str(real_files), "--json").stdout)
    assert [file["fetched"] for file in answer] == [False]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["c-elegans-dev", "import", "--stage", "9"], "c-elegans-dev has no stage 9"),
        (["c-elegans-male", "import", "--stage", "1"], "c-elegans-male has no stages"),
        (["c-elegans-male", "import", "--table", "axons"], "c-elegans-male has no table axons"),
        (["c-elegans-male", "import", "--tables", "neurons,axons"], "c-elegans-male has no table axons"),
    ],
)
def test_a_wrong_choice_is_told_before_anything_is_read(words: list[str], complaint: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.output


def test_import_without_a_configuration_says_how_to_get_one(tmp_path: Path) -> None:
    result = run("c-elegans-herm", "import", "--config", str(tmp_path / "absent.toml"))
    assert result.exit_code == 2
    assert "no configuration file" in result.stderr


def test_import_into_a_node_that_never_ran_says_so(tmp_path: Path) -> None:
    result = run("c-elegans-herm", "import", "--config", str(node_config(tmp_path)))
    assert result.exit_code == 2
    assert "flight.crt" in result.stderr.replace("\n", "")  # a narrow terminal breaks the path
    assert "start the daemon once" in result.stderr


def test_errors_are_json_when_asked_for(tmp_path: Path) -> None:
    result = run("c-elegans-herm", "import", "--config", str(tmp_path / "absent.toml"), "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["code"] == "config_invalid"


def test_import_needs_a_fixed_port(tmp_path: Path) -> None:
    result = run("c-elegans-herm", "import", "--config", str(node_config(tmp_path, port=0)))
    assert result.exit_code == 2
    assert "leaves the Flight port open" in result.stderr
