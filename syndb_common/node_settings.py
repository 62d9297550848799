"""The settings of ``syndb-node``: what ``configs/node.toml`` may hold.

The daemon obeys the file and the command line writes it, so both read it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from syndb_common.engine.interface import Limits
from syndb_common.engine.settings import EngineSettings
from syndb_common.errors import ConfigError
from syndb_common.flight.settings import FlightServerSettings
from syndb_common.settings import Env, FileSettings, MetricsSettings, Settings


class Share(StrEnum):
    """What may leave the node of a data set: nothing, counts, aggregates over groups, or rows."""

    NONE = "none"
    COUNT = "count"
    AGGREGATE = "aggregate"
    ROWS = "rows"


class ClusterSettings(Settings):
    """Who this node is."""

    name: Annotated[str, Env("FEDERATION_CLUSTER_NAME")] = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="unique name in the federation"
    )
    institution: Annotated[str, Env("FEDERATION_CLUSTER_INSTITUTION")] = Field("", description="shown to users")
    description: Annotated[str, Env("FEDERATION_CLUSTER_DESCRIPTION")] = Field("", description="shown to users")
    contact_email: str = Field("", description="whom the hub's operator may write to")
    native_port: Annotated[int, Env("FEDERATION_CLUSTER_NATIVE_PORT")] = Field(
        9440, ge=1, le=65535, description="native port of a ClickHouse server; the embedded engine opens none"
    )


class FederationSettings(Settings):
    """How this node finds and proves itself to its hub."""

    password: Annotated[SecretStr, Env("SYNDB_FEDERATION_PASSWORD")] = Field(
        min_length=1, description="the federation password, from the hub's operator"
    )
    hub_peer_id: str = Field(
        pattern=r"^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$",
        description="PeerId of the hub, from `syndb-hub id`; no other hub is ever obeyed",
    )
    hub_multiaddrs: Annotated[tuple[str, ...], Env("FEDERATION_HUB_MULTIADDRS")] = Field(
        (), description="libp2p addresses of the hub; needed where multicast does not reach it"
    )
    listen: Annotated[tuple[str, ...], Env("FEDERATION_LISTEN_ADDR")] = Field(
        ("/ip4/0.0.0.0/udp/4001/quic-v1", "/ip4/0.0.0.0/tcp/4001"), description="libp2p listen addresses, QUIC first"
    )
    hub_url: Annotated[str, Env("SYNDB_HUB_URL")] = Field(
        "",
        pattern="^(https?://.+)?$",
        description="the hub's REST API, to join where libp2p does not get through",
    )
    enable_mdns: Annotated[bool, Env("FEDERATION_ENABLE_MDNS")] = Field(True, description="find the hub on the LAN")
    enable_dht: bool = Field(True, description="find the hub through the distributed hash table of the federation")
    bootstrap: tuple[str, ...] = Field((), description="multiaddrs of members through which that is entered")
    relays: tuple[str, ...] = Field((), description="multiaddrs of relays to reach the hub through, behind NAT")
    serve_relay: bool = Field(
        False, description="be a relay through which the hub, if it is behind NAT, can be reached"
    )
    hub_silence_seconds: float = Field(
        10.0,
        gt=0,
        description="join again when the hub has not pinged for so long, or for five of its intervals if longer",
    )

    @property
    def hub_addresses(self) -> list[str]:
        """The configured addresses, each with the PeerId it must lead to, which people may leave out."""
        return self.hub_addresses_of([self.hub_peer_id])

    def hub_addresses_of(self, hub_peer_ids: Sequence[str]) -> list[str]:
        """The configured addresses, each as the place of every one of these hubs.

        A hub that changes its key stays where it is. What names another peer than the configured hub is left alone,
        see :meth:`check_hub_addresses`.
        """
        found = []
        for address in self.hub_multiaddrs:
            place = address.removesuffix(f"/p2p/{self.hub_peer_id}")
            named = "/p2p/" in place and place == address and not address.endswith("/p2p-circuit")
            found += [address] if named else [f"{place}/p2p/{peer_id}" for peer_id in hub_peer_ids]
        return found

    def check_hub_addresses(self, hub_peer_ids: Sequence[str]) -> None:
        """Check that every configured address can lead to one of these hubs, those that the node obeys now.

        This is no check of the file alone: an address may name the hub's next key, which is pinned when the hub
        announces it. So the daemon only warns, when it searches, and goes other ways; commands refuse.

        Raises:
            ConfigError: some name another peer.
        """
        obeyed = {self.hub_peer_id, *hub_peer_ids}
        for address in self.hub_multiaddrs:
            *_, kind, peer_id = ["", "", *address.split("/")]
            if kind == "p2p" and peer_id not in obeyed:
                raise ConfigError(
                    f"federation.hub_multiaddrs: {address[:200]} names another peer than the hub this node obeys, "
                    f"{' or '.join(hub_peer_ids)}",
                    hint="Correct the address or federation.hub_peer_id; `syndb-node trust` shows and changes the pin.",
                )


class FlightSettings(FlightServerSettings):
    """The node's Arrow Flight server."""

    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104 - a node serves its hub
    port: Annotated[int, Env("FEDERATION_NODE_FLIGHT_PORT")] = Field(50052, ge=0, le=65535, description="TCP port")
    advertise: Annotated[str, Env("FEDERATION_NODE_FLIGHT_ADVERTISE")] = Field(
        "",
        description="host:port as the hub sees it; localhost and the port by default",
    )


class LimitSettings(Settings):
    """What one query of the federation may use on this node."""

    seconds: float = Field(30.0, gt=0, description="wall time, seconds")
    memory_bytes: int = Field(2 * 1024**3, gt=0, description="memory, bytes")
    result_rows: int = Field(50_000_000, gt=0, description="rows of a result")
    result_bytes: int = Field(4 * 1024**3, gt=0, description="bytes of a result as Arrow")
    frame_bytes: int = Field(
        512 * 1024,
        ge=64 * 1024,
        le=896 * 1024,
        description="largest result that travels inside an answer when the node is reached only through a relay; half "
        "of what one message may be, since the relay carries it beside the pings of all its nodes",
    )
    concurrent_queries: int = Field(8, gt=0, le=64, description="queries computed at once; further ones are refused")

    def for_query(self, seconds: float) -> Limits:
        """The limits of a query whose caller waits ``seconds`` more."""
        return Limits(
            seconds=min(self.seconds, seconds),
            memory_bytes=self.memory_bytes,
            result_rows=self.result_rows,
            result_bytes=self.result_bytes,
        )


class DatasetPolicy(Settings):
    """The owner's rule for one data set."""

    share: Share


class PolicySettings(Settings):
    """The owner's rules. What is not named falls under ``share``."""

    share: Share = Field(Share.AGGREGATE, description="for data sets that have no entry of their own")
    datasets: dict[str, DatasetPolicy] = Field(default_factory=dict, description="by name of the data set")


class NodeSettings(FileSettings):
    """Everything ``node.toml`` may hold."""

    data_dir: Annotated[Path, Env("SYNDB_DATA_DIR")] = Field(description="folder of key, certificate and ClickHouse")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least level that is logged")
    cluster: ClusterSettings
    federation: FederationSettings
    engine: EngineSettings = EngineSettings()
    flight: FlightSettings = FlightSettings()
    limits: LimitSettings = LimitSettings()
    policy: PolicySettings = PolicySettings()
    metrics: MetricsSettings = MetricsSettings()
