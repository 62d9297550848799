"""The messages hub and node exchange, each a frozen, versioned pydantic model with its reply type.

| message | direction | reply |
|---|---|---|
| JoinRequest | node -> hub | JoinChallenge |
| RegisterCluster | node -> hub | Registered |
| HealthPing | hub -> node | HealthReport |
| SchemaSync | hub -> node | SchemaReport |
| DatasetCatalogRequest | hub -> node | CatalogAnnouncement |
| CatalogAnnouncement | node -> hub | Acknowledged |
| GetFlightEndpoint | hub -> node | FlightEndpoint |
| AnalyticsQuery | hub -> node | AnalyticsResult |
| CancelQuery | hub -> node | Acknowledged |

Receivers ignore fields they do not know, so that a newer peer may add some. Times are seconds, sizes bytes.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator

from syndb_common.flight.settings import is_location
from syndb_common.syql.plan import Plan
from syndb_common.tables.versions import PublishedVersion

PROTOCOL_VERSION = 1
"""Version of this vocabulary. Hub and node speak it and the one before."""

Nonce = Field(min_length=32, max_length=32)
ClusterName = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")


class Reply(BaseModel):
    """Base of everything that is sent back."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Message(BaseModel):
    """Base of every request. Subclasses name the ``Reply`` they are answered with."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    reply_type: ClassVar[type[BaseModel]]
    idempotent: ClassVar[bool] = False
    """Whether the sender may repeat it when no answer came."""


class Acknowledged(Reply):
    """Received and acted on."""


class Endpoints(BaseModel):
    """Where a node can be reached.

    Attributes:
        multiaddrs: libp2p addresses, QUIC first.
        flight: Flight location, ``grpc+tls://host:port``; empty while there is no server.
        flight_certificate: PEM of the self-signed or operator's certificate of that server.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    multiaddrs: tuple[Annotated[str, Field(max_length=1000)], ...] = Field(max_length=16)
    flight: str = Field(max_length=500)
    flight_certificate: str = Field(max_length=20_000)

    @field_validator("flight")
    @classmethod
    def _is_location(cls, value: str) -> str:
        if value and not is_location(value):
            raise ValueError("a Flight location is grpc+tls://host:port")
        return value


class JoinChallenge(Reply):
    """The hub's nonce for one attempt to join."""

    join_id: UUID
    hub_nonce: bytes = Nonce


class JoinRequest(Message):
    """First step of joining: the node asks for a challenge. See :mod:`actors.remote.proof`."""

    reply_type = JoinChallenge
    cluster_name: str = ClusterName
    node_nonce: bytes = Nonce
    protocol_version: int = PROTOCOL_VERSION


class Registered(Reply):
    """The hub's acceptance and its own proof of the federation password."""

    cluster_id: UUID
    hub_proof: bytes = Field(min_length=32, max_length=32)
    schema_version: int


class RegisterCluster(Message):
    """Second step of joining: the node's proof, its endpoints and what it is."""

    reply_type = Registered
    join_id: UUID
    node_proof: bytes = Field(min_length=32, max_length=32)
    endpoints: Endpoints
    schema_version: int = Field(ge=0)
    institution: str = Field(default="", max_length=300)
    description: str = Field(default="", max_length=2000)
    contact_email: str = Field(default="", max_length=300)
    software: str = Field(default="", max_length=100)


class HealthReport(Reply):
    """State of a node.

    Attributes:
        engine: ``ok``, or what is wrong with the engine.
        load: queries running now.
        catalogue_revision: grows whenever the catalogue changed; the hub asks for it when it differs.
        clock: seconds since the epoch at the node.
    """

    schema_version: int
    engine: str = Field(max_length=1000)
    load: int
    catalogue_revision: int
    clock: float
    uptime_seconds: float
    software: str = Field(max_length=100)
    registered: bool = True


class HealthPing(Message):
    """Are you there, and how are you? ``clock`` is the hub's, seconds since the epoch."""

    reply_type = HealthReport
    idempotent = True
    clock: float


class SchemaMigration(BaseModel):
    """One numbered migration: statements in order, each CREATE or ALTER in the database ``syndb``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = Field(ge=1)
    name: str = Field(max_length=200)
    statements: tuple[str, ...] = Field(max_length=200)


class SchemaReport(Reply):
    """The node's schema version after the migrations, and the numbers it applied now."""

    schema_version: int
    applied: tuple[int, ...]


class SchemaSync(Message):
    """Apply these migrations in order; those already applied are skipped."""

    reply_type = SchemaReport
    idempotent = True
    migrations: tuple[SchemaMigration, ...] = Field(max_length=1000)
    dry_run: bool = False


class CatalogAnnouncement(Message):
    """All versions a node has published, with the sharing level its owner's policy gives each data set.

    Also the reply to :class:`DatasetCatalogRequest`.
    """

    reply_type = Acknowledged
    idempotent = True
    revision: int
    versions: tuple[PublishedVersion, ...] = Field(max_length=100_000)
    sharing: dict[UUID, str] = Field(default_factory=dict)


class DatasetCatalogRequest(Message):
    """What have you published?"""

    reply_type = CatalogAnnouncement
    idempotent = True


class FlightEndpoint(Reply):
    """Where and with what certificate to read; ``ticket`` when a result was asked for."""

    location: str
    certificate: str
    ticket: bytes | None = None


class GetFlightEndpoint(Message):
    """Where is your Flight server?"""

    reply_type = FlightEndpoint
    idempotent = True


class AnalyticsResult(Reply):
    """A node's part of an answer: inline Arrow IPC up to 64 KiB, or a ticket for Flight.

    Attributes:
        inline: Arrow IPC stream of the whole part, or None.
        rows: rows of the part when inline; the Flight end record carries it otherwise.
    """

    inline: bytes | None = None
    endpoint: FlightEndpoint | None = None
    rows: int | None = None
    scanned_rows: int = 0
    scanned_bytes: int = 0
    seconds: float = 0.0


class AnalyticsQuery(Message):
    """Compute your part of this plan. ``seconds`` is what remains of the caller's deadline."""

    reply_type = AnalyticsResult
    query_id: UUID
    plan: Plan
    seconds: float = Field(gt=0, le=86_400)


class CancelQuery(Message):
    """Stop working on this query; nobody waits for it any more."""

    reply_type = Acknowledged
    idempotent = True
    query_id: UUID


MESSAGES: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        JoinRequest,
        RegisterCluster,
        HealthPing,
        SchemaSync,
        DatasetCatalogRequest,
        CatalogAnnouncement,
        GetFlightEndpoint,
        AnalyticsQuery,
        CancelQuery,
    )
}
"""Every message by the name it has on the wire."""


def to_wire(model: BaseModel) -> dict[str, Any]:
    """Plain values that msgpack can carry: UUIDs and times as text, bytes as bytes."""
    return _plain(model.model_dump(mode="python"))  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    return value
