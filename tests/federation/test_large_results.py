"""Results of millions of rows: flat in memory, no faster than they are taken, and whole or an error whoever is killed.

One node is fetched from, the other delivers: its Flight server is announced at a port where nobody listens.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import flight

from demo.local import LocalFederation, local_federation
from demo.processes import Daemon, free_ports
from syndb_common.errors import NotFound
from syndb_common.flight.client import connect
from syndb_common.flight.uploader import UploadTarget
from syndb_common.flight.wire import from_flight
from tests.federation.large_rows import fill, hash_of
from tests.federation.processes import engines_of, eventually, memory_of_all

NEAR, FAR = "near", "far"
ROWS = {NEAR: 5_000_000, FAR: 5_000_000}
SHORTER_ROWS = 1_000_000
AHEAD_ROWS = 1_500_000
"""What a node may have read that a client has not taken: 190,000 of these rows are the hub's window, the others are on
their way, or what ClickHouse reads ahead."""
STANDS_SECONDS = 1.5
LARGEST_ROWS = 20_000_000
MEMORY_BYTES = 200e6
LIVE_MEMORY_BYTES = 300e6
"""While a client takes rows as they come, they are under way in the hub's engine process twice at once, and three times
where the node delivers them."""
RESULT_BYTES = 4 * 1024**3
STALL_SECONDS = 5
COLUMNS = "cid, pre_id, post_id, synapse_count, brain_region"
LONG = 240.0
"""Seconds that nothing here takes by far."""
CLIENT = """
import sys
from pyarrow import flight
location, certificate, token, query = sys.argv[1:]
client = flight.connect(location, tls_root_certs=certificate, override_hostname="syndb")
options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])
print("asking", flush=True)
client.get_flight_info(flight.FlightDescriptor.for_command(query), options)
"""

pytestmark = pytest.mark.timeout(900)


@contextmanager
def large_federation(folder: Path, rows: dict[str, int]) -> Iterator[LocalFederation]:
    """A federation whose nodes hold so many rows."""
    for name, count in rows.items():
        fill(folder / name / "engine", name, count)
    limits = {
        "log_level": "debug",
        "limits": {"seconds": LONG, "result_bytes": RESULT_BYTES},
        "flight": {"stall_seconds": STALL_SECONDS},
    }
    hub = {
        "federation": {"delegation_timeout_seconds": LONG},
        "flight": {"stall_seconds": STALL_SECONDS},
        "jobs": {"max_result_bytes": RESULT_BYTES},
    }
    with local_federation(folder, list(rows), hub=hub, node=limits) as found:
        if FAR in rows:
            port, closed = free_ports(2)
            away = {"flight": {"port": port, "advertise": f"127.0.0.1:{closed}", "stall_seconds": STALL_SECONDS}}
            found.write_node(FAR, free_ports(1)[0], port, {**limits, **away})
        found.start_hub()
        for name in rows:
            found.start_node(name)
        wait_ready(found, rows)
        yield found


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with large_federation(tmp_path_factory.mktemp("large"), ROWS) as found:
        yield found


def wait_ready(federation: LocalFederation, rows: dict[str, int]) -> None:
    """Every node is there, and how its rows come is known."""
    federation.wait_healthy(rows, seconds=LONG)
    federation.wait_datasets(dict.fromkeys(rows, 1), seconds=LONG)
    expected = {NEAR: "pull", FAR: "push"}

    def known() -> bool:
        found = {node["name"]: node["delivery"] for node in federation.get("/v1/federation/clusters")}
        return all(found[name] == expected[name] for name in rows)

    federation.wait_for(known, "the ways", seconds=LONG)


def query_of(name: str, rows: int) -> str:
    return f"SELECT {COLUMNS} FROM synapses WHERE dataset = '{name}' LIMIT {rows} SCOPE remote"


def submit(federation: LocalFederation, name: str, rows: int) -> str:
    """Ask one node for rows; the job's id."""
    return str(federation.post("/v1/syql/exec", {"query": query_of(name, rows), "require": "all"})["job_id"])


def wait_end(federation: LocalFederation, job_id: str) -> dict[str, Any]:
    """The job once it has ended, however."""
    until = time.monotonic() + LONG
    while (job := federation.get(f"/v1/jobs/{job_id}", params={"wait": 20}))["status"] in ("pending", "running"):
        assert time.monotonic() < until, f"the job is {job['status']}"
    found: dict[str, Any] = job
    return found


