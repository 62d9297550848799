"""Where a Flight server listens, and what it says of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

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
class FlightSettings:
    """A Flight server of an engine process.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        certificate_folder: folder of ``flight.crt`` and ``flight.key``, made there when missing.
        advertise: ``host:port`` or ``host`` under which others reach it; by default what it listens on.
    """

    host: str
    port: int
    certificate_folder: Path
    advertise: str = ""

    def location(self, port: int) -> str:
        """The location others use when the server got ``port``."""
        where = self.advertise or self.host
        return f"grpc+tls://{where}" if where.rpartition(":")[2].isdigit() else f"grpc+tls://{where}:{port}"
