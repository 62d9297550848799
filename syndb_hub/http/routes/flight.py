"""Where bulk data go in and out."""

from __future__ import annotations

from pydantic import BaseModel, Field

from syndb_common.errors import Unavailable
from syndb_common.flight.tls import fingerprint, server_name
from syndb_hub.http.operation import Call, Operations

operations = Operations("flight")


class FlightServer(BaseModel):
    """The hub's Arrow Flight server."""

    location: str = Field(description="Flight location, `grpc+tls://host:port`")
    certificate: str = Field(description="its TLS certificate, PEM, to be trusted as root")
    fingerprint: str = Field(description="SHA-256 of the certificate")
    server_name: str = Field(description="a name the certificate is valid for, where the host is none")


@operations.get("/v1/flight", right=None)
async def flight_server(call: Call) -> FlightServer:
    """Where bulk data go in and out, and by which certificate the server is known."""
    location, certificate = call.services.flight()
    if not location:
        raise Unavailable("the Flight server is not running", hint="Try again in a moment.")
    return FlightServer(
        location=location,
        certificate=certificate,
        fingerprint=fingerprint(certificate),
        server_name=server_name(certificate),
    )
