"""A hub and a node whose data are on ClickHouse servers: what they do, and what people read while one is away."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from demo.local import LocalFederation
from syndb_common.engine.settings import Server
from tests.federation.processes import eventually
from tests.syndb_common.engine.bridging import bridged

Start = Callable[..., LocalFederation]
ROWS = "SELECT cid, pre_id, post_id, synapse_count FROM synapses SCOPE remote"
COUNTS = "SELECT dataset, count() AS n FROM neurons GROUP BY dataset SCOPE remote"


def on(server: Server, password: Path) -> dict[str, Any]:
    """The section that puts a daemon's data there."""
    password.write_text(server.password)
    return {"engine": {"kind": "server", "url": server.url, "user": server.user, "password_file": str(password)}}


def test_a_federation_on_clickhouse_servers_publishes_and_answers_and_outlives_a_server(
    start_federation: Start, real_files: Path, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    with ExitStack() as stack:
        of_hub = stack.enter_context(bridged(tmp_path / "hub"))
        with bridged(tmp_path / "node") as of_node:
            federation = start_federation("worm", hub=on(of_hub, password), node=on(of_node, password))
            federation.import_data("worm", "c-elegans-dev", real_files, "--stage", "1")
            federation.wait_datasets({"worm": 1})
            rows = federation.query(ROWS)
            [outcome] = rows["provenance"]["nodes"]
            assert outcome["bytes"] > 64 * 1024
            assert len(rows["rows"]) > 500
            assert federation.get("/health")["components"]["clickhouse"]["store"] == "server"
            counts = federation.query(COUNTS)
            assert counts["provenance"]["complete"]
            assert not list((federation.folder / "worm").rglob("*.mrk*")), "nothing of ClickHouse's is at the node"
        away = federation.query(COUNTS)
        assert away["status"] == "failed"
        assert "the ClickHouse server cannot be reached" in away["error_message"]
        stack.enter_context(bridged(tmp_path / "node", port=of_node.port))
        assert eventually(lambda: federation.query(COUNTS).get("rows") == counts["rows"], seconds=60)
        assert sorted(federation.query(ROWS)["rows"]) == sorted(rows["rows"])
