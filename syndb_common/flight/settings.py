"""Where a Flight server listens, and what it says of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from syndb_common.settings import OptionalPath, Settings

TLS_NAME = "syndb"
"""Name in every Flight certificate. Clients pin the certificate itself, so the name says nothing and fits all."""

UPLOAD_TOKEN_FILE = "upload-token"  # noqa: S105 - the name of a file
"""File in the engine's data folder with the owner's token for uploads, readable by the owner only."""


_LOCATION = re.compile(r"grpc\+tls://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")


def is_location(text: str) -> bool:
    """Whether this is ``grpc+tls://host:port`` and nothing more."""
    try:
        return _LOCATION.fullmatch(text) is not None and bool(urlsplit(text).port)
    except ValueError:  # an IPv6 address or a port that is none
        return False


@dataclass(frozen=True, slots=True)
class FlightLimits:
    """What the clients of a Flight server may use.

    Attributes:
        streams: uploads, downloads and queries under way, of all clients together; each holds a thread. The streams of
            the federation's own may be as many again.
        streams_per_client: of these, how many one credential may have: a client that opens more gains nothing.
        calls_per_second: sustained calls of one address; a download is two.
        burst: calls that an address may make at once.
        stall_seconds: how long a client may keep the server waiting for it to take or to send a batch; a network that
            is away for longer has broken the connection anyhow.
        message_bytes: largest batch a client may send.
    """

    streams: int = 128
    streams_per_client: int = 32
    calls_per_second: float = 100.0
    burst: int = 200
    stall_seconds: float = 30.0
    message_bytes: int = 256 * 1024**2

    @property
    def connections(self) -> int:
        """Connections at once; each credential may need several, and strangers have some room."""
        return 4 * self.streams


@dataclass(frozen=True, slots=True)
class FlightSettings:
    """A Flight server of an engine process.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        certificate_folder: folder of ``flight.crt`` and ``flight.key``, made there when missing.
        advertise: ``host:port`` or ``host`` under which others reach it; by default what it listens on.
        certificate: the operator's own certificate with its chain, PEM, instead of the one that is made.
        key: its key, PEM.
        limits: what clients may use.
        results: folder of finished results that it may offer, which is all it can read beside the engine's own.
    """

    host: str
    port: int
    certificate_folder: Path
    advertise: str = ""
    certificate: Path | None = None
    key: Path | None = None
    limits: FlightLimits = FlightLimits()
    results: Path | None = None

    def location(self, port: int) -> str:
        """The location others use when the server got ``port``."""
        where = self.advertise or self.host
        return f"grpc+tls://{where}" if where.rpartition(":")[2].isdigit() else f"grpc+tls://{where}:{port}"

    def location_here(self, port: int) -> str:
        """The location for processes on the same machine: what others use may not lead back here."""
        return f"grpc+tls://{_same_machine(self.host)}:{port}"


def _same_machine(host: str) -> str:
    """An address of this machine at which a server listening on ``host`` is reached."""
    here = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104
    return f"[{here}]" if ":" in here else here


_DEFAULTS = FlightLimits()


class FlightServerSettings(Settings):
    """What every configuration says of its Flight server."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65535, description="TCP port")
    advertise: str = Field("", description="host:port as others see it; localhost and the port by default")
    certificate: OptionalPath = Field(
        None, description="your own TLS certificate with its chain, PEM; by default one is made on first start"
    )
    key: OptionalPath = Field(None, description="key of your own TLS certificate, PEM")
    max_streams: int = Field(
        _DEFAULTS.streams, ge=1, le=1024, description="uploads, downloads and queries under way, of all clients"
    )
    max_streams_per_client: int = Field(
        _DEFAULTS.streams_per_client, ge=1, le=1024, description="of these, how many one credential may have"
    )
    calls_per_second: float = Field(
        _DEFAULTS.calls_per_second, gt=0, description="sustained calls per second and client address"
    )
    calls_burst: int = Field(_DEFAULTS.burst, gt=0, description="calls that a client may make at once")
    stall_seconds: float = Field(
        _DEFAULTS.stall_seconds,
        ge=1,
        description="a client that keeps the server waiting for longer, to take rows or to send them, is cut off",
    )
    max_message_bytes: int = Field(
        _DEFAULTS.message_bytes, gt=0, le=2**31 - 1, description="largest batch that a client may send"
    )

    @field_validator("advertise")
    @classmethod
    def _is_reachable(cls, value: str) -> str:
        if value and not is_location(f"grpc+tls://{value}") and not is_location(f"grpc+tls://{value}:1"):
            raise ValueError("write host or host:port")
        return value

    @model_validator(mode="after")
    def _has_both_or_none(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: name both or none")
        return self

    def server(self, data_dir: Path, results: Path | None = None) -> FlightSettings:
        """The server of a daemon that keeps its data in ``data_dir`` and finished results in ``results``."""
        return FlightSettings(
            host=self.host,
            port=self.port,
            certificate_folder=data_dir / "engine" / "tls",
            advertise=self.advertise or "localhost",
            certificate=self.certificate,
            key=self.key,
            results=results,
            limits=FlightLimits(
                streams=self.max_streams,
                streams_per_client=self.max_streams_per_client,
                calls_per_second=self.calls_per_second,
                burst=self.calls_burst,
                stall_seconds=self.stall_seconds,
                message_bytes=self.max_message_bytes,
            ),
        )
