"""``syndb-node engine``: what an operator saved stands again, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio
from typer.testing import CliRunner

from syndb_common.engine.backup import restore
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.published import versions
from syndb_common.errors import Conflict, DataError, SynDBError
from syndb_common.tables.versions import PublishedVersion
from syndb_hub.main import app as syndb_hub
from tests.syndb_node.stopped_node import ALL, ROWS, command_words, run_command, stopped_node

pytestmark = pytest.mark.slow

NEURONS = "SELECT * EXCEPT (cid, dataset_id) FROM syndb.neurons WHERE version = 2 ORDER BY source_id"
AUDIT = "SELECT * EXCEPT (dataset_id) FROM syndb_records.changes ORDER BY at"

_syndb_node = partial(run_command, "syndb-node")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a stopped node with three versions of two data sets. Tests leave it as it is."""
    config = stopped_node(tmp_path_factory.mktemp("node"))
    audit = config.parent / "data" / "audit.jsonl"
    audit.write_text('{"sequence": 1}\n')
    audit.chmod(0o640)
    return config


@pytest.fixture(scope="module")
def saved(node: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it, which tests leave as it is."""
    done = _syndb_node("engine", "backup", "--config", node, tmp_path_factory.mktemp("saved"))
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def _published(data: Path) -> tuple[list[PublishedVersion], list[dict[str, Any]], list[dict[str, Any]]]:
    """What an engine of this folder has: its versions, one of its tables, and its audit."""
    found: list[Any] = []

    async def look() -> None:
        engine = LocalEngine(data / "engine")
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            found.append(await versions(engine))
            found.extend([(await engine.query(sql)).table.to_pylist() for sql in (NEURONS, AUDIT)])
            nursery.cancel_scope.cancel()

    trio.run(look)
    return found[0], found[1], found[2]


def _files(data: Path) -> dict[str, tuple[int, str]]:
    """Mode and digest of every file but ClickHouse's."""
    return {
        path.relative_to(data).as_posix(): (path.stat().st_mode & 0o777, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in data.rglob("*")
        if path.is_file() and "clickhouse" not in path.parts and path.suffix != ".toml"
    }


def test_a_node_that_was_saved_stands_again_as_it_was(node: Path, saved: Path, tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    done = _syndb_node("engine", "restore", saved, "--data-dir", data)
    assert done.returncode == 0, done.stderr

    assert _files(data) == _files(node.parent / "data")
    assert {"identity.key", "engine/upload-token", "engine/tls/flight.key", "audit.jsonl"} <= set(_files(data))
    assert (data / "node.toml").read_bytes() == node.read_bytes()
    assert [path.name for path in data.parent.iterdir()] == ["data"]
    assert data.stat().st_mode & 0o777 == 0o700
    found = _published(data)
    assert sorted((v.metadata.dataset, v.version) for v in found[0]) == ALL
    assert [(entry["what"], entry["dataset"]) for entry in found[2]] == [
        ("published", n) for n in ("worm", "worm", "fly")
    ]
    assert found == _published(node.parent / "data")


def test_a_hub_that_was_saved_stands_again_with_all_that_it_knows(node: Path, tmp_path: Path) -> None:
    config, data, new = tmp_path / "hub.toml", tmp_path / "data", tmp_path / "new" / "data"
    hub = CliRunner()
    assert hub.invoke(syndb_hub, ["init", "--config", str(config), "--data-dir", str(data)]).exit_code == 0
    made = hub.invoke(syndb_hub, ["token", "create", "--config", str(config), "--name", "alice"])
    assert made.exit_code == 0, made.output
    shutil.copytree(node.parent / "data" / "engine", data / "engine", symlinks=True)
    saved = run_command("syndb-hub", "engine", "backup", "--config", config, tmp_path)
    assert saved.returncode == 0, saved.stderr
    done = run_command("syndb-hub", "engine", "restore", saved.stdout.strip(), "--data-dir", new)
    assert done.returncode == 0, done.stderr
    known, found = _files(data), _files(new)
    assert {**known, "hub.lock": None} == {**found, "hub.lock": None}  # which says who holds it
    assert {"identity.key", "hub.sqlite"} <= set(found)
    assert (new / "hub.toml").read_bytes() == config.read_bytes()
    config.write_text(config.read_text().replace(str(data), str(new)))
    assert "alice" in hub.invoke(syndb_hub, ["token", "list", "--config", str(config)]).output
    assert sorted((v.metadata.dataset, v.version) for v in _published(new)[0]) == ALL


def test_a_backup_is_for_its_owner_only_and_readable_without_us(saved: Path) -> None:
    assert saved.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    with tarfile.open(saved) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert manifest["schema_version"] == 1
        fly = next(v for v in manifest["versions"] if v["commit"]["row_counts"] == {"neurons": ROWS})
        name = f"versions/{fly['commit']['dataset_id']}/1/neurons.arrow"
        content = tar.extractfile(name).read()  # type: ignore[union-attr]
    assert hashlib.sha256(content).hexdigest() == fly["tables"]["neurons"]["sha256"]
    assert pa.ipc.open_stream(content).read_all().num_rows == ROWS


def test_a_backup_replaces_no_file(node: Path, tmp_path: Path) -> None:
    target = tmp_path / "there.tar"
    target.write_text("mine")
    done = _syndb_node("engine", "backup", "--config", node, target)
    assert (done.returncode, target.read_text()) == (6, "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["there.tar"]


def test_a_running_node_is_not_saved(node: Path, tmp_path: Path) -> None:
    done: list[subprocess.CompletedProcess[str]] = []

    async def save_meanwhile() -> None:
        engine = LocalEngine(node.parent / "data" / "engine")
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            words = ("engine", "backup", "--config", node, tmp_path / "new.tar")
            done.append(await trio.to_thread.run_sync(_syndb_node, *words))
            nursery.cancel_scope.cancel()

    trio.run(save_meanwhile)
    assert done[0].returncode == 2
    assert "is in use by another process" in done[0].stderr
    assert "Stop the daemon" in done[0].stderr
    assert not list(tmp_path.iterdir())


def test_a_version_that_is_damaged_is_not_saved(node: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(node.parent / "data", data, symlinks=True)

    async def damage() -> None:
        engine = LocalEngine(data / "engine")
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            await engine.execute(
                "ALTER TABLE syndb.neurons UPDATE gaba = 0.5 WHERE version = 2 AND gaba = 5e-324 "
                "SETTINGS mutations_sync = 2"
            )
            nursery.cancel_scope.cancel()

    trio.run(damage)
    config = tmp_path / "node.toml"
    config.write_text(node.read_text().replace(str(node.parent / "data"), str(data)))
    done = _syndb_node("engine", "backup", "--config", config, tmp_path / "new.tar")
    assert done.returncode == 10
    assert "version 2 of worm is damaged" in done.stderr
    assert not list(tmp_path.glob("*new.tar*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(disk)]
    mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small file system: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_is_too_small_is_said_and_nothing_half_done_is_left(
    node: Path, saved: Path, small_disk: Path
) -> None:
    done = _syndb_node("engine", "backup", "--config", node, small_disk)
    assert (done.returncode, "No space left on device" in done.stderr) == (1, True), done.stderr
    assert "make room" in done.stderr
    assert not list(small_disk.iterdir())
    with pytest.raises(SynDBError, match=r"too little room .*: \d+ MB are needed, 0 are free"):
        restore(saved, "node", small_disk / "data", print)
    assert not list(small_disk.iterdir())


@pytest.fixture
def in_use(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "identity.key").write_text("another")
    return folder


def test_a_restore_overwrites_nothing(saved: Path, in_use: Path) -> None:
    with pytest.raises(Conflict, match="is not empty"):
        restore(saved, "node", in_use, print)
    assert [path.name for path in in_use.iterdir()] == ["identity.key"]
    assert (in_use / "identity.key").read_text() == "another"


def _positions(saved: Path) -> Iterator[tuple[str, int]]:
    with tarfile.open(saved) as tar:
        for member in tar:
            yield member.name, member.offset_data + member.size // 2


@pytest.mark.parametrize("part", ["files/identity.key", "neurons.arrow", "manifest.json", "manifest.sha256"])
def test_one_changed_byte_anywhere_is_found_and_nothing_is_restored(saved: Path, tmp_path: Path, part: str) -> None:
    damaged = tmp_path / "damaged.tar"
    shutil.copy(saved, damaged)
    position = next(position for name, position in _positions(saved) if name.endswith(part))
    with damaged.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DataError, match="this backup cannot be used"):
        restore(damaged, "node", tmp_path / "data", print)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.tar"]


def test_a_backup_that_was_cut_off_is_found(saved: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(saved.read_bytes()[:-20_000])
    with pytest.raises(DataError, match=r"it is no tar archive|is missing"):
        restore(damaged, "node", tmp_path / "data", print)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.tar"]


@pytest.mark.parametrize(
    ("forge", "code", "says"),
    [
        ("rows", 10, "version 1 of worm is damaged: its content hash"),
        ("columns", 3, "syndb.neurons has no column"),
    ],
)
def test_content_that_somebody_has_forged_is_not_restored(
    saved: Path, tmp_path: Path, forge: str, code: int, says: str
) -> None:
    """All checksums are right here: somebody has changed the rows and written the manifest anew."""
    forged = tmp_path / "forged.tar"
    with tarfile.open(saved) as source, tarfile.open(forged, "w") as target:
        manifest = json.load(source.extractfile("manifest.json"))  # type: ignore[arg-type]
        worm = next(v for v in manifest["versions"] if v["commit"]["row_counts"] == {"neurons": 4})
        changed = f"versions/{worm['commit']['dataset_id']}/1/neurons.arrow"
        for member in source:
            content = source.extractfile(member).read()  # type: ignore[union-attr]
            if member.name == changed:
                content = _forged(content, forge)
                digest = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                worm["tables"]["neurons"] = digest
            elif member.name == "manifest.json":
                content = manifest_bytes = json.dumps(manifest).encode()
            elif member.name == "manifest.sha256":
                content = hashlib.sha256(manifest_bytes).hexdigest().encode()
            _add(target, member.name, content)
    done = _syndb_node("engine", "restore", forged, "--data-dir", tmp_path / "data")
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["forged.tar"]


def _forged(content: bytes, forge: str) -> bytes:
    """Other rows; or the same below a name of a column that goes on as a statement."""
    rows = pa.ipc.open_stream(content).read_all()
    place = rows.schema.get_field_index("name")
    if forge == "rows":
        rows = rows.set_column(place, rows.schema.field(place), pa.array(["forged"] * rows.num_rows))
    else:
        names = rows.schema.names
        rows = rows.rename_columns([*names[:-1], f"{names[-1]}`) SETTINGS (`max_threads"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def test_a_restore_follows_no_link_that_somebody_has_laid_out(saved: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    (tmp_path / ".data.restoring").symlink_to(victim)
    with pytest.raises(Conflict, match="is no folder of yours"):
        restore(saved, "node", tmp_path / "data", print)
    assert [path.name for path in victim.iterdir()] == ["precious"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_builds_only_where_nobody_else_can_change_what_it_builds(saved: Path, tmp_path: Path) -> None:
    for place in ("others", "all"):
        (tmp_path / place / "below").mkdir(parents=True)
    os.chown(tmp_path / "others", 1234, 1235)
    (tmp_path / "all").chmod(0o777)
    for place in ("others", "others/below", "all", "all/below"):
        with pytest.raises(Conflict, match="others can change it"):
            restore(saved, "node", tmp_path / place / "data", print)
    (tmp_path / "kept" / ".data.restoring").mkdir(parents=True)
    os.chown(tmp_path / "kept" / ".data.restoring", 1234, 1235)
    with pytest.raises(Conflict, match="no folder of yours"):
        restore(saved, "node", tmp_path / "kept" / "data", print)
    assert not list(tmp_path.rglob("*.toml"))


def _add(target: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    target.addfile(info, io.BytesIO(content))


def test_a_restore_that_is_killed_leaves_nothing_and_can_be_repeated(saved: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    words = command_words("syndb-node", "engine", "restore", saved, "--data-dir", data)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("restored version 1 of worm" in line for line in process.stderr)
        os.kill(process.pid, signal.SIGKILL)
    assert not data.exists()

    data.mkdir()
    if os.geteuid() == 0:
        os.chown(data, 1234, 1235)  # the user of a service, whose the restored files have to be
    owner = data.stat().st_uid, data.stat().st_gid
    done = _syndb_node("engine", "restore", saved, "--data-dir", data)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in (data, *data.rglob("*"))} == {owner}
    assert sorted((v.metadata.dataset, v.version) for v in _published(data)[0]) == ALL


def test_a_backup_that_is_killed_leaves_no_file_of_its_name_and_can_be_repeated(node: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.tar"
    words = command_words("syndb-node", "engine", "backup", "--config", node, target)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("saved version 1 of worm" in line for line in process.stderr)
        os.kill(process.pid, signal.SIGKILL)
    assert not target.exists()

    assert _syndb_node("engine", "backup", "--config", node, target).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["new.tar"]


def test_the_backup_of_a_node_is_none_of_a_hub(saved: Path, tmp_path: Path) -> None:
    done = run_command("syndb-hub", "engine", "restore", saved, "--data-dir", tmp_path / "data")
    assert done.returncode == 3
    assert "use syndb-node" in done.stderr


@pytest.mark.parametrize("words", [["backup", "new.tar"], ["migrate", "--to", "http://127.0.0.1:9"]])
def test_a_node_on_a_server_has_nothing_here_to_save_or_to_copy(node: Path, tmp_path: Path, words: list[str]) -> None:
    config = tmp_path / "node.toml"
    without = re.sub(r"(?ms)^\[engine\]$.*?(?=^\[|\Z)", "", node.read_text())
    config.write_text(f'{without}\n[engine]\nkind = "server"\nurl = "http://127.0.0.1:9"\n')
    words = [word.replace("new.tar", str(tmp_path / "new.tar")) for word in words]
    done = _syndb_node("engine", words[0], "--config", config, *words[1:])
    assert (done.returncode, "on a ClickHouse server" in done.stderr) == (2, True), done.stderr
