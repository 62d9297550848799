"""Where an import goes: the node of this machine, found by its configuration file.

The node's engine keeps the certificate of its Flight server and the token that uploads need in the node's folder; who
may read those files may import.
"""

from __future__ import annotations

from pathlib import Path

from syndb_common.errors import ConfigError
from syndb_common.flight.uploader import UploadTarget
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import load

ENGINE_FOLDER = "engine"
CERTIFICATE_FOLDER = "engine/tls"

_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - a server that listens everywhere is called here


def node_target(config: Path) -> UploadTarget:
    """The upload target of the node that ``config`` configures.

    Raises:
        ConfigError: the configuration is missing or wrong, or the node has never run, or is another user's.
    """
    settings = load(NodeSettings, config)
    host, port = settings.flight.host, settings.flight.port
    if not port:
        raise ConfigError(f"{config} leaves the Flight port open", hint="Set `port` in the section [flight].")
    host = _HERE.get(host, host)
    return UploadTarget.of_folders(
        f"grpc+tls://[{host}]:{port}" if ":" in host else f"grpc+tls://{host}:{port}",
        settings.data_dir / CERTIFICATE_FOLDER,
        settings.data_dir / ENGINE_FOLDER,
    )
