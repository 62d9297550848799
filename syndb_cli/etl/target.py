"""Where an import goes: the node of this machine, found by its configuration file.

The node's engine keeps the certificate of its Flight server and the token that uploads need in the node's folder; who
may read those files may import.
"""

from __future__ import annotations

from syndb_common.errors import ConfigError
from syndb_common.flight.uploader import UploadTarget
from syndb_common.node_settings import NodeSettings

ENGINE_FOLDER = "engine"
CERTIFICATE_FOLDER = "engine/tls"

_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - a server that listens everywhere is called here


def node_target(settings: NodeSettings) -> UploadTarget:
    """The upload target of the node that has these settings.

    Raises:
        ConfigError: the Flight port is left open, the node has never run, or it is another user's.
    """
    host, port = settings.flight.host, settings.flight.port
    if not port:
        raise ConfigError("the node's configuration leaves the Flight port open", hint="Set `port` in [flight].")
    return UploadTarget.of_folders(
        f"grpc+tls://{_HERE.get(host, host)}:{port}",
        settings.data_dir / CERTIFICATE_FOLDER,
        settings.data_dir / ENGINE_FOLDER,
    )
