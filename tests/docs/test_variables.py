"""Every FEDERATION_* and SYNDB_* variable of the platform's description is honoured, each where it is described.

Two are not: ``SYNDB_FLIGHT_URL`` and ``SYNDB_FLIGHT_PORT`` say where the command line reaches a hub by Arrow Flight,
and there is no Flight server for users yet. An option without an effect would be worse than none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from syndb_cli.client import Connection
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import environment_variables, load, render
from syndb_hub.settings import HubSettings

ROOT = Path(__file__).parents[2]
DESCRIBED = (
    "FEDERATION_CLUSTER_DESCRIPTION",
    "FEDERATION_CLUSTER_INSTITUTION",
    "FEDERATION_CLUSTER_NAME",
    "FEDERATION_CLUSTER_NATIVE_PORT",
    "FEDERATION_DELEGATION_TIMEOUT_SECS",
    "FEDERATION_ENABLE_MDNS",
    "FEDERATION_HUB_MULTIADDRS",
    "FEDERATION_LISTEN_ADDR",
    "FEDERATION_NODE_FLIGHT_ADVERTISE",
    "FEDERATION_NODE_FLIGHT_PORT",
    "FEDERATION_PASSWORD",
    "SYNDB_FEDERATION_PASSWORD",
    "SYNDB_FLIGHT_PORT",
    "SYNDB_FLIGHT_URL",
    "SYNDB_HUB_URL",
    "SYNDB_SERVER_URL",
)
LATER = {"SYNDB_FLIGHT_PORT", "SYNDB_FLIGHT_URL"}

HUB = {"data_dir": "/data", "federation": {"password": "secret"}}
NODE = {
    "data_dir": "/data",
    "cluster": {"name": "worm-lab"},
    "federation": {"password": "secret", "hub_peer_id": "12D3KooW" + "a" * 44},
}
ADDRESSES = ("/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/1.2.3.4/tcp/1")
LISTEN = (",".join(ADDRESSES), ADDRESSES)
OVERRIDES: list[tuple[str, Any, dict[str, Any], str, str, Any]] = [
    # variable, settings, file, key, what the variable says, what the key has then
    ("FEDERATION_DELEGATION_TIMEOUT_SECS", HubSettings, HUB, "federation.delegation_timeout_seconds", "7", 7.0),
    ("FEDERATION_ENABLE_MDNS", HubSettings, HUB, "federation.enable_mdns", "false", False),
    ("FEDERATION_LISTEN_ADDR", HubSettings, HUB, "federation.listen", *LISTEN),
    ("FEDERATION_PASSWORD", HubSettings, HUB, "federation.password", "another", "another"),
    ("FEDERATION_CLUSTER_DESCRIPTION", NodeSettings, NODE, "cluster.description", "Worms", "Worms"),
    ("FEDERATION_CLUSTER_INSTITUTION", NodeSettings, NODE, "cluster.institution", "Institute", "Institute"),
    ("FEDERATION_CLUSTER_NAME", NodeSettings, NODE, "cluster.name", "fly-lab", "fly-lab"),
    ("FEDERATION_CLUSTER_NATIVE_PORT", NodeSettings, NODE, "cluster.native_port", "9003", 9003),
    ("FEDERATION_ENABLE_MDNS", NodeSettings, NODE, "federation.enable_mdns", "false", False),
    ("FEDERATION_HUB_MULTIADDRS", NodeSettings, NODE, "federation.hub_multiaddrs", *LISTEN),
    ("FEDERATION_LISTEN_ADDR", NodeSettings, NODE, "federation.listen", *LISTEN),
    ("FEDERATION_NODE_FLIGHT_ADVERTISE", NodeSettings, NODE, "flight.advertise", "node.example:1", "node.example:1"),
    ("FEDERATION_NODE_FLIGHT_PORT", NodeSettings, NODE, "flight.port", "50099", 50099),
    ("SYNDB_FEDERATION_PASSWORD", NodeSettings, NODE, "federation.password", "another", "another"),
    ("SYNDB_HUB_URL", NodeSettings, NODE, "federation.hub_url", "https://hub.example", "https://hub.example"),
]
OF_THE_COMMAND_LINE = {"SYNDB_HUB_URL", "SYNDB_SERVER_URL"}


def test_none_is_left_out() -> None:
    assert {variable for variable, *_ in OVERRIDES} | OF_THE_COMMAND_LINE | LATER == set(DESCRIBED)
    honoured = {*environment_variables(HubSettings), *environment_variables(NodeSettings)}
    assert set(DESCRIBED) - LATER - {"SYNDB_SERVER_URL"} <= honoured


@pytest.mark.parametrize(
    ("variable", "model", "content", "key", "text", "expected"),
    OVERRIDES,
    ids=[f"{variable}-{model.__name__}" for variable, model, *_ in OVERRIDES],
)
def test_it_overrides_its_key(
    tmp_path: Path, variable: str, model: Any, content: dict[str, Any], key: str, text: str, expected: Any
) -> None:
    def value(environment: dict[str, str]) -> Any:
        found = load(model, path, environment)
        for name in key.split("."):
            found = getattr(found, name)
        return found.get_secret_value() if isinstance(found, SecretStr) else found

    path = tmp_path / "daemon.toml"
    path.write_text(render(model, content))
    assert value({variable: text}) == expected != value({})


@pytest.mark.parametrize("variable", sorted(OF_THE_COMMAND_LINE))
def test_it_says_where_the_command_line_finds_the_hub(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OF_THE_COMMAND_LINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "https://hub.example/")
    assert Connection.from_environment().url == "https://hub.example"


@pytest.mark.parametrize("variable", sorted(LATER))
def test_what_has_no_effect_yet_is_nowhere_offered(variable: str) -> None:
    parts = ("actors", "syndb_cli", "syndb_common", "syndb_hub", "syndb_node", "configs", "docs")
    files = [path for part in parts for path in (ROOT / part).rglob("*") if path.suffix in (".py", ".toml", ".md")]
    assert files
    assert [path for path in files if variable in path.read_text(encoding="utf-8")] == []
