"""A version as one archive, and files that are whole or not there."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet
import pytest

from syndb_common.errors import LimitExceeded, Unavailable
from syndb_common.exporting import METADATA_FILE, FileFormat, Member, metadata, save, write_archive, write_rows
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion

VERSION = PublishedVersion(
    dataset_id=UUID("0b3c7cd5-3f1a-5d5c-9c1e-3d1f3a1b2c4d"),
    version=3,
    metadata=DatasetMetadata(dataset="worm-a", title="Worm A", species="C. elegans", publication="10.1/x"),
    row_counts={"neurons": 2, "synapses": 3},
    content_hash="ab" * 32,
    schema_version=1,
    published_at=datetime(2026, 2, 3, tzinfo=UTC),
)
TABLES = {"neurons": pa.table({"name": ["AVA", None]}), "synapses": pa.table({"synapse_count": [1, 2, 3]})}


def archived(folder: Path) -> bytes:
    files, members = {}, []
    for table, rows in TABLES.items():
        path = folder / f"{table}.parquet"
        saved = save(
            path,
            lambda sink, rows=rows: write_rows(FileFormat.PARQUET, sink, rows.schema, rows.to_batches()),
            max_bytes=10**6,
        )
        files[path.name] = table, saved
        members.append(Member(path.name, path))
    (folder / METADATA_FILE).write_bytes(metadata(VERSION, "worm-lab", files))
    sink = io.BytesIO()
    write_archive(sink, "worm-a-v3", [*members, Member(METADATA_FILE, folder / METADATA_FILE)], VERSION.published_at)
    return sink.getvalue()


def test_an_archive_holds_every_table_and_what_they_are(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archived(tmp_path)), mode="r:xz") as archive:
        content = {entry.name: archive.extractfile(entry).read() for entry in archive}
    assert list(content) == [f"worm-a-v3/{name}" for name in ("neurons.parquet", "synapses.parquet", METADATA_FILE)]
    for table, rows in TABLES.items():
        assert pa.parquet.read_table(io.BytesIO(content[f"worm-a-v3/{table}.parquet"])).equals(rows)
    described = json.loads(content[f"worm-a-v3/{METADATA_FILE}"])
    assert (described["dataset"], described["version"], described["licence"]) == ("worm-a", 3, "ODC-BY-1.0")
    assert described["content_hash"] == VERSION.content_hash
    assert described["citation"].startswith("Worm A, version 3 (2026); ")
    assert described["columns"]["neurons"]["mesh_volume"]["unit"] == "nm^3"
    for file in described["files"]:
        stored = content[f"worm-a-v3/{file['name']}"]
        assert (file["bytes"], file["sha256"]) == (len(stored), hashlib.sha256(stored).hexdigest())
        assert file["rows"] == VERSION.row_counts[file["table"]]


def test_the_same_version_makes_the_same_bytes(tmp_path: Path) -> None:
    assert archived(tmp_path) == archived(tmp_path)


def test_a_damaged_byte_of_an_archive_is_found_by_its_own_checksums(tmp_path: Path) -> None:
    content = bytearray(archived(tmp_path))
    content[len(content) // 2] ^= 1
    with pytest.raises(lzma.LZMAError):
        lzma.decompress(content)


def test_a_file_that_grows_too_large_leaves_nothing(tmp_path: Path) -> None:
    def produce(sink: io.RawIOBase) -> int:
        while True:
            sink.write(b"x" * 100)

    with pytest.raises(LimitExceeded, match="1,000 bytes"):
        save(tmp_path / "large", produce, max_bytes=1000)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_a_parquet_writer_meets_is_told_as_one(tmp_path: Path) -> None:
    rows = pa.table({"n": list(range(10_000))})
    with pytest.raises(LimitExceeded):
        save(
            tmp_path / "large",
            lambda sink: write_rows(FileFormat.PARQUET, sink, rows.schema, rows.to_batches()),
            max_bytes=1000,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    def produce(sink: io.RawIOBase) -> int:
        with Path("/dev/full").open("wb", buffering=0) as full:
            return full.write(b"x")

    with pytest.raises(Unavailable, match="No space left"):
        save(tmp_path / "rows", produce, max_bytes=10)
    assert list(tmp_path.iterdir()) == []
