"""What the commands of ``syndb federation`` share: options, the node's configuration, the hub's API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from syndb_cli.client import Connection, config_folder
from syndb_common.errors import NotFound
from syndb_common.settings import load

Config = Annotated[
    Path | None, typer.Option("--config", help="The node's configuration file.", envvar="SYNDB_NODE_CONFIG")
]
ServerUrl = Annotated[
    str | None, typer.Option("--server-url", help="Address of the hub, else SYNDB_SERVER_URL or SYNDB_HUB_URL.")
]
TokenFile = Annotated[Path | None, typer.Option("--token-file", help="File that holds the API token.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

CLUSTERS = "/v1/federation/clusters"


def default_config() -> Path:
    """Where ``init`` writes the node's configuration unless told otherwise."""
    return config_folder() / "node.toml"


def settings_of(config: Path | None) -> Any:
    """The node's settings.

    Raises:
        ConfigError: there is no such file, or it is not valid.
    """
    from syndb_common.node_settings import NodeSettings

    return load(NodeSettings, config or default_config())


def cluster_path(hub: Connection, node: str) -> str:
    """The path of a node's resource, by name or id.

    Raises:
        NotFound: the hub knows no such node.
    """
    known = hub.get(CLUSTERS)
    for cluster in known:
        if node in (cluster["name"], cluster["id"]):
            return f"{CLUSTERS}/{cluster['id']}"
    names = ", ".join(cluster["name"] for cluster in known[:20]) or "none yet"
    raise NotFound(f"the hub knows no node {node}", hint=f"It knows: {names}.")
