"""A hub's own data by Flight, from the outside: published with an API token and read by its users.

Hub, node and client are killed on the way. What was published is the same afterwards, by its rows and by its hash;
nothing half-done is seen, and what was begun goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
import trio
from pyarrow import flight

from demo.local import LocalFederation, local_federation
from demo.processes import Daemon, DemoError, Place
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.published import versions
from syndb_common.errors import Conflict, DeadlineExceeded, Forbidden, NotFound, Unauthenticated, Unavailable
from syndb_common.flight.client import connect
from syndb_common.flight.uploader import UploadTarget, delete, probe, upload
from syndb_common.flight.uploads import PublishResult
from syndb_common.flight.wire import PART, from_flight
from syndb_common.tables.identity import dataset_id
from syndb_common.tables.versions import DatasetMetadata
from syndb_hub.auth.commands import create_token
from syndb_hub.auth.principal import Right
from tests.federation.processes import engines_of, eventually, is_running
from tests.syndb_common.flight.dying import STAGES, harm, mortal_interpreter
from tests.syndb_common.flight.dying import stopped as stands_still
from tests.syndb_common.flight.uploading import METADATA, WORM, RawClient, content_hash_of, neurons, tables_of

SECONDS = 120.0
"""Nothing here takes so long by far."""
ROWS = 600
LARGE, LARGE_ROWS = "large", 200_000
"""A data set whose rows fill several parts of a result."""

pytestmark = pytest.mark.timeout(600)


class Mortal(Place):
    """This machine, where the engine process of a daemon gets a signal at a chosen statement."""

    ENTRY = "import runpy, sys; sys.executable, *sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], None, '__main__')"

    def __init__(self, interpreter: Path) -> None:
        self._interpreter = interpreter

    def words(self, words: list[str]) -> list[str]:
        """The daemon, which takes another interpreter for its own."""
        return [sys.executable, "-c", self.ENTRY, str(self._interpreter), *words]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("hub-flight")
    mortal = mortal_interpreter(folder)
    places = {name: Mortal(mortal) for name in ("hub", "node")}
    with local_federation(folder, ["node"], places=places) as found:
        found.start_hub()
        found.start_node("node")
        found.wait_healthy(["node"], seconds=SECONDS)
        yield found


def token_of(federation: LocalFederation, name: str, *rights: Right) -> tuple[str, str]:
    """A new API token of these rights, and its id."""
    issued = create_token(federation.folder / "hub" / "hub.sqlite", f"{name}-{uuid4().hex}", rights)
    return issued.text, issued.record.id


def target_of(federation: LocalFederation, who: str, token: str = "") -> UploadTarget:
    """Where data are uploaded to: a node with its owner's token, the hub with one that may do everything, or this."""
    if who == "hub":
        server = federation.get("/v1/flight")
        return UploadTarget(server["location"], server["certificate"], token or federation.token)
    place = tomllib.loads(federation.config(who).read_text())["flight"]["advertise"]
    folder = federation.folder / who / "engine"
    return UploadTarget.of_folders(f"grpc+tls://{place}", folder / "tls", folder)


class Client:
    """A Flight client as anybody writes one; what is refused raises our errors."""

    def __init__(self, target: UploadTarget) -> None:
        self._client = connect(target.location, target.certificate_pem)
        headers = [(b"authorization", f"Bearer {target.token}".encode())]
        self._options = flight.FlightCallOptions(timeout=SECONDS, headers=headers)

    def info(self, command: str) -> flight.FlightInfo:
        """Ask for a result."""
        with our_errors():
            return self._client.get_flight_info(flight.FlightDescriptor.for_command(command), self._options)

    def read(self, *endpoints: flight.FlightEndpoint) -> pa.Table:
        """Read parts of a result."""
        with our_errors():
            return pa.concat_tables(
                self._client.do_get(endpoint.ticket, self._options).read_all() for endpoint in endpoints
            )

    def act(self, name: str, **about: str) -> dict[str, Any]:
        """Have something done."""
        with our_errors():
            (answer,) = self._client.do_action(flight.Action(name, json.dumps(about).encode()), self._options)
        found: dict[str, Any] = json.loads(answer.body.to_pybytes())
        return found

    def deliver(self) -> None:
        """Deliver a part as a node does."""
        rows = pa.table({"n": [1]})
        with our_errors():
            writer, _ = self._client.do_put(flight.FlightDescriptor.for_command(PART), rows.schema, self._options)
            writer.write_table(rows)
            writer.close()


