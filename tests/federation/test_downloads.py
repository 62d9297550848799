"""Whole versions out of real nodes, and large files out of a hub that is killed or read slowly."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pyarrow as pa
import pyarrow.parquet
import pytest
from pyarrow import flight

from demo.local import LocalFederation
from demo.processes import command
from syndb_cli.client import Connection
from syndb_cli.fetching import fetch
from syndb_common.exporting import ExportFormat
from syndb_hub.downloads import Download, DownloadedFile
from syndb_hub.jobs import JobStatus
from tests.federation.processes import memory_bytes

LARGE = 48 * 1024**2
"""More than the sockets between two processes hold, so that a reader that stops stops the hub."""


def syndb(federation: LocalFederation, folder: Path, *words: str) -> Any:
    environment = {**os.environ, "SYNDB_SERVER_URL": federation.url, "SYNDB_TOKEN_FILE": str(federation.token_file)}
    done = subprocess.run(
        command("syndb", "dataset", "download", *words, "--json"),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def queried(federation: LocalFederation, table: str) -> list[list[Any]]:
    columns = "cid, pre_id, synapse_count" if table == "synapses" else "cid, name"
    text = f"SELECT {columns} FROM {table} WHERE dataset = 'cook-2019-male' SCOPE remote"
    rows: list[list[Any]] = federation.query(text)["rows"]
    return sorted(rows)


def shown(table: pa.Table) -> list[list[Any]]:
    names = ("cid", "pre_id", "synapse_count") if "synapse_count" in table.column_names else ("cid", "name")
    return sorted(map(list, zip(*(table[name].to_pylist() for name in names), strict=True)))


def test_a_version_of_a_node_comes_as_one_archive(federation: LocalFederation, tmp_path: Path) -> None:
    told = syndb(federation, tmp_path, "cook-2019-male")
    folder = f"cook-2019-male-v{told['version']}"
    with tarfile.open(tmp_path / f"{folder}.tar.xz") as archive:
        about = json.load(archive.extractfile(f"{folder}/metadata.json"))  # type: ignore[arg-type]
        for file in about["files"]:
            content = archive.extractfile(f"{folder}/{file['name']}").read()  # type: ignore[union-attr]
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
            assert shown(pa.parquet.read_table(io.BytesIO(content))) == queried(federation, file["table"])
    assert {file["table"] for file in about["files"]} == {"neurons", "synapses"}
    assert about["content_hash"] == told["content_hash"]


def test_a_version_of_a_node_comes_in_every_format(federation: LocalFederation, tmp_path: Path) -> None:
    for form in ("arrow", "parquet", "csv"):
        syndb(federation, tmp_path, "cook-2019-male@1", "--format", form, "--output", form)
    for table in ("neurons", "synapses"):
        expected = queried(federation, table)
        with pa.OSFile(str(tmp_path / f"arrow/{table}.arrow")) as file:
            assert shown(pa.ipc.open_file(file).read_all()) == expected
        assert shown(pa.parquet.read_table(tmp_path / f"parquet/{table}.parquet")) == expected
        with (tmp_path / f"csv/{table}.csv").open(newline="") as text:
            found = list(csv.DictReader(text))
        names = ("cid", "pre_id", "synapse_count") if table == "synapses" else ("cid", "name")
        assert sorted([row[name] for name in names] for row in found) == [[str(v) for v in row] for row in expected]


def fetched_by_flight(federation: LocalFederation, *path: str) -> tuple[pa.Table, dict[str, Any]]:
    """With nothing but pyarrow."""
    server = federation.get("/v1/flight")
    options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {federation.token}".encode())])
    with flight.connect(server["location"], tls_root_certs=server["certificate"]) as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_path(*path), options)
        parts = [client.do_get(endpoint.ticket, options).read_all() for endpoint in info.endpoints]
    return pa.concat_tables(parts), json.loads(info.app_metadata)


def test_a_version_of_a_node_comes_by_flight(federation: LocalFederation) -> None:
    for table in ("neurons", "synapses"):
        rows, about = fetched_by_flight(federation, "cook-2019-male@1", table)
        assert shown(rows) == queried(federation, table)
        assert (about["version"], about["table"], about["rows"]) == (1, table, rows.num_rows)
    for path, says in (
        (["cook-2019-male"], "2 tables: name one"),
        (["cook-2019-male", "axons"], "no axons"),
        (["cook-2019-male@9"], "no version 9"),
        (["nothing"], "no data set nothing"),
    ):
        with pytest.raises(flight.FlightError, match=says):
            fetched_by_flight(federation, *path)


@pytest.fixture
def hub(start_federation: Callable[..., LocalFederation], tmp_path: Path) -> tuple[LocalFederation, str, bytes]:
    """A hub that has prepared a large download, before it was restarted."""
    content = os.urandom(LARGE)
    download = Download(
        download_id=uuid4(),
        owner="local",
        dataset="worm",
        dataset_id=uuid4(),
        version=1,
        content_hash="ab" * 32,
        format=ExportFormat.CSV,
        tables=("neurons",),
        status=JobStatus.COMPLETED,
        created_at=datetime.now(UTC),
        finished_at=datetime.now(UTC),
        files=(DownloadedFile(name="neurons.csv", bytes=LARGE, sha256=hashlib.sha256(content).hexdigest()),),
    )
    folder = tmp_path / "federation" / "hub" / "objects" / "downloads" / str(download.download_id)
    folder.mkdir(parents=True)
    (folder / "neurons.csv").write_bytes(content)
    (folder / "download.json").write_text(download.model_dump_json())
    federation = start_federation()
    federation.wait_answering()
    return federation, f"/v1/neurodata/downloads/{download.download_id}/files/neurons.csv", content


def test_a_hub_that_is_killed_while_it_sends_is_gone_on_with(
    hub: tuple[LocalFederation, str, bytes], tmp_path: Path
) -> None:
    federation, path, content = hub
    killed_at = 0

    def kill_once(done: int, total: int | None) -> None:
        nonlocal killed_at
        if not killed_at and done > LARGE // 4:
            killed_at = done
            federation.daemons["hub"].kill()
            federation.start_hub()

    fetched = fetch(
        Connection(federation.url, federation.token), path, tmp_path / "rows", patience=60, progress=kill_once
    )
    assert killed_at
    assert (tmp_path / "rows").read_bytes() == content
    assert fetched.sha256 == hashlib.sha256(content).hexdigest()


def test_readers_that_take_nothing_cost_the_hub_no_memory(hub: tuple[LocalFederation, str, bytes]) -> None:
    federation, path, _ = hub
    headers = {"authorization": f"Bearer {federation.token}"}
    with httpx.Client(base_url=federation.url, headers=headers, timeout=60) as client:
        client.get(path).raise_for_status()  # what the first download brings stays
        before = memory_bytes(federation.daemons["hub"])
        streams = [client.stream("GET", path) for _ in range(6)]
        answers = [stream.__enter__() for stream in streams]
        for answer in answers:
            next(answer.iter_raw(1024))
        time.sleep(1)  # long enough to read all six files from the disk
        most = memory_bytes(federation.daemons["hub"]) - before
        for stream in streams:
            stream.__exit__(None, None, None)
    assert most < LARGE // 2
