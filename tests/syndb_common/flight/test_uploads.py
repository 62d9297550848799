"""Uploads: checked, published as one version by one row, and invisible until then."""

# ruff: noqa: ASYNC110 - another process changes what is waited for

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pyarrow as pa
import pytest
import structlog
import trio
from pyarrow import flight

from syndb_common.engine import publish
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.publish import Uploads
from syndb_common.engine.published import versions
from syndb_common.errors import Conflict, DataError, EngineUnavailable, Unauthenticated
from syndb_common.flight.client import connect
from syndb_common.flight.settings import FlightSettings
from syndb_common.flight.uploader import UploadTarget, upload
from syndb_common.flight.uploads import Begin, PublishResult
from syndb_common.tables import schema
from syndb_common.tables.identity import dataset_id, row_id
from syndb_common.tables.versions import DatasetMetadata

pytestmark = pytest.mark.slow

WORM = dataset_id("worm")
METADATA = DatasetMetadata(dataset="worm", species="Caenorhabditis elegans")
NAMES = ["AVAL", "AVAR", "RIML"]


_AS_COMMITTED = "INSERT INTO syndb.dataset_versions SELECT * REPLACE ({}) FROM syndb.dataset_versions"
"""Writes the first commit row once more, changed."""


def _ids(*names: str, table: str = "neurons") -> list[str]:
    return [str(row_id(WORM, table, name)) for name in names]


def _neurons(**columns: Any) -> pa.Table:
    return pa.table({"source_id": NAMES, "name": NAMES, **columns})


def _synapses(**columns: Any) -> pa.Table:
    default = {
        "source_id": ["1", "2"],
        "pre_id": _ids("AVAL", "AVAR"),
        "post_id": _ids("AVAR", "RIML"),
        "synapse_type": ["chemical", "electrical"],
        "synapse_count": [3, 4],
    }
    return pa.table({**default, **columns})


def _axons(parent_enum: int) -> pa.Table:
    return pa.table({"source_id": ["a"], "parent_id": _ids("AVAL"), "parent_enum": [parent_enum]})


@pytest.fixture
def target(engine: LocalEngine, tmp_path: Path) -> UploadTarget:
    return UploadTarget.of_folders(engine.flight_location, tmp_path / "flight", tmp_path)


async def _upload(
    target: UploadTarget, tables: dict[str, pa.Table], metadata: DatasetMetadata = METADATA, dataset: UUID = WORM
) -> PublishResult:
    return await trio.to_thread.run_sync(upload, target, metadata, dataset, tables)


async def _staged(engine: LocalEngine) -> list[dict[str, Any]]:
    return await _rows(engine, "SELECT name FROM system.tables WHERE database = 'syndb_staging'")


async def _rows(engine: LocalEngine, sql: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await engine.query(sql)).table.to_pylist()
    return rows


async def test_an_upload_becomes_version_one(engine: LocalEngine, target: UploadTarget) -> None:
    result = await _upload(target, {"neurons": _neurons(), "synapses": _synapses()})

    assert (result.version, result.unchanged, result.row_counts) == (1, False, {"neurons": 3, "synapses": 2})
    (published,) = await versions(engine)
    assert (published.dataset_id, published.version, published.metadata) == (WORM, 1, METADATA)
    assert (published.row_counts, published.content_hash) == (result.row_counts, result.content_hash)
    assert published.schema_version == schema.CURRENT
    found = await _rows(
        engine, "SELECT cid, source_id, dataset_id, version, gaba FROM syndb.neurons ORDER BY source_id"
    )
    assert found == [
        {"cid": UUID(cid), "source_id": name, "dataset_id": WORM, "version": 1, "gaba": None}
        for name, cid in zip(NAMES, _ids(*NAMES), strict=True)
    ]
    assert await _rows(engine, "SELECT sum(synapse_count) AS s FROM syndb.synapses") == [{"s": 7}]