@contextmanager
def our_errors() -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        raise from_flight(error) from None


@dataclass
class Found:
    """What the engine of a daemon that does not run holds of one data set.

    Attributes:
        stated: content hash of each version, as it was published.
        computed: the same of the rows that are there.
        audit: what was done to which version by whom, in order.
        left: tables of uploads, and rows without a version.
    """

    stated: dict[int, str]
    computed: dict[int, str]
    audit: list[tuple[str, int, str]]
    left: list[dict[str, Any]]


LEFT = """
    SELECT name AS place FROM system.tables WHERE database = 'syndb_staging' UNION ALL
    SELECT concat(table, ' ', partition) AS place FROM system.parts
    WHERE active AND rows > 0 AND database = 'syndb' AND table IN ('neurons', 'axons')
    AND partition NOT IN (SELECT toString((dataset_id, version)) FROM syndb.dataset_versions)
"""


def look_into(folder: Path, dataset: UUID) -> Found:
    """What there is; the daemon does not run."""

    async def look() -> Found:
        engine = LocalEngine(folder)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            mine = [each for each in await versions(engine) if each.dataset_id == dataset]
            changes = f"SELECT what, version, who FROM syndb_records.changes WHERE dataset_id = '{dataset}' ORDER BY at"
            found = Found(
                {each.version: each.content_hash for each in mine},
                {each.version: await content_hash_of(engine, dataset, each.version) for each in mine},
                [tuple(row.values()) for row in (await engine.query(changes)).table.to_pylist()],
                (await engine.query(LEFT)).table.to_pylist(),
            )
            nursery.cancel_scope.cancel()
        return found

    return trio.run(look)


@contextmanager
def stopped(federation: LocalFederation, who: str) -> Iterator[Path]:
    """The folder of a daemon's engine while the daemon does not run; afterwards it does again."""
    daemon = federation.daemons[who]
    assert daemon.process is not None
    daemon.process.terminate()
    assert daemon.process.wait(SECONDS) == 0
    daemon.process = None
    yield federation.folder / who / "engine"
    start(federation, who)


def start(federation: LocalFederation, who: str) -> None:
    federation.start_hub() if who == "hub" else federation.start_node(who)
    federation.wait_answering(seconds=SECONDS)
    federation.wait_healthy(["node"], seconds=SECONDS)


def test_a_user_publishes_reads_and_deletes_at_a_hub_and_the_audit_names_the_token(federation: LocalFederation) -> None:
    token, token_id = token_of(federation, "owner", Right.UPLOAD, Right.QUERY)
    target = target_of(federation, "hub", token)
    fly, client = dataset_id("fly"), Client(target)
    rows = neurons(0, ROWS)
    published = upload(target, DatasetMetadata(dataset="fly"), fly, {"neurons": rows})
    assert (published.version, published.row_counts) == (1, {"neurons": ROWS})
    counted = "SELECT COUNT(*) AS n, SUM(soma_x) AS x FROM neurons WHERE dataset = 'fly' SCOPE local"
    assert federation.query(counted)["rows"] == [[ROWS, sum(range(ROWS))]]

    info = client.info("SELECT source_id, soma_x FROM neurons WHERE dataset = 'fly' SCOPE local")
    about = json.loads(info.app_metadata)
    assert client.read(*info.endpoints).sort_by("soma_x").equals(rows)
    with pytest.raises(NotFound):
        client.read(*info.endpoints)
    fresh = client.info(json.dumps({"job_id": about["job_id"]}))
    assert client.read(*fresh.endpoints).sort_by("soma_x").equals(rows)
    assert client.act("status", query_id=about["job_id"]) == about
    with pytest.raises(Conflict, match="completed"):
        client.act("cancel", query_id=about["job_id"])
    with pytest.raises(NotFound, match="ticket for a delivery"):
        client.deliver()

    assert delete(target, fly).versions == (1,)
    with pytest.raises(DemoError, match="unknown data set `fly`"):
        federation.query(counted)
    with stopped(federation, "hub") as folder:
        found = look_into(folder, fly)
    assert found.audit == [("published", 1, token_id), ("deleting", 1, token_id), ("deleted", 1, token_id)]
    assert (found.stated, found.left) == ({}, [])


