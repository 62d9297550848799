"""Whole versions out of real nodes, whoever is killed on the way, and large files out of a hub that is read slowly."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pyarrow as pa
import pyarrow.parquet
import pytest
from pyarrow import flight

from demo.local import LocalFederation, local_federation
from demo.processes import command, run
from syndb_common.exporting import ExportFormat
from syndb_hub.downloads import Download, DownloadedFile
from syndb_hub.jobs import JobStatus
from tests.federation.processes import engines_of, memory_bytes

LARGE = 48 * 1024**2
"""More than the sockets between two processes hold, so that a reader that stops stops the hub."""
CONTENT = os.urandom(LARGE)
LARGE_ID = uuid4()
ROWS = 100_000


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
    nodes = federation.get("/v1/federation/clusters")
    holder = {data["dataset"]: node["name"] for node in nodes for data in node["datasets"]}
    assert about["announced_by"] == told["announced_by"] == holder["cook-2019-male"]


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


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """A hub and a node with one version of many rows, to break things in; the hub also has a large download ready."""
    folder = tmp_path_factory.mktemp("lab")
    put_download(folder / "hub" / "objects" / "downloads")
    pa.parquet.write_table(pa.table({"source_id": [f"n{n}" for n in range(ROWS)]}), folder / "neurons.parquet")
    (folder / "fly.json").write_text('{"dataset": "fly"}')
    with local_federation(folder, ["lab"]) as found:
        found.start_hub()
        found.start_node("lab")
        found.wait_healthy(["lab"], seconds=90)
        words = ("dataset", "upload", str(folder / "fly.json"), f"--table=neurons={folder / 'neurons.parquet'}")
        run(command("syndb", *words, "--config", str(found.config("lab"))))
        found.wait_datasets({"lab": 1})
        yield found


def put_download(folder: Path) -> None:
    """A large download that a hub has prepared before it was restarted."""
    download = Download(
        download_id=LARGE_ID,
        owner="local",
        dataset="worm",
        dataset_id=uuid4(),
        version=1,
        content_hash="ab" * 32,
        announced_by="hub",
        format=ExportFormat.CSV,
        tables=("neurons",),
        status=JobStatus.COMPLETED,
        created_at=datetime.now(UTC),
        finished_at=datetime.now(UTC),
        files=(DownloadedFile(name="neurons.csv", bytes=LARGE, sha256=hashlib.sha256(CONTENT).hexdigest()),),
    )
    place = folder / str(LARGE_ID)
    place.mkdir(parents=True)
    (place / "neurons.csv").write_bytes(CONTENT)
    (place / "download.json").write_text(download.model_dump_json())


STAGES = {
    "asking": "hub/objects/jobs/*.part",
    "converting": "hub/objects/downloads/*/neurons.csv.part",
    "sending": "here/.rows.*.part/.neurons.csv.part",
}
"""What stands on a disk, and grows, while a download is at this stage."""


@pytest.mark.parametrize(
    ("stage", "victim"),
    [
        ("asking", "hub"),
        ("asking", "node"),
        ("asking", "engine"),
        ("asking", "client"),
        ("converting", "hub"),
        ("converting", "client"),
        ("sending", "hub"),
        ("sending", "client"),
    ],
)
def test_whoever_is_killed_at_whatever_stage_the_same_command_ends_well(
    lab: LocalFederation, stage: str, victim: str
) -> None:
    here = lab.folder / "here"
    here.mkdir()
    client = start_syndb(lab, here)
    until = time.monotonic() + 60
    while not any(size_of(path) for path in lab.folder.glob(STAGES[stage])):
        assert client.poll() is None, f"{stage} was not seen"
        assert time.monotonic() < until
    kill(lab, victim, client)
    said, errors = client.communicate(timeout=100)
    while client.returncode:
        assert client.returncode in (10, -signal.SIGKILL), said + errors
        assert not (here / "rows").exists()
        lab.wait_healthy(["lab"])
        client = start_syndb(lab, here)
        said, errors = client.communicate(timeout=100)
    told = {file["path"]: file["sha256"] for file in json.loads(said)["files"]}
    content = (here / "rows" / "neurons.csv").read_bytes()
    assert told["rows/neurons.csv"] == hashlib.sha256(content).hexdigest()
    names = [line["source_id"] for line in csv.DictReader(io.StringIO(content.decode()))]
    assert sorted(names) == sorted(f"n{n}" for n in range(ROWS))
    assert [path.name for path in here.iterdir()] == ["rows"]
    assert not list((lab.folder / "hub" / "objects").rglob("*.part"))
    shutil.rmtree(here)
    for folder in (lab.folder / "hub" / "objects" / "downloads").iterdir():
        if folder.name != str(LARGE_ID):
            lab.request("DELETE", f"/v1/neurodata/downloads/{folder.name}")


def start_syndb(federation: LocalFederation, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "SYNDB_SERVER_URL": federation.url, "SYNDB_TOKEN_FILE": str(federation.token_file)}
    return subprocess.Popen(
        command("syndb", "dataset", "download", "fly", "--json", "--format", "csv", "--output", "rows"),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def kill(federation: LocalFederation, victim: str, client: subprocess.Popen[str]) -> None:
    """With SIGKILL; daemons are started again at once."""
    match victim:
        case "hub":
            federation.daemons["hub"].kill()
            federation.start_hub()
        case "node":
            federation.daemons["lab"].kill()
            federation.start_node("lab")
        case "engine":
            os.kill(engines_of(federation.daemons["lab"])[0], signal.SIGKILL)
        case _:
            client.kill()


def test_readers_that_take_nothing_cost_the_hub_no_memory(lab: LocalFederation) -> None:
    federation, path = lab, f"/v1/neurodata/downloads/{LARGE_ID}/files/neurons.csv"
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
