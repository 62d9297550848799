"""The settings of ``syndb-hub``: what ``configs/hub.toml`` may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from syndb_common.engine.settings import EngineSettings
from syndb_common.flight.settings import FlightServerSettings
from syndb_common.settings import Env, FileSettings, ListenAddress, MetricsSettings, Network, RelayAddress, Settings


class HttpSettings(Settings):
    """The REST API and the pages."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Annotated[int, Env("SYNDB_HTTP_PORT")] = Field(8080, ge=0, le=65535, description="TCP port")
    request_timeout_seconds: Annotated[float, Env("REQUEST_TIMEOUT_SECS")] = Field(
        60.0, gt=0, description="a request that takes longer is answered with 408"
    )
    max_body_bytes: int = Field(100 * 1024**2, gt=0, description="largest request body")
    rate_limit_per_second: Annotated[float, Env("RATE_LIMIT_PER_SECOND")] = Field(
        100.0, gt=0, description="sustained requests per second and client address"
    )
    rate_limit_burst: Annotated[int, Env("RATE_LIMIT_BURST")] = Field(
        200, gt=0, description="requests a client may send at once"
    )
    trusted_proxies: tuple[Network, ...] = Field((), description="addresses whose X-Forwarded-For is believed")


class FlightSettings(FlightServerSettings):
    """The hub's Arrow Flight server: bulk data in and out for users, and deliveries of nodes that only dial out."""

    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104 - nodes and users are elsewhere
    port: Annotated[int, Env("FLIGHT_PORT")] = Field(50051, ge=0, le=65535, description="TCP port")


class FederationSettings(Settings):
    """How nodes reach the hub, and when the hub stops waiting for one."""

    password: Annotated[SecretStr, Env("FEDERATION_PASSWORD")] = Field(
        min_length=1, description="shared secret that nodes prove; `syndb-hub init` makes a strong one"
    )
    listen: Annotated[tuple[ListenAddress, ...], Env("FEDERATION_LISTEN_ADDR")] = Field(
        ("/ip4/0.0.0.0/udp/4001/quic-v1", "/ip4/0.0.0.0/tcp/4001"), description="libp2p listen addresses, QUIC first"
    )
    previous_password: SecretStr = Field(
        SecretStr(""), description="still accepted while nodes change to a new password; `syndb-hub password rotate`"
    )
    require_approval: bool = Field(False, description="new nodes wait until the operator approves them")
    max_nodes: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="names of nodes the hub keeps, whatever their standing: who has the password cannot fill it up",
    )
    approved_networks: tuple[Network, ...] = Field(
        (),
        description="addresses (CIDR) at which any node may be dialled, besides the one its connection came from",
    )
    enable_mdns: Annotated[bool, Env("FEDERATION_ENABLE_MDNS")] = Field(True, description="be found on the LAN")
    enable_dht: bool = Field(True, description="be found through the distributed hash table of the federation")
    serve_relay: bool = Field(True, description="let nodes behind NAT reach each other's hub through this one")
    relays: tuple[RelayAddress, ...] = Field(
        (), description="multiaddrs of relays through which this hub can be reached"
    )
    max_connections: int = Field(
        512, ge=64, le=16_384, description="connections of nodes and strangers at once: some more than there are nodes"
    )
    delegation_timeout_seconds: Annotated[float, Env("FEDERATION_DELEGATION_TIMEOUT_SECS")] = Field(
        30.0,
        gt=0,
        le=86_400,
        description="how long nodes may take for their part of a query, or for the first rows of one that streams",
    )
    ping_interval_seconds: float = Field(
        2.0, gt=0, description="between health pings of one node: a change of its catalogue is seen within this time"
    )
    ping_timeout_seconds: float = Field(
        2.0, gt=0, description="a ping not answered by then has failed: 10 times a bad intercontinental round trip"
    )
    degraded_latency_seconds: float = Field(
        1.0, gt=0, description="a slower answer makes a node degraded: queries would feel it"
    )
    unreachable_after: int = Field(
        3, ge=1, description="failed pings in a row before a node counts as gone: one lost packet must not"
    )
    degraded_after: int = Field(
        2,
        ge=1,
        description="slow answers and rows of missed pings, counted together, before a node is degraded: one may be "
        "chance; `healthy_after` good answers in a row begin the count anew",
    )
    healthy_after: int = Field(
        2,
        ge=1,
        description="good answers in a row before a degraded node is healthy again, so that it does not flicker",
    )
    max_clock_skew_seconds: float = Field(
        30.0, gt=0, description="a node whose clock differs by more is degraded: half of what a capability lives"
    )
    flap_limit: int = Field(
        5, ge=2, description="a node that became unreachable so often within the window is held back"
    )
    flap_window_seconds: float = Field(600.0, gt=0, description="window in which these are counted")
    flap_hold_seconds: float = Field(
        120.0, gt=0, description="a flapping node stays degraded until it was reachable for so long without a break"
    )


class JobSettings(Settings):
    """Queries that run as jobs, and their results."""

    max_workers: Annotated[int, Env("JOB_QUEUE_MAX_WORKERS")] = Field(4, ge=1, le=64, description="jobs at once")
    result_ttl_hours: Annotated[float, Env("JOB_RESULT_TTL_HOURS")] = Field(
        24.0, gt=0, description="results are kept so long"
    )
    max_result_bytes: Annotated[int, Env("JOB_MAX_RESULT_BYTES")] = Field(
        1024**3, gt=0, description="a larger result fails its job"
    )
    query_seconds: float = Field(600.0, gt=0, le=86_400, description="the query of a job that takes longer fails")


class HubSettings(FileSettings):
    """Everything ``hub.toml`` may hold."""

    data_dir: Annotated[Path, Env("SYNDB_DATA_DIR")] = Field(description="folder of key, database and results")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least level that is logged")
    http: HttpSettings = HttpSettings()
    flight: FlightSettings = FlightSettings()
    federation: FederationSettings
    engine: EngineSettings = EngineSettings()
    jobs: JobSettings = JobSettings()
    metrics: MetricsSettings = MetricsSettings()