def unfinished_results(federation: LocalFederation) -> list[Path]:
    """Files of results that are not whole."""
    return list((federation.folder / "hub" / "objects").rglob("*.part"))


def arriving(federation: LocalFederation, job_id: str) -> bool:
    """Whether some of the rows have come."""
    with suppress(FileNotFoundError):
        return any(job_id in path.name and path.stat().st_size > 4e6 for path in unfinished_results(federation))
    return False


def computed(federation: LocalFederation, name: str, event: str = "part computed") -> list[str]:
    """Ids of the queries that a node has begun to answer, or of which it says something else."""
    lines = [line for line in (federation.folder / f"{name}.log").read_text().splitlines() if line.startswith('{"')]
    events = [json.loads(line) for line in lines]
    return [found["query_id"] for found in events if found["event"] == event]


def has_more(federation: LocalFederation, name: str, event: str, before: int) -> bool:
    """Whether a node has said it of further queries."""
    return len(computed(federation, name, event)) > before


class Owner:
    """Asks a node's Flight server how far a query is, as its owner may."""

    def __init__(self, federation: LocalFederation, name: str) -> None:
        import tomllib

        port = tomllib.loads(federation.config(name).read_text())["flight"]["port"]
        folder = federation.folder / name / "engine"
        target = UploadTarget.of_folders(f"grpc+tls://127.0.0.1:{port}", folder / "tls", folder)
        self._client = connect(target.location, target.certificate_pem)
        self._options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {target.token}".encode())])

    def rows_read(self, query_id: str) -> int | None:
        """Rows that the engine has read for the query; None when it has ended."""
        try:
            return int(self._act("status", query_id)["rows"])
        except pa.ArrowException as error:
            if isinstance(from_flight(error), NotFound):
                return None
            raise

    def has_ended(self, query_id: str) -> bool:
        """Whether the engine knows no such query any more."""
        return self.rows_read(query_id) is None

    def cancel(self, query_id: str) -> None:
        """Stop a query."""
        self._act("cancel", query_id)

    def _act(self, name: str, query_id: str) -> dict[str, Any]:
        [answer] = self._client.do_action(
            flight.Action(name, json.dumps({"query_id": query_id}).encode()), self._options
        )
        found: dict[str, Any] = json.loads(answer.body.to_pybytes())
        return found


def processes(daemon: Daemon) -> list[int]:
    assert daemon.process is not None
    return [daemon.process.pid, *engines_of(daemon)]


class Client:
    """A plain client of the hub."""

    def __init__(self, federation: LocalFederation) -> None:
        server = federation.get("/v1/flight")
        self._client = flight.connect(server["location"], tls_root_certs=server["certificate"])
        self._options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {federation.token}".encode())])

    def ask(self, **command: Any) -> tuple[list[Any], dict[str, Any]]:
        """Readers of the parts of a result, and what is said of it."""
        wanted = flight.FlightDescriptor.for_command(json.dumps(command).encode())
        info = self._client.get_flight_info(wanted, self._options)
        readers = [self._client.do_get(endpoint.ticket, self._options) for endpoint in info.endpoints]
        return readers, json.loads(info.app_metadata)

    def follow(self, query: str) -> tuple[Any, str]:
        """A reader of rows while they come, and the id of their job."""
        [reader], about = self.ask(query=query, live=True)
        return reader, about["job_id"]


def take(reader: Any) -> int:
    """The rows of all batches that are still to come; none is kept."""
    return sum(chunk.data.num_rows for chunk in reader)


@contextmanager
def memory(federation: LocalFederation, name: str) -> Iterator[dict[str, float]]:
    """Bytes above idle that hub and node take at most within the block, all their processes together."""
    daemons = {"hub": federation.daemons["hub"], "node": federation.daemons[name]}
    assert wait_end(federation, submit(federation, name, 100_000))["rows"] == 100_000
    idle = {who: memory_of_all(daemon) for who, daemon in daemons.items()}
    above = dict.fromkeys(daemons, 0.0)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for who, daemon in daemons.items():
                above[who] = max(above[who], memory_of_all(daemon) - idle[who])

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield above
    finally:
        ended.set()
        watching.join()