def test_a_token_does_at_a_hub_what_its_scopes_say_and_sees_no_other_ones_work(federation: LocalFederation) -> None:
    fly, table = dataset_id("fly"), {"neurons": neurons(0, 3)}
    reader, writer, other = (
        target_of(federation, "hub", token_of(federation, "one", right)[0])
        for right in (Right.QUERY, Right.UPLOAD, Right.QUERY)
    )
    for refused in (
        lambda: upload(reader, DatasetMetadata(dataset="fly"), fly, table),
        lambda: delete(reader, fly),
        lambda: Client(reader).act("status", upload_id=str(uuid4())),
        lambda: Client(writer).info("SELECT COUNT(*) AS n FROM neurons SCOPE local"),
        lambda: Client(writer).act("status", query_id=str(uuid4())),
    ):
        with pytest.raises(Forbidden):
            refused()
    info = Client(reader).info("SELECT COUNT(*) AS n FROM neurons SCOPE local")
    job_id = json.loads(info.app_metadata)["job_id"]
    for refused in (
        lambda: Client(other).read(*info.endpoints),
        lambda: Client(other).info(json.dumps({"job_id": job_id})),
        lambda: Client(other).act("status", query_id=job_id),
        lambda: Client(other).act("cancel", query_id=job_id),
    ):
        with pytest.raises((NotFound, Unauthenticated)):
            refused()
    assert Client(reader).read(*info.endpoints).num_rows == 1


@pytest.mark.parametrize("who", ["hub", "node"])
def test_an_upload_is_cancelled_by_its_id(federation: LocalFederation, who: str) -> None:
    target = target_of(federation, who)
    with RawClient(target) as raw:
        begun = raw.begin("neurons", metadata=DatasetMetadata(dataset="fly"))
        raw.status(begun)
        assert Client(target).act("cancel", upload_id=str(begun)) == {}
        with pytest.raises(NotFound):
            raw.status(begun)


SOME = {"hub": ("rows stored", "half in place"), "node": ("in place",)}
OTHERS = ("all rows stored", "hashing", "commit row", "committed")
"""Stages of the large runs."""


@pytest.mark.parametrize(
    ("who", "reached"),
    [
        *SOME.items(),
        pytest.param("hub", OTHERS, marks=pytest.mark.largest),
        pytest.param("node", OTHERS, marks=pytest.mark.largest),
    ],
    ids=["hub", "node", "hub at other stages", "node at other stages"],
)
def test_a_daemon_killed_in_the_middle_finds_the_upload_again_and_nothing_half_done(
    federation: LocalFederation, who: str, reached: tuple[str, ...]
) -> None:
    token, by = token_of(federation, "owner", Right.UPLOAD) if who == "hub" else ("", "owner")
    target = target_of(federation, who, token)
    results: list[PublishResult] = []
    for number, name in enumerate(STAGES):
        if name not in reached:
            continue
        harm(federation.folder / who / "engine", STAGES[name], signal.SIGSTOP)
        uploading = partial(upload, target, METADATA, WORM, tables_of(number), key=uuid4())
        with ThreadPoolExecutor(1) as pool:
            broken = pool.submit(uploading, patience=0.0)
            kill_where_the_engine_stands_still(federation.daemons[who])
            with pytest.raises(Unavailable):
                broken.result(SECONDS)
        start(federation, who)
        assert eventually(partial(reaches, target), seconds=SECONDS)
        results.append(uploading(patience=SECONDS))
    with stopped(federation, who) as folder:
        found = look_into(folder, WORM)
    assert {result.version: result.content_hash for result in results}.items() <= found.stated.items()
    assert len({result.version for result in results}) == len(reached)
    assert found.computed == found.stated
    assert sorted(found.audit)[-len(results) :] == [("published", result.version, by) for result in results]
    assert len(found.audit) == len(found.stated)
    assert found.left == []


