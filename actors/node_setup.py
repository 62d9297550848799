"""Setting up a node: its configuration and its key, for `syndb federation init` and `syndb-node init` alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.key_rotation import load_keys
from actors.remote.identity import Identity
from syndb_common.errors import ConfigError, Conflict
from syndb_common.invitation import Invitation
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import render, validate, write_private


@dataclass(frozen=True, slots=True, kw_only=True)
class NewNode:
    """What the operator says of a node that is set up. What is empty gets the default of the settings.

    Attributes:
        data_dir: where data and key will be; by default the folder ``node`` beside the configuration.
        share: ``none``, ``count``, ``aggregate`` or ``rows``.
    """

    cluster_name: str
    hub_peer_id: str
    password: str = field(repr=False)
    hub_multiaddrs: tuple[str, ...] = ()
    hub_url: str = ""
    institution: str = ""
    description: str = ""
    contact_email: str = ""
    listen: tuple[str, ...] = ()
    flight_port: int | None = None
    flight_advertise: str = ""
    share: str = ""
    data_dir: Path | None = None

    @classmethod
    def invited(
        cls,
        invitation: Invitation,
        *,
        cluster_name: str = "",
        hub_multiaddrs: tuple[str, ...] = (),
        hub_url: str = "",
        **facts: Any,
    ) -> NewNode:
        """A node that joins by an invitation, which says all that concerns the hub.

        Args:
            invitation: from the hub's operator.
            cluster_name: the node's name, unless the invitation has one.
            hub_multiaddrs: in place of the addresses of the invitation.
            hub_url: in place of that of the invitation.
            facts: further fields of the node.

        Raises:
            ConfigError: no name is known, or another than the invitation's is asked for.
        """
        if invitation.name and cluster_name not in ("", invitation.name):
            raise ConfigError(
                f"the invitation is for the cluster name {invitation.name}, not {cluster_name}",
                hint="Leave the name out, or ask the hub's operator for another invitation.",
            )
        if not invitation.name and not cluster_name:
            raise ConfigError("the invitation leaves the cluster name open", hint="Choose one: --cluster-name.")
        return cls(
            cluster_name=invitation.name or cluster_name,
            hub_peer_id=invitation.hub,
            password=invitation.secret.get_secret_value(),
            hub_multiaddrs=hub_multiaddrs or invitation.addresses,
            hub_url=hub_url or invitation.url,
            **facts,
        )


def set_up(node: NewNode, config: Path, *, replace: bool = False) -> Identity:
    """Write a node's configuration and create its key; a key that is there already stays.

    Args:
        node: what the operator says.
        config: the file to write.
        replace: also when it exists.

    Returns:
        The node's identity.

    Raises:
        Conflict: the file exists.
        ConfigError: the daemon would not accept the values, or a file cannot be written.
    """
    if config.exists() and not replace:
        raise Conflict(f"{config} exists", hint="Use --force to replace it, or --config for another file.")
    folder = (node.data_dir or config.parent / "node").absolute()
    values = _given(
        {
            "data_dir": str(folder),
            "cluster": {
                "name": node.cluster_name,
                "institution": node.institution,
                "description": node.description,
                "contact_email": node.contact_email,
            },
            "federation": {
                "hub_multiaddrs": list(node.hub_multiaddrs),
                "listen": list(node.listen),
                "hub_url": node.hub_url,
            },
            "flight": {"port": node.flight_port, "advertise": node.flight_advertise},
            "policy": {"share": node.share},
        }
    )
    # These must not be left out: an empty one is the operator's error, to be named.
    values["federation"] |= {"password": node.password.strip(), "hub_peer_id": node.hub_peer_id}
    values["cluster"]["name"] = node.cluster_name
    validate(NodeSettings, values, "the configuration")
    identity = load_keys(folder).identity
    write_private(config, render(NodeSettings, values))
    return identity


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """The values without those that were left empty."""
    return {
        key: _given(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value not in ("", [], None)
    }
