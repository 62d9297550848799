"""Results as files: their length and checksum are known, and a download goes on where it was cut."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import trio

from syndb_hub.http.routes import jobs

QUERY = "SELECT synapse_count FROM synapses"
FORMATS = ("arrow", "csv", "parquet", "tar.xz")


@pytest.fixture
async def result(hub):
    """The path of a result of 200,000 rows."""
    hub.queries.tables["synapses"] = pa.table({"synapse_count": pa.array(range(200_000), pa.uint64())})
    async with hub.client() as client:
        executed = (await client.post("/v1/syql/exec", json={"query": QUERY, "wait": 20})).json()
    assert executed["status"] == "completed"
    return f"/v1/jobs/{executed['job_id']}/result"


@pytest.mark.parametrize("format", FORMATS)
async def test_a_result_says_its_length_and_checksum(hub, result, format):
    async with hub.client() as client:
        answer = await client.get(result, params={"format": format})
        again = await client.get(result, params={"format": format})
        head = await client.head(result, params={"format": format})
    digest = hashlib.sha256(answer.content)
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["etag"] == f'"{digest.hexdigest()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert again.content == answer.content
    assert (head.content, head.headers["etag"]) == (b"", answer.headers["etag"])


@pytest.mark.parametrize("format", FORMATS)
async def test_a_result_can_be_had_from_any_byte_on(hub, result, format):
    async with hub.client() as client:
        whole = await client.get(result, params={"format": format})
        size = len(whole.content)
        for start in (1, size // 3, size - 1):
            headers = {"range": f"bytes={start}-", "if-range": whole.headers["etag"]}
            rest = await client.get(result, params={"format": format}, headers=headers)
            assert rest.status_code == 206
            assert rest.headers["content-range"] == f"bytes {start}-{size - 1}/{size}"
            assert rest.content == whole.content[start:]
        beyond = await client.get(result, params={"format": format}, headers={"range": f"bytes={size}-"})
        other = await client.get(
            result, params={"format": format}, headers={"range": "bytes=5-", "if-range": f'"{"0" * 64}"'}
        )
    assert beyond.status_code == 416
    assert (other.status_code, other.content) == (200, whole.content)


async def test_a_small_piece_of_a_result_costs_no_reading_of_the_whole(hub, result):
    async with hub.client() as client:
        whole = await client.get(result, params={"format": "arrow"})
        before = bytes_read()
        for _ in range(20):
            piece = await client.get(result, params={"format": "arrow"}, headers={"range": "bytes=0-0"})
            assert (piece.status_code, piece.content) == (206, whole.content[:1])
    assert bytes_read() - before < len(whole.content)


def bytes_read() -> int:
    """What this process has read, files and sockets together."""
    return int(Path("/proc/self/io").read_text().split()[1])


async def test_a_conversion_is_made_once_also_when_several_ask_at_a_time(hub, result, tmp_path):
    async with hub.client() as client, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(lambda: client.get(result, params={"format": "csv"}))
    assert len(list((tmp_path / "objects" / "converted").iterdir())) == 1


@pytest.mark.parametrize("format", FORMATS)
async def test_a_file_that_takes_long_to_make_is_asked_for_again(hub, result, format, monkeypatch):
    async with hub.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "MAKING_SECONDS", 0.0)
            early = await client.get(result, params={"format": format})
        answer = await client.get(result, params={"format": format})
    assert (early.status_code, early.json(), early.headers["retry-after"]) == (202, {"status": "running"}, "1")
    assert answer.status_code == 200
    assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'


async def test_an_archive_of_a_result_says_what_it_answers(hub, result):
    async with hub.client() as client:
        answer = await client.get(result, params={"format": "tar.xz"})
    with tarfile.open(fileobj=io.BytesIO(answer.content), mode="r:xz") as archive:
        content = {entry.name.partition("/")[2]: archive.extractfile(entry).read() for entry in archive}
    about = json.loads(content["metadata.json"])
    assert (about["query"], about["provenance"]["rows"]) == (QUERY, 200_000)
    (file,) = about["files"]
    assert file["sha256"] == hashlib.sha256(content[file["name"]]).hexdigest()
    table = pa.parquet.read_table(io.BytesIO(content[file["name"]]))
    assert table["synapse_count"].to_pylist() == list(range(200_000))


async def test_a_discarded_result_takes_its_conversions_with_it(hub, result, tmp_path):
    async with hub.client() as client:
        await client.get(result, params={"format": "csv"})
        (job,) = await hub.jobs.list()
        await hub.jobs.discard(job.id)
        assert (await client.get(result, params={"format": "csv"})).status_code == 404
    assert files(tmp_path / "objects") == []


async def test_a_stored_result_with_a_damaged_byte_is_refused(hub, result, tmp_path):
    (stored,) = (tmp_path / "objects").glob("*.arrow")
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    async with hub.client() as client:
        for format in FORMATS:
            answer = await client.get(result, params={"format": format})
            assert (answer.status_code, answer.json()["code"]) == (400, "data_invalid")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