def measure(federation: LocalFederation, name: str, rows: int) -> dict[str, float]:
    """What memory hub and node take while so many rows go through both to a client."""
    client = Client(federation)
    with memory(federation, name) as above:
        readers, about = client.ask(query=query_of(name, rows), require="all")
        assert [take(reader) for reader in readers].count(0) == 0
    job = federation.get(f"/v1/jobs/{about['job_id']}")
    assert (job["status"], job["rows"]) == ("completed", rows)
    assert job["provenance"]["nodes"][0]["bytes"] > 80 * rows
    assert job["provenance"]["scanned_rows"] > rows / 2  # ClickHouse does not count what LIMIT makes superfluous
    return above


@pytest.mark.parametrize("name", [NEAR, pytest.param(FAR, marks=pytest.mark.largest)])
def test_memory_of_hub_and_node_stays_flat_while_5_million_rows_go_through_them_to_a_client(
    federation: LocalFederation, name: str
) -> None:
    found = measure(federation, name, ROWS[name])
    assert max(found.values()) < MEMORY_BYTES, found


@pytest.mark.largest
def test_memory_is_the_same_for_20_million_rows(tmp_path: Path) -> None:
    with large_federation(tmp_path, {NEAR: LARGEST_ROWS}) as federation:
        found = measure(federation, NEAR, LARGEST_ROWS)
    assert max(found.values()) < MEMORY_BYTES, found


@pytest.mark.parametrize("name", [NEAR, FAR])
def test_a_client_that_is_slow_slows_the_scan_of_a_node_and_comes_to_the_end_of_it(
    federation: LocalFederation, name: str
) -> None:
    owner, taken = Owner(federation, name), 0
    with memory(federation, name) as above:
        before = len(computed(federation, name))
        reader, job_id = Client(federation).follow(query_of(name, ROWS[name]))
        for wanted in (1, 500_000, 600_000):
            while taken < wanted:
                taken += reader.read_chunk().data.num_rows
            [query_id] = computed(federation, name)[before:]
            read = stands_at(owner, query_id)
            assert read is not None, "the scan has ended while hardly anything was taken"
            assert read - taken < AHEAD_ROWS
        assert taken + take(reader) == ROWS[name]
    assert max(above.values()) < LIVE_MEMORY_BYTES, above
    job = wait_end(federation, job_id)
    assert (job["status"], job["rows"]) == ("completed", ROWS[name])


def stands_at(owner: Owner, query_id: str) -> int | None:
    """Rows that a query has read when it reads no more; None when it has ended."""
    until = time.monotonic() + LONG
    read = owner.rows_read(query_id)
    while time.monotonic() < until:
        time.sleep(STANDS_SECONDS)
        earlier, read = read, owner.rows_read(query_id)
        if read == earlier:
            return read
    raise AssertionError("the scan goes on although nothing is taken")


@pytest.mark.parametrize("what", ["leaves", "stands still", "hears of a failure"])
def test_rows_taken_while_they_come_end_with_their_client_or_in_an_error(
    federation: LocalFederation, what: str
) -> None:
    client, started = Client(federation), {}
    for name in ROWS:
        before = len(computed(federation, name))
        reader, job_id = client.follow(query_of(name, ROWS[name]))
        assert reader.read_chunk().data.num_rows
        [query_id] = computed(federation, name)[before:]
        started[name] = reader, job_id, query_id
    for name, (reader, _, query_id) in started.items():
        if what == "leaves":
            reader.cancel()
        elif what == "hears of a failure":
            Owner(federation, name).cancel(query_id)
            with pytest.raises(pa.ArrowException, match="the query was cancelled"):
                take(reader)
    for name, (reader, job_id, query_id) in started.items():
        assert eventually(partial(Owner(federation, name).has_ended, query_id), seconds=LONG)
        job = wait_end(federation, job_id)
        assert job["status"] == ("failed" if what == "hears of a failure" else "cancelled")
        if what == "stands still":
            with pytest.raises(pa.ArrowException):
                take(reader)
    assert eventually(lambda: not unfinished_results(federation), seconds=LONG)