async def test_the_daemon_hears_of_publications(engine: LocalEngine, target: UploadTarget) -> None:
    seen = engine.publications
    await _upload(target, {"neurons": _neurons()})
    with trio.fail_after(5):
        assert await engine.wait_published(seen) == seen + 1


async def test_the_same_content_publishes_nothing(engine: LocalEngine, target: UploadTarget) -> None:
    first = await _upload(target, {"neurons": _neurons(), "synapses": _synapses()})
    backwards = {"synapses": _synapses().take([1, 0]), "neurons": _neurons().take([2, 0, 1])}

    again = await _upload(target, backwards)

    assert (again.version, again.unchanged, again.content_hash) == (1, True, first.content_hash)
    assert len(await versions(engine)) == 1


async def test_other_content_or_metadata_is_a_new_version(engine: LocalEngine, target: UploadTarget) -> None:
    await _upload(target, {"neurons": _neurons()})
    changed = await _upload(target, {"neurons": _neurons(gaba=[None, 0.0, None])})
    described = await _upload(
        target, {"neurons": _neurons(gaba=[None, 0.0, None])}, METADATA.model_copy(update={"sex": "male"})
    )

    assert [changed.version, described.version] == [2, 3]
    assert changed.content_hash == described.content_hash
    assert await _rows(engine, "SELECT version, count() AS n FROM syndb.neurons GROUP BY version ORDER BY version") == [
        {"version": version, "n": 3} for version in (1, 2, 3)
    ]


async def test_null_and_zero_are_different_content(target: UploadTarget) -> None:
    hashes = {
        (await _upload(target, {"neurons": _neurons(gaba=gaba, glutamate=glutamate)})).content_hash
        for gaba, glutamate in (
            ([None] * 3, [0.0] * 3),
            ([0.0] * 3, pa.array([None] * 3, pa.float64())),
            ([0.0] * 3, [0.0] * 3),
        )
    }
    assert len(hashes) == 3


