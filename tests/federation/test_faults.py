"""What goes wrong, with real processes: killed, stopped, misconfigured, lied to."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.local import LocalFederation, local_federation
from demo.processes import command, run
from tests.federation.processes import engines_of, eventually, is_running

Start = Callable[..., LocalFederation]
COUNT = "SELECT dataset, COUNT(*) FROM synapses GROUP BY dataset ORDER BY dataset SCOPE federation"
STAGE_1, STAGE_2 = ["witvliet-2020-1", 858], ["witvliet-2020-2", 1110]


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory, real_files: Path) -> Iterator[LocalFederation]:
    """Stage 1 in node ``a``. Shared: tests that use it leave it as they found it, whatever they break."""
    with local_federation(tmp_path_factory.mktemp("federation"), ["a"]) as found:
        found.start_hub()
        found.start_node("a")
        found.wait_healthy(["a"], seconds=90)
        yield with_data(found, real_files)


def with_data(federation: LocalFederation, files: Path) -> LocalFederation:
    """Stage 1 in node ``a`` and, where there is one, stage 2 in node ``b``."""
    federation.import_data("a", "c-elegans-dev", files, "--stage", "1")
    if "b" in federation.daemons:
        federation.import_data("b", "c-elegans-dev", files, "--stage", "2")
    federation.wait_datasets({name: 1 for name in federation.daemons if name != "hub"})
    return federation


def in_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start something that ends by itself; its result comes into the list."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def state_of(federation: LocalFederation, node: str) -> dict[str, Any]:
    """How a node says it stands with its hub."""
    try:
        found: dict[str, Any] = json.loads((federation.folder / node / "federation-state.json").read_text())
    except FileNotFoundError:
        return {"state": "", "cause": "", "hint": ""}
    return found


def test_a_node_killed_while_answering_is_named_and_the_others_answer(
    start_federation: Start, real_files: Path
) -> None:
    federation = with_data(start_federation("a", "b"), real_files)
    node = federation.daemons["b"]
    engine = engines_of(node)[0]
    os.kill(engine, signal.SIGSTOP)
    asking, answers = in_background(lambda: federation.query(COUNT))
    assert eventually(lambda: bool(federation.get("/v1/jobs")), seconds=10)
    node.kill()
    os.kill(engine, signal.SIGCONT)  # stopped, it could not see that its daemon is gone
    asking.join(60)
    job = answers[0]
    outcomes = {outcome["cluster"]: outcome for outcome in job["provenance"]["nodes"]}
    assert job["rows"] == [STAGE_1]
    assert job["provenance"]["complete"] is False
    assert job["provenance"]["seconds"] < 30
    assert outcomes["b"]["status"] == "failed"
    assert outcomes["b"]["cause"]
    # Who asks for all nodes gets an error.
    job = federation.query(COUNT, require="all")
    assert (job["status"], job["error_code"]) == ("failed", "unavailable")
    assert "b (" in job["error_message"]


def test_nodes_return_by_themselves_after_the_hub_was_killed(start_federation: Start, real_files: Path) -> None:
    federation = with_data(start_federation("a", "b"), real_files)
    before = {node["name"]: node["id"] for node in federation.get("/v1/federation/clusters")}
    federation.daemons["hub"].kill()
    federation.start_hub()
    federation.wait_answering()
    federation.wait_healthy(["a", "b"], seconds=15)
    federation.wait_datasets({"a": 1, "b": 1}, seconds=15)
    assert federation.query(COUNT)["rows"] == [STAGE_1, STAGE_2]
    assert {node["name"]: node["id"] for node in federation.get("/v1/federation/clusters")} == before


def test_the_engine_of_a_killed_daemon_does_not_stay_behind(one_node: LocalFederation) -> None:
    federation = one_node
    node = federation.daemons["a"]
    engines = engines_of(node)
    assert len(engines) == 1
    node.kill()
    assert eventually(lambda: not is_running(engines[0]), seconds=10)
    federation.start_node("a")
    assert eventually(lambda: federation.query(COUNT).get("rows") == [STAGE_1], seconds=60)


def test_an_engine_that_crashes_is_restarted_and_the_next_query_works(one_node: LocalFederation) -> None:
    federation = one_node
    assert federation.query(COUNT)["rows"] == [STAGE_1]  # from now on the hub knows by which way parts come
    before = len(federation.get("/v1/jobs"))
    engine = engines_of(federation.daemons["a"])[0]
    os.kill(engine, signal.SIGSTOP)
    asking, answers = in_background(lambda: federation.query(COUNT))
    assert eventually(lambda: len(federation.get("/v1/jobs")) > before, seconds=10)
    os.kill(engine, signal.SIGSEGV)
    os.kill(engine, signal.SIGCONT)
    asking.join(60)
    assert (answers[0]["status"], answers[0]["error_code"]) == ("failed", "engine_unavailable")
    assert "repeat" in answers[0]["error_message"] + answers[0]["error_hint"]
    assert eventually(lambda: federation.query(COUNT).get("rows") == [STAGE_1], seconds=20)
    assert engines_of(federation.daemons["a"]) != [engine]


def test_a_wrong_password_is_refused_and_the_operator_is_told(start_federation: Start) -> None:
    federation = start_federation("a", wait=False, node={"federation": {"password": "not the password"}})
    assert eventually(lambda: state_of(federation, "a")["state"] == "refused", seconds=60)
    state = state_of(federation, "a")
    assert "password" in state["cause"]
    assert "SYNDB_FEDERATION_PASSWORD" in state["hint"]
    assert federation.health() == {}
    assert "not the password" not in (federation.folder / "a.log").read_text()


def test_garbage_on_the_ports_disturbs_nobody(one_node: LocalFederation) -> None:
    federation = one_node
    for address in [*federation.hub_listen, *listening(federation, "a")]:
        _, _, host, transport, port, *_ = address.split("/")
        for content in (b"", b"\x00\x00\x01", b"GET / HTTP/1.0\r\n\r\n", secrets.token_bytes(1300)):
            throw(host, transport, int(port), content)
    assert federation.query(COUNT)["rows"] == [STAGE_1]
    federation.wait_healthy(["a"])


def test_a_damaged_file_publishes_nothing_and_the_earlier_version_is_served(
    one_node: LocalFederation, real_files: Path, tmp_path: Path
) -> None:
    federation = one_node
    damaged = tmp_path / "damaged"
    shutil.copytree(real_files, damaged)
    for path in damaged.rglob("witvliet_2020_[12] *.xlsx"):
        path.write_bytes(path.read_bytes()[:9000])
    words = ["etl", "c-elegans-dev", "import", "--data-dir", str(damaged), "--config", str(federation.config("a"))]
    done = subprocess.run(command("syndb", *words), capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "download" in done.stderr
    assert "Traceback" not in done.stderr
    assert federation.query(COUNT)["rows"] == [STAGE_1]


def test_a_killed_import_leaves_whole_data_sets_only(start_federation: Start, real_files: Path) -> None:
    federation = with_data(start_federation("a"), real_files)
    words = ["etl", "c-elegans-dev", "import", "--data-dir", str(real_files), "--config", str(federation.config("a"))]
    importing = subprocess.Popen(command("syndb", *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def some_but_not_all() -> bool:
        return len(federation.query(COUNT)["rows"]) > 1 or importing.poll() is not None

    eventually(some_but_not_all, seconds=60)
    importing.kill()
    importing.wait()
    partial = {row[0]: row[1] for row in federation.query(COUNT)["rows"]}
    importing_again = eventually(lambda: succeeds(command("syndb", *words)), seconds=60)  # a lease ends after 15 s
    assert importing_again
    federation.wait_datasets({"a": 8})
    whole = {row[0]: row[1] for row in federation.query(COUNT)["rows"]}
    assert len(whole) == 8
    assert partial.items() <= whole.items()


def test_sigterm_ends_a_daemon_and_its_engines(start_federation: Start) -> None:
    federation = start_federation("a")
    for name in ("a", "hub"):
        daemon = federation.daemons[name]
        assert daemon.process is not None
        engines = engines_of(daemon)
        daemon.process.terminate()
        assert daemon.process.wait(20) == 0
        assert eventually(lambda pids=engines: not any(is_running(pid) for pid in pids), seconds=10)
        daemon.process = None


def test_a_busy_http_port_is_a_clear_message(start_federation: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        federation = start_federation(wait=False, port=port)
        process = federation.daemons["hub"].process
        assert process is not None
        assert process.wait(60) == 2
        assert str(port) in (federation.folder / "hub.log").read_text()
        federation.daemons["hub"].process = None


def test_a_token_that_is_wrong_or_revoked_opens_nothing(start_federation: Start) -> None:
    federation = start_federation()
    federation.wait_answering()

    def ask(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{federation.url}/v1/federation/clusters", headers=headers).status_code

    assert ask(federation.token) == 200
    assert ask(federation.token[:-1] + "x") == 401
    run(command("syndb-hub", "token", "revoke", "local", "--config", str(federation.hub_config)))
    assert ask(federation.token) == 401


def succeeds(words: list[str]) -> bool:
    """Whether a command ends with exit code 0."""
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def listening(federation: LocalFederation, node: str) -> list[str]:
    """The libp2p addresses of a node's configuration."""
    import tomllib

    listen: list[str] = tomllib.loads(federation.config(node).read_text())["federation"]["listen"]
    return listen


def throw(host: str, transport: str, port: int, content: bytes) -> None:
    """Send some bytes and go away without a word."""
    if transport == "udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(content, (host, port))
        return
    with socket.create_connection((host, port), timeout=5) as sock:
        sock.sendall(content)
