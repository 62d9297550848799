"""Which ClickHouse an engine is: the section ``[engine]`` of ``node.toml`` and ``hub.toml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from syndb_common.errors import ConfigError
from syndb_common.settings import OptionalPath, Settings

_PORTS: Final = {"http": 8123, "https": 8443}


@dataclass(frozen=True, slots=True)
class Server:
    """The address of a ClickHouse server, and who we are there."""

    url: str
    user: str = "default"
    password: str = field(default="", repr=False)
    cluster: str = ""
    ca_file: str = ""

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        """Name or address of the machine."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """TCP port, by default ClickHouse's own for the scheme."""
        return urlsplit(self.url).port or _PORTS[self.scheme]


class EngineSettings(Settings):
    """The ClickHouse that holds the data."""

    kind: Literal["embedded", "server"] = Field(
        "embedded", description="embedded: a process of this daemon; server: a ClickHouse server that you run"
    )
    url: str = Field(
        "",
        description="the server's HTTP interface, http://host:8123 or https://host:8443; its databases are ours alone",
    )
    user: str = Field("default", min_length=1, description="user on the server")
    password_file: OptionalPath = Field(
        None, description="file with the user's password on the server; keep it readable by the daemon alone"
    )
    cluster: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.-]{0,100}$",
        description="cluster of the server, one shard: tables are then replicated and made ON CLUSTER",
    )
    ca_file: OptionalPath = Field(
        None, description="PEM file of the authority that signed the server's certificate; the system's by default"
    )

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        parts = urlsplit(value)
        plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        if value and (
            parts.scheme not in _PORTS or not parts.hostname or value.rstrip("/") != plain or parts.port == 0
        ):
            raise ValueError("write http://host:port or https://host:port; user and password have keys of their own")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> EngineSettings:
        if (self.kind == "server") != bool(self.url):
            raise ValueError('kind = "server" and url belong together')
        return self

    def server(self) -> Server | None:
        """The server, with its password; None for the embedded engine.

        Raises:
            ConfigError: a file cannot be read.
        """
        if self.kind == "embedded":
            return None
        password = ""
        try:
            if self.password_file is not None:
                password = self.password_file.read_text(encoding="utf-8").strip()
            if self.ca_file is not None:
                self.ca_file.read_bytes()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"a file of [engine] cannot be read: {error}"[:300]) from None
        return Server(self.url, self.user, password, self.cluster, str(self.ca_file or ""))
