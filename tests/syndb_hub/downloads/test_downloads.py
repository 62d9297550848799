"""Whole versions as files: what they hold, who may have them, and what a restart leaves of them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pyarrow as pa
import pyarrow.parquet
import pytest
import trio
from pydantic import ValidationError

from actors.directory import Health
from syndb_common.errors import DeadlineExceeded, LimitExceeded, NotFound, PolicyRefused
from syndb_common.exporting import ExportFormat
from syndb_common.syql.plan import Scope
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion
from syndb_hub.ages import Ages
from syndb_hub.auth import Right
from syndb_hub.downloads import Downloads
from syndb_hub.federation.targets import Holding
from syndb_hub.jobs import JobStatus
from syndb_hub.settings import JobSettings
from tests.actors.federation_parts import cluster
from tests.small_disk import enlarge, small_disk

WORM = dataset_id("worm-a")
CIDS = [uuid4() for _ in range(3)]


def version(number: int, **counts: int) -> PublishedVersion:
    return PublishedVersion(
        dataset_id=WORM,
        version=number,
        metadata=DatasetMetadata(dataset="worm-a", title="Worm A"),
        row_counts=counts,
        content_hash=f"{number:064x}",
        schema_version=1,
        published_at=datetime(2026, 1, number, tzinfo=UTC),
    )


def rows(number: int, **columns: Any) -> pa.Table:
    count = len(next(iter(columns.values())))
    return pa.table({"dataset_id": [str(WORM)] * count, "version": pa.array([number] * count, pa.uint32()), **columns})


@pytest.fixture
async def hub(hub):
    """A hub with two versions of a data set; the second one has two tables."""
    hub.federation.held = [version(1, synapses=1), version(2, neurons=3, synapses=2)]
    hub.queries.tables = {
        "neurons": rows(2, cid=pa.array([cid.bytes for cid in CIDS], pa.binary(16)), name=["AVA", "", None]),
        "synapses": pa.concat_tables([rows(1, synapse_count=[9]), rows(2, synapse_count=[1, 2])]),
    }
    return hub


async def ended(client: httpx.AsyncClient, download: dict[str, Any]) -> dict[str, Any]:
    path = f"/v1/neurodata/downloads/{download['download_id']}"
    return (await client.get(path, params={"wait": 20})).json()


async def asked(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/neurodata/downloads", json={"dataset": "worm-a", **body})
    assert answer.status_code == 200, answer.text
    return await ended(client, answer.json())


async def contents(client: httpx.AsyncClient, download: dict[str, Any]) -> dict[str, bytes]:
    assert download["status"] == "completed", download
    found = {}
    for file in download["files"]:
        answer = await client.get(f"/v1/neurodata/downloads/{download['download_id']}/files/{file['name']}")
        assert int(answer.headers["content-length"]) == len(answer.content) == file["bytes"]
        assert answer.headers["etag"] == f'"{file["sha256"]}"'
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
        found[file["name"]] = answer.content
    return found


async def test_the_newest_version_comes_as_one_archive(hub):
    async with hub.client() as client:
        download = await asked(client)
        (archive,) = (await contents(client, download)).values()
    assert [file["name"] for file in download["files"]] == ["worm-a-v2.tar.xz"]
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:xz") as opened:
        files = {entry.name: opened.extractfile(entry).read() for entry in opened}
    neurons = pa.parquet.read_table(io.BytesIO(files["worm-a-v2/neurons.parquet"]))
    assert neurons["cid"].to_pylist() == [cid.bytes for cid in CIDS]
    assert neurons["name"].to_pylist() == ["AVA", "", None]
    synapses = pa.parquet.read_table(io.BytesIO(files["worm-a-v2/synapses.parquet"]))
    assert synapses["synapse_count"].to_pylist() == [1, 2]
    about = json.loads(files["worm-a-v2/metadata.json"])
    assert (about["dataset"], about["version"], about["content_hash"]) == ("worm-a", 2, f"{2:064x}")


READERS = {
    "arrow": lambda content: pa.ipc.open_file(content).read_all()["synapse_count"].to_pylist(),
    "parquet": lambda content: pa.parquet.read_table(io.BytesIO(content))["synapse_count"].to_pylist(),
    "csv": lambda content: [
        int(line["synapse_count"]) for line in csv.DictReader(io.StringIO(content.decode(), newline=""))
    ],
}


@pytest.mark.parametrize("format", READERS)
async def test_a_version_comes_as_a_file_for_each_table_and_what_they_are(hub, format):
    async with hub.client() as client:
        found = await contents(client, await asked(client, format=format))
    assert list(found) == [f"neurons.{format}", f"synapses.{format}", "metadata.json"]
    assert READERS[format](found[f"synapses.{format}"]) == [1, 2]
    described = {file["name"]: file["sha256"] for file in json.loads(found["metadata.json"])["files"]}
    assert described == {
        name: hashlib.sha256(content).hexdigest() for name, content in found.items() if name != "metadata.json"
    }


async def test_an_older_version_and_single_tables_are_chosen(hub):
    async with hub.client() as client:
        old = await contents(client, await asked(client, version=1, format="csv"))
        some = await asked(client, dataset=str(WORM), tables=["neurons"], format="csv")
    assert READERS["csv"](old["synapses.csv"]) == [9]
    assert [file["name"] for file in some["files"]] == ["neurons.csv", "metadata.json"]
    assert hub.queries.asked[0].startswith("SELECT * FROM synapses WHERE ")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"dataset": "worm-z"}, 404, "no data set worm-z"),
        ({"version": 3}, 404, "no version 3"),
        ({"tables": ["axons"]}, 400, "no axons"),
        ({"format": "xlsx"}, 400, "format"),
        ({"version": 0}, 400, "version"),
    ],
)
async def test_what_is_not_there_is_refused_at_once(hub, body, status, says):
    async with hub.client() as client:
        answer = await client.post("/v1/neurodata/downloads", json={"dataset": "worm-a", **body})
    assert answer.status_code == status
    assert says in answer.json()["error"]


async def test_what_the_owner_does_not_share_is_not_downloaded(hub):
    hub.queries.error = PolicyRefused("worm-a is not shared", hint="Ask its owner.")
    async with hub.client() as client:
        download = await asked(client)
        refused = await client.get(f"/v1/neurodata/downloads/{download['download_id']}/files/worm-a-v2.tar.xz")
    assert (download["status"], download["error_code"], download["error_hint"]) == (
        "failed",
        "policy_refused",
        "Ask its owner.",
    )
    assert refused.status_code == 409


@pytest.mark.parametrize("error", [DeadlineExceeded, LimitExceeded])
async def test_a_limit_that_a_large_table_meets_is_told_with_the_settings_that_raise_it(hub, error):
    hub.queries.error = error("no answer within 30 s", hint="Select fewer rows.")
    async with hub.client() as client:
        download = await asked(client)
    assert (download["status"], download["error_code"]) == ("failed", error.code)
    assert "limits.seconds" in download["error_hint"]
    assert "jobs.max_result_bytes" in download["error_hint"]


async def test_fewer_rows_than_were_published_are_no_version(hub, tmp_path):
    hub.federation.held = [version(2, neurons=4)]
    async with hub.client() as client:
        download = await asked(client)
    assert (download["status"], download["error_code"]) == ("failed", "incomplete_result")
    assert "3 of 4 rows of neurons" in download["error_message"]
    assert list((tmp_path / "downloads").iterdir()) == []


async def test_asking_again_gives_the_same_download_unless_it_failed(hub):
    async with hub.client() as client:
        first = await asked(client)
        assert (await asked(client))["download_id"] == first["download_id"]
        assert (await asked(client, format="csv"))["download_id"] != first["download_id"]
        hub.queries.error = NotFound("gone")
        failed = await asked(client, version=1)
        hub.queries.error = None
        assert (await asked(client, version=1))["download_id"] != failed["download_id"]


async def test_a_download_is_its_owners(hub):
    other = await hub.tokens.create("other", [Right.QUERY])
    async with hub.client() as mine, hub.client(other.text) as yours:
        download = await asked(mine)
        path = f"/v1/neurodata/downloads/{download['download_id']}"
        for answer in (
            await yours.get(path),
            await yours.get(f"{path}/files/worm-a-v2.tar.xz"),
            await yours.delete(path),
        ):
            assert answer.status_code == 404
        assert (await asked(yours))["download_id"] != download["download_id"]
        assert (await mine.get(f"{path}/files/download.json")).status_code == 404


async def test_results_of_the_queries_behind_it_are_not_kept(hub, tmp_path):
    async with hub.client() as client:
        await asked(client)
    assert [job.result for job in await hub.jobs.list()] == [None, None]
    assert list((tmp_path / "objects").glob("*.arrow")) == []


async def test_a_download_that_is_removed_stops_its_query(hub, tmp_path):
    hub.queries.hold = trio.Event()
    async with hub.client() as client:
        started = (await client.post("/v1/neurodata/downloads", json={"dataset": "worm-a"})).json()
        await hub.queries.until_running(1)
        await client.delete(f"/v1/neurodata/downloads/{started['download_id']}")
        await hub.queries.until_running(0)
        assert (await ended(client, started))["status"] == "cancelled"
        hub.queries.hold.set()
        done = await asked(client)
        await client.delete(f"/v1/neurodata/downloads/{done['download_id']}")
        assert (await client.get(f"/v1/neurodata/downloads/{done['download_id']}")).status_code == 404
    assert list((tmp_path / "downloads").iterdir()) == []


async def test_one_token_cannot_fill_the_line(hub):
    hub.queries.hold = trio.Event()
    hub.federation.held = [version(number, synapses=1) for number in range(1, 8)]
    async with hub.client() as client:
        answers = [
            await client.post("/v1/neurodata/downloads", json={"dataset": "worm-a", "version": number})
            for number in range(1, 8)
        ]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


async def prepared(downloads: Downloads, number: int) -> Any:
    started = await downloads.start("worm-a", number, ExportFormat.CSV, owner="somebody")
    return await downloads.wait(started.download_id, 20)


async def test_a_restart_keeps_what_was_whole_and_drops_the_rest(hub, tmp_path):
    folder = tmp_path / "again"
    async with trio.open_nursery() as nursery:
        before = Downloads(folder, hub.jobs, hub.federation.holdings, JobSettings())
        await nursery.start(before.run)
        whole, shorter = await prepared(before, 2), await prepared(before, 1)
        hub.queries.hold = trio.Event()
        await before.start("worm-a", 2, ExportFormat.ARCHIVE, owner="somebody")
        await hub.queries.until_running(1)
        nursery.cancel_scope.cancel()
    with (folder / str(shorter.download_id) / "synapses.csv").open("ab") as file:
        file.truncate(3)
    (folder / str(uuid4())).mkdir()
    async with trio.open_nursery() as nursery:
        after = Downloads(folder, hub.jobs, hub.federation.holdings, JobSettings())
        await nursery.start(after.run)
        assert after.get(whole.download_id).status is JobStatus.COMPLETED
        assert after.file(whole.download_id, "synapses.csv")[1].is_file()
        assert [path.name for path in folder.iterdir()] == [str(whole.download_id)]
        nursery.cancel_scope.cancel()


async def test_downloads_expire_and_the_oldest_give_way(hub, tmp_path):
    clock, passed = Clock(), [0.0]
    ages = Ages(clock, clock=lambda: passed[0])
    async with trio.open_nursery() as nursery:
        downloads = Downloads(
            tmp_path / "small", hub.jobs, hub.federation.holdings, JobSettings(), now=clock, ages=ages
        )
        await nursery.start(downloads.run)
        old = await prepared(downloads, 1)
        for step in (timedelta(hours=25), timedelta(days=-3)):
            clock.time += step  # somebody sets the machine's clock
            await downloads.clean()
            assert downloads.get(old.download_id) == old
        passed[0] += 25 * 3600
        await downloads.clean()
        with pytest.raises(NotFound):
            downloads.get(old.download_id)
        assert list((tmp_path / "small").iterdir()) == []
        first = await prepared(downloads, 1)
        clock.time += timedelta(minutes=1)
        second = await prepared(downloads, 2)
        size = sum(file.bytes for file in second.files)
        downloads._room = size  # what no setting makes small enough for so little data
        await downloads.clean()
        with pytest.raises(NotFound):
            downloads.get(first.download_id)
        assert downloads.get(second.download_id) == second
        nursery.cancel_scope.cancel()


async def test_a_full_disk_is_said_leaves_nothing_and_then_it_works(hub, tmp_path):
    numbers = [f"{number:032x}" for number in range(20_000)]
    hub.federation.held = [version(2, neurons=len(numbers))]
    hub.queries.tables = {"neurons": rows(2, name=numbers)}
    with small_disk(tmp_path / "disk", 300) as disk:
        async with trio.open_nursery() as nursery:
            downloads = Downloads(disk / "downloads", hub.jobs, hub.federation.holdings, JobSettings())
            await nursery.start(downloads.run)
            full = await prepared(downloads, 2)
            assert (full.status, full.error.code) == (JobStatus.FAILED, "unavailable")
            assert "No space left on device" in full.error.error
            assert "free space on the hub's disk" in full.error.hint
            assert list((disk / "downloads").iterdir()) == []
            enlarge(disk, 5000)
            assert (await prepared(downloads, 2)).status is JobStatus.COMPLETED
            nursery.cancel_scope.cancel()


async def test_rows_come_from_the_owner_and_from_nobody_who_claims_to_have_the_same(hub):
    """A replica could announce the owner's content hash for rows of its own."""
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    claims = cluster("a-lab", health=Health.HEALTHY, record_facts={"registered_at": late})
    owner = cluster("worm-lab", health=Health.DEGRADED, record_facts={"registered_at": early})
    hub.federation.held_by_nodes = [Holding(version(2, synapses=2), node) for node in (claims, owner)]
    hub.federation.held = []
    async with hub.client() as client:
        download = await asked(client, format="csv")
        about = json.loads((await contents(client, download))["metadata.json"])
    (job,) = await hub.jobs.list()
    assert (job.scope, job.cluster_ids, job.require) == (Scope.REMOTE, (owner.record.id,), "all")
    assert [told["announced_by"] for told in (download, about)] == ["worm-lab", "worm-lab"]
    assert about["content_hash"] == f"{2:064x}"