async def test_nan_means_missing(engine: LocalEngine, target: UploadTarget) -> None:
    await _upload(target, {"neurons": _neurons(soma_x=[float("nan"), 1.5, None])})
    assert await _rows(engine, "SELECT soma_x FROM syndb.neurons ORDER BY source_id") == [
        {"soma_x": None},
        {"soma_x": 1.5},
        {"soma_x": None},
    ]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"synapses": _synapses()}, "2 rows have a pre_id that is in none of neurons; first source ids: 1, 2"),
        (
            {"neurons": _neurons(), "synapses": _synapses(post_id=_ids("AVAL", "NOBODY"))},
            "synapses.post_id: 1 rows have a post_id that is in none of neurons; first source ids: 2",
        ),
        ({"neurons": _neurons(), "axons": _axons(parent_enum=4)}, "axons.parent_id: 1 rows have a parent_id"),
        ({"neurons": pa.concat_tables([_neurons(), _neurons().slice(1)])}, "2 source ids occur more than once: AVAR"),
        ({"neurons": _neurons(cid=_ids("AVAL", "AVAR", "other"))}, "1 rows have a cid that is not made from"),
        ({"neurons": _neurons(dataset_id=[str(dataset_id("fly"))] * 3)}, "3 rows belong to another data set"),
        ({"neurons": _neurons(version=[1, 1, 1])}, "leave out column version"),
        ({"neurons": _neurons(mesh_volum=[1.0, 2.0, 3.0])}, "unknown column mesh_volum"),
        ({"neurons": _neurons(soma_x=["left", "right", "x"])}, r"neurons\.soma_x is Nullable\(Float64\)"),
        ({"neurons": _neurons(soma_x=[float("inf"), 1.0, 2.0])}, "infinite"),
        ({"neurons": _neurons(branch_count=[-1, 2, 3])}, r"neurons\.branch_count"),
        (
            {"neurons": _neurons(), "synapses": _synapses(synapse_count=[3, None])},
            r"1 values are missing, and none may be; first rows: 2 \(source ids 2\)",
        ),
        ({"neurons": _neurons(), "synapses": _synapses().drop_columns("synapse_count")}, "synapse_count is missing"),
        ({"neurons": pa.table({"name": ["x"]})}, "source_id is missing"),
        ({"neurons": pa.table({"source_id": [""]})}, "1 rows have no source_id"),
        ({"neurons": _neurons().slice(0, 0)}, "holds no rows"),
        ({"neuron": _neurons()}, "unknown table neuron"),
    ],
)  # fmt: skip
async def test_rows_that_break_a_rule_are_refused_and_nothing_stays(
    engine: LocalEngine, target: UploadTarget, tables: dict[str, pa.Table], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        await _upload(target, tables)

    assert await versions(engine) == []
    assert await _staged(engine) == []
    assert (await _upload(target, {"neurons": _neurons()})).version == 1


async def test_an_unknown_column_names_the_nearest(target: UploadTarget) -> None:
    with pytest.raises(DataError) as caught:
        await _upload(target, {"neurons": _neurons(mesh_volum=[1.0, 2.0, 3.0])})
    assert "mesh_volume" in caught.value.hint


async def test_a_parent_resolves_in_the_table_it_names(engine: LocalEngine, target: UploadTarget) -> None:
    await _upload(target, {"neurons": _neurons(), "axons": _axons(parent_enum=1)})
    assert await _rows(engine, "SELECT count() AS n FROM syndb.axons") == [{"n": 1}]


async def test_ids_of_every_arrow_form_are_understood(engine: LocalEngine, target: UploadTarget) -> None:
    raw = [UUID(text).bytes for text in _ids("AVAL", "AVAR")]
    await _upload(
        target,
        {
            "neurons": _neurons(),
            "synapses": _synapses(pre_id=pa.array(raw, pa.binary(16)), post_id=pa.array(raw, pa.uuid())),
        },
    )
    found = await _rows(
        engine, "SELECT toString(pre_id) AS a, toString(post_id) AS b FROM syndb.synapses ORDER BY source_id"
    )
    assert found == [{"a": text, "b": text} for text in _ids("AVAL", "AVAR")]


async def test_progress_is_told(target: UploadTarget) -> None:
    told: list[tuple[str, int, int]] = []
    many = pa.table({"source_id": [str(n) for n in range(100_000)]})
    await trio.to_thread.run_sync(
        lambda: upload(target, METADATA, WORM, {"neurons": many}, lambda *step: told.append(step))
    )
    assert told == [("neurons", 65_536, 100_000), ("neurons", 100_000, 100_000)]


async def test_a_wrong_token_is_refused(target: UploadTarget) -> None:
    wrong = UploadTarget(target.location, target.certificate_pem, "0" * 64)
    with pytest.raises(Unauthenticated):
        await _upload(wrong, {"neurons": _neurons()})
    assert target.token not in repr(target)


def _begin(client: flight.FlightClient, options: flight.FlightCallOptions) -> str:
    body = {"dataset_id": str(WORM), "metadata": METADATA.model_dump(), "tables": ["neurons"]}
    (answer,) = client.do_action(flight.Action("begin", json.dumps(body).encode()), options)
    return str(json.loads(answer.body.to_pybytes())["upload_id"])


def _options(target: UploadTarget) -> flight.FlightCallOptions:
    return flight.FlightCallOptions(timeout=30, headers=[(b"authorization", f"Bearer {target.token}".encode())])


async def test_one_upload_at_a_time_per_data_set(target: UploadTarget) -> None:
    with connect(target.location, target.certificate_pem) as client:
        upload_id = _begin(client, _options(target))
        with pytest.raises(Conflict, match="being uploaded already"):
            await _upload(target, {"neurons": _neurons()})
        list(client.do_action(flight.Action("abort", json.dumps({"upload_id": upload_id}).encode()), _options(target)))
    assert (await _upload(target, {"neurons": _neurons()})).version == 1


async def test_a_published_version_is_never_replaced(engine: LocalEngine, target: UploadTarget) -> None:
    await _upload(target, {"neurons": _neurons()})

    async def publish_another() -> None:
        await engine.execute(
            f"INSERT INTO syndb.neurons (dataset_id, version, source_id) VALUES ('{WORM}', 2, 'rival')"
        )
        await engine.execute(_AS_COMMITTED.format("2 AS version"))

    def overtaken(table: str, sent: int, rows: int) -> None:
        trio.from_thread.run(publish_another)

    with pytest.raises(Conflict, match="version 2 of worm was published meanwhile"):
        await trio.to_thread.run_sync(upload, target, METADATA, WORM, {"neurons": _neurons(gaba=[1.0] * 3)}, overtaken)

    assert await _rows(engine, "SELECT source_id FROM syndb.neurons WHERE version = 2") == [{"source_id": "rival"}]
    assert (await _upload(target, {"neurons": _neurons(gaba=[1.0] * 3)})).version == 3


@pytest.mark.parametrize(
    ("holder", "advice"),
    [(WORM, "leave out --dataset-id"), (dataset_id("fly"), f"use --dataset-id {dataset_id('fly')}")],
)
async def test_a_name_belongs_to_one_data_set(
    engine: LocalEngine, target: UploadTarget, holder: UUID, advice: str
) -> None:
    await _upload(target, {"neurons": _neurons()}, dataset=holder)
    renamed = METADATA.model_copy(update={"dataset": "renamed"})
    await _upload(target, {"neurons": _neurons()}, renamed, dataset=holder)

    for taken in (METADATA, renamed):
        with pytest.raises(Conflict, match=f"belongs to data set {holder}") as caught:
            await _upload(target, {"neurons": _neurons()}, taken, dataset=dataset_id("mouse"))
        assert (advice if taken is METADATA else f"use --dataset-id {holder}") in caught.value.hint
    assert {version.dataset_id for version in await versions(engine)} == {holder}
    assert await _staged(engine) == []


async def test_of_two_uploads_with_one_name_the_first_to_publish_has_it(
    engine: LocalEngine, target: UploadTarget
) -> None:
    def overtaken(table: str, sent: int, rows: int) -> None:
        upload(target, METADATA, WORM, {"neurons": _neurons()})

    with pytest.raises(Conflict, match=f"belongs to data set {WORM}"):
        await trio.to_thread.run_sync(upload, target, METADATA, dataset_id("fly"), {"neurons": _neurons()}, overtaken)
    assert [version.dataset_id for version in await versions(engine)] == [WORM]
    assert await _rows(engine, "SELECT count() AS n FROM syndb.neurons") == [{"n": 3}]


CLIENT = """
import json, sys, time
import pyarrow as pa
from pyarrow import flight
from syndb_common.flight.client import connect

location, certificate, token, begin = sys.argv[1:]
options = flight.FlightCallOptions(timeout=60, headers=[(b"authorization", f"Bearer {token}".encode())])
client = connect(location, certificate)
(answer,) = client.do_action(flight.Action("begin", begin.encode()), options)
put = {**json.loads(answer.body.to_pybytes()), "table": "neurons"}
rows = pa.table({"source_id": ["half"]})
writer, _ = client.do_put(flight.FlightDescriptor.for_command(json.dumps(put)), rows.schema, options)
writer.write_table(rows)
print("sent", flush=True)
time.sleep(60)
"""


async def test_a_killed_import_is_invisible_and_the_earlier_version_served(
    engine: LocalEngine, target: UploadTarget
) -> None:
    await _upload(target, {"neurons": _neurons()})
    begin = Begin(dataset_id=WORM, metadata=METADATA, tables=("neurons",)).model_dump_json()
    client = await trio.lowlevel.open_process(
        [sys.executable, "-c", CLIENT, target.location, target.certificate_pem, target.token, begin],
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    assert (await client.stdout.receive_some()).startswith(b"sent")
    assert await _staged(engine)
    client.kill()
    await client.wait()
    await client.stdout.aclose()

    with trio.fail_after(20):
        while await _staged(engine):
            await trio.sleep(0.05)
    assert [version.version for version in await versions(engine)] == [1]
    assert await _rows(engine, "SELECT count() AS n FROM syndb.neurons") == [{"n": 3}]
    assert (await _upload(target, {"neurons": _neurons(gaba=[1.0, 1.0, 1.0])})).version == 2


async def test_what_a_crash_left_unpublished_is_dropped_and_versions_stay(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path, flight=FlightSettings("127.0.0.1", 0, tmp_path / "flight"))

    async def supervise() -> None:
        while True:
            try:
                await engine.run()
            except EngineUnavailable:
                continue

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise)
        await schema.apply(engine, schema.migrations())
        target = UploadTarget.of_folders(engine.flight_location, tmp_path / "flight", tmp_path)
        await _upload(target, {"neurons": _neurons()})
        # A crash between two partitions and the commit row leaves exactly this:
        await engine.execute(f"INSERT INTO syndb.neurons (dataset_id, version, source_id) VALUES ('{WORM}', 2, 'x')")
        await engine.execute("CREATE TABLE syndb_staging.of_nobody AS syndb.neurons")
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(20):
            while engine.pid in (pid, None):
                await trio.sleep(0.02)

        assert await _rows(engine, "SELECT version, count() AS n FROM syndb.neurons GROUP BY version") == [
            {"version": 1, "n": 3}
        ]
        assert await _staged(engine) == []
        assert [version.version for version in await versions(engine)] == [1]
        nursery.cancel_scope.cancel()


async def test_metadata_of_a_newer_release_are_read_and_damaged_ones_left_out(
    engine: LocalEngine, target: UploadTarget
) -> None:
    await _upload(target, {"neurons": _neurons()})
    newer = METADATA.model_dump_json().replace("{", '{"embargo": {"until": 2031}, ', 1)
    for version, metadata in enumerate((newer, "{", "[]", '{"dataset": 1}', '{"title": "no name"}'), start=2):
        await engine.execute(_AS_COMMITTED.format(f"{version} AS version, '{metadata}' AS metadata") + " LIMIT 1")

    with structlog.testing.capture_logs() as logs:
        found = await versions(engine)

    assert [(each.version, each.metadata) for each in found] == [(1, METADATA), (2, METADATA)]
    assert [(each["log_level"], each["version"]) for each in logs] == [("error", n) for n in (3, 4, 5, 6)]
    assert (await _upload(target, {"neurons": _neurons()})).version == 7


async def test_unknown_metadata_are_not_published(target: UploadTarget) -> None:
    begin = Begin(dataset_id=WORM, metadata=METADATA, tables=("neurons",)).model_dump(mode="json")
    begin["metadata"]["embargo"] = "2031"
    with connect(target.location, target.certificate_pem) as client, pytest.raises(flight.FlightServerError) as caught:
        list(client.do_action(flight.Action("begin", json.dumps(begin).encode()), _options(target)))
    assert "unknown field embargo" in json.loads(caught.value.extra_info)["error"]


class _Swept(Uploads):
    """Uploads whose clearing away fails, for another reason each time, and ends the thread at last."""

    failures: Iterator[BaseException] = iter((OSError(24, "no more files"), EngineUnavailable("gone"), SystemExit()))

    def drop_abandoned(self, seconds: float = 0.0) -> None:
        raise next(self.failures)


def test_abandoned_uploads_are_looked_for_whatever_went_wrong_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publish, "SWEEP_SECONDS", 0.0)
    with pytest.raises(SystemExit):
        _Swept(cast("Any", None))._sweep()
    assert caplog.text.count("what was abandoned could not be cleared away") == 2


async def test_damaged_requests_are_errors_of_ours(target: UploadTarget) -> None:
    with connect(target.location, target.certificate_pem) as client:
        for name, body in (("begin", b"{"), ("publish", b'{"upload_id": "x"}'), ("nothing", b"{}")):
            with pytest.raises(flight.FlightServerError) as caught:
                list(client.do_action(flight.Action(name, body), _options(target)))
            assert json.loads(caught.value.extra_info)["code"] in ("invalid_request", "not_found")
