"""The hub as a process: what it does at SIGHUP and SIGTERM, and to a second one."""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
import trio
from pydantic import SecretStr

from actors.directory import NOWHERE
from actors.joining import Application, Attempt, FederationSecret, Membership
from actors.remote.host import open_host
from actors.remote.identity import Identity
from actors.remote.rpc import RemoteRef, RpcClient
from demo.processes import Daemon, command, daemons
from syndb_common.errors import JoinRefused, SynDBError
from syndb_common.invitation import parse
from syndb_common.messages import Registered
from syndb_common.settings import load, render, write_private
from syndb_common.syql.plan import Scope
from syndb_common.tables import schema
from syndb_hub.auth import Right, TokenService
from syndb_hub.federation.answers import Provenance
from syndb_hub.jobs.results import ResultFiles
from syndb_hub.settings import HubSettings
from syndb_hub.store import Store
from syndb_hub.store.jobs import Job, Jobs, JobStatus
from syndb_hub.store.once import once

pytestmark = pytest.mark.slow

Start = Callable[[], "Hub"]


class Hub:
    """A hub in a process of its own."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        (started,) = self.wait_for("hub started")
        self.url, self.peer_id, self.addresses = started["url"], started["peer_id"], tuple(started["listen"])

    @property
    def log(self) -> list[dict[str, Any]]:
        lines = self.daemon.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def wait_for(self, event: str, number: int = 1) -> list[dict[str, Any]]:
        """The lines of that event, once there are so many."""
        until = time.monotonic() + 60
        while len(found := [line for line in self.log if line["event"] == event]) < number:
            self.daemon.check()
            assert time.monotonic() < until, self.daemon.log.read_text()
            time.sleep(0.05)
        return found

    def signal(self, number: signal.Signals) -> None:
        assert self.daemon.process is not None
        self.daemon.process.send_signal(number)

    def ended(self) -> int:
        assert self.daemon.process is not None
        return self.daemon.process.wait(60)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "hub.toml"
    write_config(path)
    return path


@pytest.fixture
def start(config: Path) -> Iterator[Start]:
    with daemons() as running:
        number = iter(range(100))

        def started() -> Hub:
            log = config.with_name(f"hub-{next(number)}.log")
            return Hub(running.start("hub", command("syndb-hub", "run", "--config", str(config)), log))

        yield started


def write_config(path: Path, federation: dict[str, Any] | None = None, **more: Any) -> None:
    settings = {
        "password": "first",
        "listen": ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"],
        "enable_mdns": False,
        **(federation or {}),
    }
    ports = {"http": {"port": 0}, "flight": {"port": 0}}
    values = {"data_dir": str(path.parent / "data"), **ports, "federation": settings, **more}
    write_private(path, render(HubSettings, values))


def test_a_reload_takes_what_may_change_and_names_what_needs_a_restart(start: Start, config: Path) -> None:
    hub = start()
    write_config(config, {"password": "second", "previous_password": "first"}, jobs={"max_workers": 7})
    reload = command("syndb-hub", "reload", "--config", str(config))
    with daemons() as running:
        assert running.start("reload", reload, config.with_name("reload.log")).process.wait(60) == 0
    (read,) = hub.wait_for("configuration read again")
    assert read["changed"] == ["federation.password", "federation.previous_password"]
    (later,) = hub.wait_for("these keys count from the next start on")
    assert later["keys"] == ["jobs.max_workers"]
    assert not any(password in hub.daemon.log.read_text() for password in ('"second"', '"first"'))


def test_a_wrong_file_changes_nothing(start: Start, config: Path) -> None:
    hub = start()
    write_config(config, {"approved_networks": ["everywhere"]})
    hub.signal(signal.SIGHUP)
    (refused,) = hub.wait_for("configuration not taken; the former one stays")
    assert "approved_networks" in refused["cause"]
    write_config(config, log_level="debug")
    hub.signal(signal.SIGHUP)
    (read,) = hub.wait_for("configuration read again")
    assert read["changed"] == ["log_level"]


def test_the_level_of_the_log_changes_at_once(start: Start, config: Path) -> None:
    hub = start()
    write_config(config, log_level="error")
    hub.signal(signal.SIGHUP)
    time.sleep(1.0)
    write_config(config, log_level="info")
    hub.signal(signal.SIGHUP)
    hub.wait_for("configuration read again")
    assert len([line for line in hub.log if line["event"] == "configuration read again"]) == 1


async def join(hub: Hub, name: str, password: str, identity: Identity | None = None) -> Registered:
    """Join once, as a node does."""
    mine = identity or Identity.generate()
    secret = FederationSecret(SecretStr(password))
    application = Application(
        membership=Membership(name=name), identity=mine, endpoints=NOWHERE, schema_version=schema.CURRENT
    )
    async with open_host(mine, ["/ip4/127.0.0.1/tcp/0"]) as host:
        there = RemoteRef(RpcClient(host), hub.peer_id, lambda: hub.addresses, "syndb-hub")
        attempt = Attempt(application, hub.peer_id, await secret.key(hub.peer_id))
        try:
            challenge = await there.ask(attempt.request(), timeout=20)
            registered: Registered = await there.ask(attempt.registration(challenge), timeout=20)
        except SynDBError as error:
            refusal = error
        else:
            attempt.check(registered)
            return registered
    raise refusal


async def test_a_password_changes_without_a_moment_at_which_nodes_cannot_join(start: Start, config: Path) -> None:
    hub = start()

    async def reload(*words: str, number: int) -> None:
        await trio.run_process(command("syndb-hub", *words, "--config", str(config)))
        await trio.run_process(command("syndb-hub", "reload", "--config", str(config)))
        await trio.to_thread.run_sync(hub.wait_for, "configuration read again", number)

    await join(hub, "before", "first")
    await reload("password", "rotate", number=1)
    new = load(HubSettings, config, {}).federation.password.get_secret_value()
    await join(hub, "with-the-old", "first")
    await join(hub, "with-the-new", new)
    await reload("password", "retire", "--force", number=2)
    with pytest.raises(JoinRefused):
        await join(hub, "too-late", "first")
    await join(hub, "in-time", new)


async def test_an_invitation_admits_one_node_until_it_is_revoked(start: Start, config: Path) -> None:
    hub = start()
    where = ("--config", str(config))
    invite = command("syndb-hub", "invite", *where, "--name", "worm-lab", "--address", hub.addresses[0])
    made = await trio.run_process(invite, capture_stdout=True)
    secret = parse(made.stdout.decode()).secret.get_secret_value()
    worm = Identity.generate()
    with pytest.raises(JoinRefused):
        await join(hub, "fly-lab", secret)
    assert (await join(hub, "worm-lab", secret, worm)).standing == "active"
    with pytest.raises(SynDBError):
        await join(hub, "worm-lab", secret)
    await join(hub, "worm-lab", secret, worm)
    listed = await trio.run_process(command("syndb-hub", "invite", "list", *where, "--json"), capture_stdout=True)
    (row,) = json.loads(listed.stdout)
    assert (row["state"], row["used_by"]) == ("used", worm.peer_id)
    await trio.run_process(command("syndb-hub", "invite", "revoke", row["id"], *where))
    with pytest.raises(JoinRefused):
        await join(hub, "worm-lab", secret, worm)


async def test_the_next_key_is_told_to_those_who_join_and_is_the_hubs_after_the_change(
    start: Start, config: Path
) -> None:
    hub = start()
    where = ("--config", str(config))
    assert (await join(hub, "worm-lab", "first")).next_hub_peer_id == ""
    made = await trio.run_process(command("syndb-hub", "key", "next", *where), capture_stdout=True)
    coming = made.stdout.decode().strip()
    hub.signal(signal.SIGHUP)
    await trio.to_thread.run_sync(hub.wait_for, "the next key is announced")
    assert (await join(hub, "fly-lab", "first")).next_hub_peer_id == coming
    hub.signal(signal.SIGTERM)
    assert await trio.to_thread.run_sync(hub.ended) == 0
    # Neither of the two was there to answer a ping.
    refused = await trio.run_process(command("syndb-hub", "key", "change", *where), check=False, capture_stderr=True)
    assert b"fly-lab" in refused.stderr
    await trio.run_process(command("syndb-hub", "key", "change", *where, "--force"))
    changed = start()
    assert changed.peer_id == coming
    # The password of a person is stretched with the PeerId: hub and node follow the change alike.
    assert (await join(changed, "mouse-lab", "first")).next_hub_peer_id == ""


def test_a_second_hub_on_the_same_folder_is_refused(start: Start, config: Path) -> None:
    start()
    with daemons() as running:
        second = running.start("second", command("syndb-hub", "run", "--config", str(config)), config.parent / "2.log")
        assert second.process is not None
        assert second.process.wait(60) == 2
    assert "is in use by another process" in (config.parent / "2.log").read_text()


def test_a_download_under_way_at_sigterm_is_completed(start: Start, config: Path) -> None:
    data = config.parent / "data"
    data.mkdir(mode=0o700)
    job_id, token = once(data / "hub.sqlite", lambda store: large_result(store, data / "objects" / "jobs"))
    hub = start()
    address = urlsplit(hub.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    connection.request("GET", f"/v1/jobs/{job_id}/result?format=arrow", headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    assert answer.status == 200
    received = answer.read(1000)
    hub.signal(signal.SIGTERM)
    hub.wait_for("stopping")
    time.sleep(0.5)
    received += answer.read()
    assert pa.ipc.open_file(received).read_all().num_rows == ROWS
    assert hub.ended() == 0


ROWS = 6_000_000


async def large_result(store: Store, folder: Path) -> tuple[str, str]:
    """A completed job with 48 MB, more than sockets hold, and a token that may have it."""
    issued = await TokenService(store).create("reader", [Right.EVERYTHING])
    now = datetime.now(UTC)
    job = Job(
        id=uuid4(),
        owner=issued.record.id,
        status=JobStatus.PENDING,
        query="SELECT synapse_count FROM synapses",
        scope=None,
        cluster_ids=None,
        require="any",
        created_at=now,
    )
    files = ResultFiles(folder, max_result_bytes=1 << 30)
    await files.prepare([])
    async with files.writing(job.id) as writer:
        await writer.write(pa.table({"synapse_count": np.arange(ROWS, dtype=np.uint64)}))
        kept = await files.keep(job.id, writer)
    await Jobs(store).add(job)
    await Jobs(store).start(job.id, now)
    await Jobs(store).complete(job.id, now, Provenance(plan_hash="0" * 64, scope=Scope.LOCAL), ROWS, kept)
    return str(job.id), issued.text