def test_what_is_taken_while_it_comes_is_what_is_kept_of_several_nodes_within_the_limit(
    federation: LocalFederation,
) -> None:
    client, query = Client(federation), f"SELECT {COLUMNS} FROM synapses LIMIT 300000 SCOPE remote"
    reader, job_id = client.follow(query)
    found = reader.read_all()
    assert found.num_rows == 300_000
    readers, _ = client.ask(job_id=job_id)
    assert pa.concat_tables([reader.read_all() for reader in readers]).equals(found)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT COUNT(*) AS n FROM synapses", "it aggregates"),
        ("SELECT cid FROM synapses ORDER BY cid LIMIT 5", "it is in order"),
        ("SELECT cid FROM synapses LIMIT 5 OFFSET 5", "it leaves out the first rows"),
    ],
)
def test_only_rows_that_are_passed_on_as_they_come_can_be_taken_while_they_come(
    federation: LocalFederation, query: str, reason: str
) -> None:
    with pytest.raises(pa.ArrowException, match=rf"{reason} \(ask without live"):
        Client(federation).follow(f"{query} SCOPE remote")


@pytest.mark.parametrize("name", [NEAR, FAR])
def test_a_node_reads_no_further_than_its_hub_takes_and_gives_up_one_that_stands_still(
    federation: LocalFederation, name: str
) -> None:
    owner, hub = Owner(federation, name), federation.daemons["hub"]
    before = len(computed(federation, name))
    job_id = submit(federation, name, ROWS[name])
    assert eventually(lambda: arriving(federation, job_id), seconds=LONG)
    stopped = processes(hub)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        [query_id] = computed(federation, name)[before:]
        read: list[int] = []

        def ended() -> bool:
            rows = owner.rows_read(query_id)
            read.extend([] if rows is None else [rows])
            return rows is None

        assert eventually(ended, seconds=LONG), read[-5:]
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert read, "the query had ended before the hub stood still"
    assert max(read) < ROWS[name] / 2, "the table was read for a hub that takes nothing"
    job = wait_end(federation, job_id)
    assert job["status"] == "failed", "what was cut off is no result"
    assert eventually(lambda: not unfinished_results(federation), seconds=LONG)
    wait_ready(federation, ROWS)
    again = wait_end(federation, submit(federation, name, 200_000))
    assert (again["status"], again["rows"]) == ("completed", 200_000)


ASKED = "part asked for"
CANCELLED_SECONDS = 20.0
"""Less than a result waits for its reader, so that what has ended by then was ended."""


@pytest.mark.parametrize("stage", ["computing", "arriving"])
def test_a_cancelled_job_leaves_no_query_at_its_node_whether_it_fetches_or_delivers(
    federation: LocalFederation, stage: str
) -> None:
    owners = {name: Owner(federation, name) for name in ROWS}
    before = {name: len(computed(federation, name, ASKED)) for name in ROWS}
    stopped = [pid for name in ROWS for pid in engines_of(federation.daemons[name])] if stage == "computing" else []
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        jobs = {name: submit(federation, name, rows) for name, rows in ROWS.items()}
        for name, job_id in jobs.items():
            assert eventually(partial(has_more, federation, name, ASKED, before[name]), seconds=LONG)
            assert stage == "computing" or eventually(partial(arriving, federation, job_id), seconds=LONG)
        for job_id in jobs.values():
            assert federation.post("/v1/syql/cancel", {"query_id": job_id})["status"] == "cancelled"
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    for name, owner in owners.items():
        [query_id] = computed(federation, name, ASKED)[before[name] :]
        assert eventually(partial(owner.has_ended, query_id), seconds=CANCELLED_SECONDS)
    assert unfinished_results(federation) == []
    for name in ROWS:
        again = wait_end(federation, submit(federation, name, 200_000))
        assert (again["status"], again["rows"]) == ("completed", 200_000)


@pytest.mark.parametrize("name", [NEAR, FAR])
def test_a_query_that_the_owner_of_a_node_stops_is_an_error_for_who_asked(
    federation: LocalFederation, name: str
) -> None:
    owner = Owner(federation, name)
    before = len(computed(federation, name))
    job_id = submit(federation, name, ROWS[name])
    assert eventually(lambda: arriving(federation, job_id), seconds=LONG)
    [query_id] = computed(federation, name)[before:]
    owner.cancel(query_id)
    job = wait_end(federation, job_id)
    assert (job["status"], job["error_code"]) == ("failed", "cancelled")
    assert owner.rows_read(query_id) is None
    assert unfinished_results(federation) == []