async def test_what_the_hub_itself_published_is_asked_of_no_node(hub):
    replica = Holding(version(1, synapses=1), cluster("a-lab", health=Health.HEALTHY))
    hub.federation.held_by_nodes = [replica]
    async with hub.client() as client:
        assert (await asked(client, version=1))["announced_by"] == "hub"
    (job,) = await hub.jobs.list()
    assert (job.scope, job.require) == (Scope.LOCAL, "all")


@pytest.mark.parametrize("name", ["neurons WHERE dataset = 'other' --", "neurons, synapses", "names", "neurons\n"])
async def test_a_table_is_one_of_ours_whatever_a_catalogue_says(hub, name):
    claimed = version(2, synapses=2).model_copy(update={"row_counts": {name: 3, "synapses": 2}})
    hub.federation.held = [claimed]
    async with hub.client() as client:
        for body in ({}, {"tables": [name]}):
            answer = await client.post("/v1/neurodata/downloads", json={"dataset": "worm-a", **body})
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
        assert (await asked(client, tables=["synapses"], format="csv"))["status"] == "completed"
    assert all(text.startswith("SELECT * FROM synapses WHERE ") for text in hub.queries.asked)
    with pytest.raises(ValidationError) if name != "names" else nullcontext():
        PublishedVersion.model_validate(claimed.model_dump())