def reaches(target: UploadTarget) -> bool:
    """Whether uploads are taken there again."""
    with suppress(Unavailable, DeadlineExceeded):
        probe(target)
        return True
    return False


def kill_where_the_engine_stands_still(daemon: Daemon) -> None:
    engines = engines_of(daemon)
    assert eventually(lambda: any(stands_still(pid) for pid in engines), seconds=SECONDS)
    daemon.kill()
    for pid in engines:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)  # stopped, it could not see that its daemon is gone
    wait_gone(engines)


def wait_gone(pids: list[int]) -> None:
    assert eventually(lambda: not any(is_running(pid) for pid in pids), seconds=SECONDS)


READER = """
import json, sys
import pyarrow as pa
from pyarrow import flight
location, certificate, token, query, path = sys.argv[1:]
client = flight.connect(location, tls_root_certs=certificate, override_hostname="syndb")
options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])
info = client.get_flight_info(flight.FlightDescriptor.for_command(query), options)
with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, info.schema) as writer:
    writer.write_table(client.do_get(info.endpoints[0].ticket, options).read_all())
second = client.do_get(info.endpoints[1].ticket, options)
begun = second.read_chunk().data.num_rows
print(json.loads(info.app_metadata)["job_id"], flush=True)
sys.stdin.readline()
try:
    print(begun + second.read_all().num_rows)
except pa.ArrowException as error:
    print("error")
"""
"""Takes the first part of a result and begins with the second, to go on when told and say how that ended."""


@pytest.fixture(scope="module")
def large(federation: LocalFederation) -> pa.Table:
    """What was published at the hub as the large data set."""
    rows = pa.table(
        {"source_id": [f"{n:08}" for n in range(LARGE_ROWS)], "name": [f"{n:0100}" for n in range(LARGE_ROWS)]}
    )
    upload(target_of(federation, "hub"), DatasetMetadata(dataset=LARGE), dataset_id(LARGE), {"neurons": rows})
    return rows


@pytest.mark.parametrize("victim", ["hub", "engine", "client"])
def test_a_download_that_broke_off_goes_on_with_fresh_tickets_whoever_was_killed(
    federation: LocalFederation, large: pa.Table, tmp_path: Path, victim: str
) -> None:
    target, hub = target_of(federation, "hub"), federation.daemons["hub"]
    query = f"SELECT source_id, name FROM neurons WHERE dataset = '{LARGE}' SCOPE local"
    words = [target.location, target.certificate_pem, target.token, query, str(tmp_path / "first")]
    with subprocess.Popen(
        [sys.executable, "-c", READER, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        job_id = client.stdout.readline().strip()
        engines = engines_of(hub)
        if victim == "client":
            client.kill()
        elif victim == "hub":
            hub.kill()
        else:
            for pid in engines:
                os.kill(pid, signal.SIGKILL)
        if victim != "client":
            wait_gone(engines)
        said, _ = client.communicate("go on\n", timeout=SECONDS)
    if victim == "hub":
        start(federation, "hub")
    reader = Client(target)
    found: list[flight.FlightInfo] = []

    def offered() -> bool:
        with suppress(Unavailable):
            found.append(reader.info(json.dumps({"job_id": job_id})))
        return bool(found)

    assert eventually(offered, seconds=SECONDS)
    endpoints = found[0].endpoints
    with pa.OSFile(str(tmp_path / "first")) as file:
        first = pa.ipc.open_file(file).read_all()
    second, *others = (reader.read(endpoint) for endpoint in endpoints[1:])
    if victim != "client":  # what had come already may be whole, but never short
        assert said in ("error\n", f"{second.num_rows}\n")
    rows = pa.concat_tables([first, second, *others])
    assert rows.sort_by("source_id").equals(large)