VICTIMS = ["engine", "node", "hub", "engine of the hub", "client"]


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("stage", ["arriving", pytest.param("computing", marks=pytest.mark.largest)])
def test_whoever_is_killed_an_answer_is_whole_or_an_error_and_nothing_half_done_is_left(
    federation: LocalFederation, victim: str, stage: str
) -> None:
    """Of two queries at once: one whose rows are fetched, and one whose rows are delivered."""
    engines = {name: engines_of(federation.daemons[name]) for name in ROWS}
    if stage == "computing":
        for pids in engines.values():
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
    clients, jobs = ask_both(federation, through_clients=victim == "client")
    if stage == "arriving":
        assert eventually(lambda: all(arriving(federation, job) for job in jobs.values()), seconds=LONG)
    else:
        wait_running(federation, jobs)
    kill(federation, victim, engines, clients)
    for pids in engines.values():
        for pid in pids:
            with suppress(ProcessLookupError):  # it was killed
                os.kill(pid, signal.SIGCONT)
    hashes = hashes_of(federation) if victim == "node" else {}
    for name, daemon in federation.daemons.items():
        if daemon.process is None:
            federation.start_hub() if name == "hub" else federation.start_node(name)
    federation.wait_answering(seconds=LONG)
    for name, job_id in jobs.items():
        job = wait_end(federation, job_id)
        whole = job["status"] == "completed" and job["rows"] == SHORTER_ROWS and job["provenance"]["complete"]
        assert whole or job["status"] in ("failed", "cancelled"), (name, job)
        assert whole or job["error_code"] or job["status"] == "cancelled"
    for client in clients:
        client.kill()
        client.wait()
    assert eventually(lambda: not unfinished_results(federation), seconds=LONG)
    wait_ready(federation, ROWS)
    for name, rows in ROWS.items():
        counted = federation.query(f"SELECT COUNT(*) AS n FROM synapses WHERE dataset = '{name}' SCOPE remote")
        assert counted["rows"] == [[rows]]
        stated = counted["provenance"]["versions"][0]["content_hash"]
        assert hashes.get(name, stated) == stated


def hashes_of(federation: LocalFederation) -> dict[str, str]:
    """The content hashes of what the nodes hold, which do not run: as the kills before this one left it, too."""
    return {name: hash_of(federation.folder / name / "engine", name) for name in ROWS}


def ask_both(
    federation: LocalFederation, *, through_clients: bool
) -> tuple[list[subprocess.Popen[bytes]], dict[str, str]]:
    """Ask both nodes at once, over HTTP or by clients of Flight; these, and the jobs by the name of the node."""
    if not through_clients:
        return [], {name: submit(federation, name, SHORTER_ROWS) for name in ROWS}
    server = federation.get("/v1/flight")
    words = [sys.executable, "-c", CLIENT, server["location"], server["certificate"], federation.token]
    before = {job["job_id"] for job in federation.get("/v1/jobs")}
    clients = [subprocess.Popen([*words, query_of(name, SHORTER_ROWS)], stdout=subprocess.DEVNULL) for name in ROWS]
    found: list[dict[str, Any]] = []

    def asked() -> bool:
        found[:] = [job for job in federation.get("/v1/jobs") if job["job_id"] not in before]
        return len(found) == len(ROWS)

    assert eventually(asked, seconds=LONG)
    return clients, {job["job_id"]: job["job_id"] for job in found}


def wait_running(federation: LocalFederation, jobs: dict[str, str]) -> None:
    def running() -> bool:
        return all(federation.get(f"/v1/jobs/{job_id}")["status"] == "running" for job_id in jobs.values())

    assert eventually(running, seconds=LONG)


def kill(
    federation: LocalFederation,
    victim: str,
    engines: dict[str, list[int]],
    clients: list[subprocess.Popen[bytes]],
) -> None:
    """End a process, or both of its kind, by SIGKILL."""
    hub = federation.daemons["hub"]
    match victim:
        case "engine":
            pids = [pid for found in engines.values() for pid in found]
        case "engine of the hub":
            pids = engines_of(hub)
        case "client":
            pids = [client.pid for client in clients]
        case _:
            for daemon in [hub] if victim == "hub" else [federation.daemons[name] for name in ROWS]:
                daemon.kill()
            return
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
