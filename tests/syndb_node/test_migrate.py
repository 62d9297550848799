"""``syndb-node engine migrate``: every published version is on the server, verified, also after interruptions."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from syndb_common.engine.local import LocalEngine
from syndb_common.engine.published import versions
from syndb_common.engine.settings import Server
from syndb_common.tables.versions import PublishedVersion
from tests.syndb_common.engine.bridging import bridged
from tests.syndb_node.stopped_node import ALL, command_words, run_command, stopped_node

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a stopped node with three versions of two data sets."""
    return stopped_node(tmp_path_factory.mktemp("node"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A ClickHouse server that holds nothing."""
    with bridged(tmp_path) as server:
        yield server


@pytest.fixture
def words(node: Path, server: Server, tmp_path: Path) -> list[str]:
    """The words of the command."""
    password = tmp_path / "password"
    password.write_text(f"{server.password}\n")
    found = ["engine", "migrate", "--config", str(node), "--to", server.url, "--user", server.user]
    return [*found, "--password-file", str(password)]


def _on(server: Server | None, path: Path | None, *sql: str) -> tuple[list[PublishedVersion], list[Any]]:
    """What an engine has published, and the answers to queries."""
    published: list[PublishedVersion] = []
    answers: list[Any] = []

    async def look() -> None:
        engine = LocalEngine(path, server=server)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            published.extend(await versions(engine))
            answers.extend([(await engine.query(question)).table.to_pylist() for question in sql])
            nursery.cancel_scope.cancel()

    trio.run(look)
    return published, answers


AUDIT = "SELECT * EXCEPT (dataset_id) FROM syndb_records.changes ORDER BY at"
NEURONS = "SELECT * EXCEPT (cid, dataset_id) FROM syndb.neurons WHERE version = 2 ORDER BY source_id"


def test_all_versions_are_copied_to_a_cluster_and_the_setting_to_change_is_said(
    node: Path, server: Server, words: list[str], tmp_path: Path
) -> None:
    server = replace(server, cluster="c")
    done = run_command("syndb-node", *words, "--cluster", server.cluster)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("copied, its content hash is right") == len(ALL)
    section = done.stdout.splitlines()
    assert section[:3] == ["[engine]", 'kind = "server"', f'url = "{server.url}"']
    assert 'cluster = "c"' in section
    assert server.password not in done.stdout + done.stderr
    said = (tmp_path / "data.cluster").read_text(encoding="utf-8")
    assert "CREATE TABLE IF NOT EXISTS syndb.neurons ON CLUSTER `c`" in said

    on_server = _on(server, None, NEURONS, AUDIT)
    assert sorted((v.metadata.dataset, v.version) for v in on_server[0]) == ALL
    assert on_server == _on(None, node.parent / "data" / "engine", NEURONS, AUDIT)


def test_a_copy_that_is_killed_shows_whole_versions_only_goes_on_where_it_was_and_replaces_nothing(
    server: Server, words: list[str]
) -> None:
    with subprocess.Popen(command_words("syndb-node", *words), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(line.startswith("1 of 3") for line in process.stderr)
        os.kill(process.pid, signal.SIGKILL)
    before, _ = _on(server, None)
    assert 1 <= len(before) <= len(ALL)

    done = run_command("syndb-node", *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is there already, its content hash is right") == len(before)

    async def change() -> None:
        engine = LocalEngine(None, server=server)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            assert sorted((v.metadata.dataset, v.version) for v in await versions(engine)) == ALL
            await engine.execute(
                "ALTER TABLE syndb.neurons UPDATE name = 'changed' WHERE version = 2 SETTINGS mutations_sync = 2"
            )
            nursery.cancel_scope.cancel()

    trio.run(change)
    done = run_command("syndb-node", *words)
    assert done.returncode == 10
    assert "version 2 of worm is damaged" in done.stderr


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("http://127.0.0.1:9", 10, "cannot be reached"),
        ("127.0.0.1:9", 2, "write http://host:port or https://host:port"),
    ],
)
def test_a_server_that_is_not_there_is_named(node: Path, url: str, code: int, said: str) -> None:
    done = run_command("syndb-node", "engine", "migrate", "--config", node, "--to", url)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
