"""The messages hub and node exchange, each a frozen, versioned pydantic model with its reply type.

| message | direction | reply |
|---|---|---|
| JoinRequest | node -> hub | JoinChallenge |
| RegisterCluster | node -> hub | Registered |
| LeaveFederation | node -> hub | Acknowledged |
| HealthPing | hub -> node | HealthReport |
| SchemaSync | hub -> node | SchemaReport |
| OntologySync | hub -> node | OntologyReport |
| DatasetCatalogRequest | hub -> node | CatalogAnnouncement |
| CatalogAnnouncement | node -> hub | Acknowledged |
| GetFlightEndpoint | hub -> node | FlightEndpoint |
| AnalyticsQuery | hub -> node | AnalyticsResult |
| CancelQuery | hub -> node | Acknowledged |

Receivers ignore fields they do not know, so that a newer peer may add some. Times are seconds, sizes bytes. Every text,
list and number is bounded: what a peer says goes into tables and sums, which have bounds too.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from syndb_common.flight.settings import is_location
from syndb_common.syql.plan import Plan
from syndb_common.tables.versions import Count, PublishedVersion, SchemaVersion

PROTOCOL_VERSION = 2
"""Version of this vocabulary. Hub and node speak it and the one before.

Version 2 added ``key_id``, ``succession``, ``standing``, the hub's next key, pages of catalogues, OntologySync and
LeaveFederation. What it added has defaults, so that a peer of version 1 is understood.
"""

Nonce = Field(min_length=32, max_length=32)
PeerIdText = Field(default="", max_length=64, pattern=r"^([1-9A-HJ-NP-Za-km-z]{46,64})?$")
ClusterName = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
Seconds = Annotated[FiniteFloat, Field(ge=0, le=1e12)]


def _location_or_none(text: str) -> str:
    if text and not is_location(text):
        raise ValueError("a Flight location is grpc+tls://host:port")
    return text


FlightLocation = Annotated[str, Field(max_length=500), AfterValidator(_location_or_none)]
"""``grpc+tls://host:port``; empty while there is no server."""


class Reply(BaseModel):
    """Base of everything that is sent back."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Message(BaseModel):
    """Base of every request. Subclasses name the ``Reply`` they are answered with."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    reply_type: ClassVar[type[BaseModel]]
    idempotent: ClassVar[bool] = False
    """Whether the sender may repeat it when no answer came."""
    changes_nothing: ClassVar[bool] = False
    """Whether it only asks: a receiver need not remember its answer, since to execute it again does no harm."""
    since: ClassVar[int] = 1
    """The protocol version that brought it; peers of an older one are never sent it."""


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
    flight: FlightLocation
    flight_certificate: str = Field(max_length=20_000)


class JoinChallenge(Reply):
    """The hub's nonce for one attempt to join."""

    join_id: UUID
    hub_nonce: bytes = Nonce


class JoinRequest(Message):
    """First step of joining: the node asks for a challenge. See :mod:`actors.remote.proof`.

    Attributes:
        key_id: which secret the node is going to prove (:func:`actors.remote.proof.key_id`); empty from a node of
            version 1, which proves the federation password.
        protocol_version: the version the node speaks; absent only from nodes of version 1.
    """

    reply_type = JoinChallenge
    cluster_name: str = ClusterName
    node_nonce: bytes = Nonce
    key_id: str = Field(default="", max_length=32, pattern=r"^([0-9a-f]{16})?$")
    protocol_version: int = Field(default=1, ge=0, le=2**31 - 1)


class Registered(Reply):
    """The hub's acceptance and its own proof of the secret.

    Attributes:
        standing: ``active``, or ``waiting`` while the hub's operator has not approved the node yet.
        ping_seconds: how often the hub pings; a node looks for its hub anew after several missed pings.
        next_hub_peer_id: the key the hub will change to, which the node pins beside the present one; or empty.
    """

    cluster_id: UUID
    hub_proof: bytes = Field(min_length=32, max_length=32)
    schema_version: SchemaVersion
    standing: str = Field(default="active", max_length=20)
    ping_seconds: float | None = Field(default=None, gt=0, le=1e9)
    next_hub_peer_id: str = PeerIdText


class Succession(BaseModel):
    """The old key of a node hands its name to the new one, by which the node is connected now.

    Attributes:
        previous_peer_id: the PeerId that has the name so far.
        signature: by that key, over :func:`actors.remote.proof.succession_statement`; 64 bytes of Ed25519.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    previous_peer_id: str = Field(max_length=64, pattern=r"^[1-9A-HJ-NP-Za-km-z]{46,64}$")
    signature: bytes = Field(min_length=64, max_length=64)


class RegisterCluster(Message):
    """Second step of joining: the node's proof, its endpoints and what it is.

    ``succession`` is given when the node has changed its key.
    """

    reply_type = Registered
    join_id: UUID
    node_proof: bytes = Field(min_length=32, max_length=32)
    endpoints: Endpoints
    succession: Succession | None = None
    schema_version: SchemaVersion
    institution: str = Field(default="", max_length=300)
    description: str = Field(default="", max_length=2000)
    contact_email: str = Field(default="", max_length=300)
    software: str = Field(default="", max_length=100)


class LeaveFederation(Message):
    """The node stops now, on purpose: the hub need not wait for missed pings. It may come back."""

    reply_type = Acknowledged
    idempotent = True
    since = 2
    reason: str = Field(default="", max_length=300)


class HealthReport(Reply):
    """State of a node.

    Attributes:
        engine: ``ok``, or what is wrong with the engine.
        load: queries running now.
        catalogue_revision: differs whenever the catalogue differs; the hub asks for it then.
        ontology_revision: of the terms the node has; 0 for none.
        clock: seconds since the epoch at the node. It may be anything: the hub says of a clock that is none that it is
            wrong, which helps the node's operator more than a report that counts as missed.
        boot_id: drawn anew by each run of the node, so that the hub notices a restart however quick it was; empty in
            version 1.
    """

    schema_version: SchemaVersion
    engine: str = Field(max_length=1000)
    load: Count
    catalogue_revision: Count
    clock: float
    uptime_seconds: Seconds
    software: str = Field(max_length=100)
    registered: bool = True
    ontology_revision: Count = 0
    boot_id: str = Field("", max_length=64)


class HealthPing(Message):
    """Are you there, and how are you?

    It is not repeated by the transport: a failed ping is what the health monitor wants to know.

    Attributes:
        clock: the hub's, seconds since the epoch.
        next_hub_peer_id: as in :class:`Registered`.
    """

    reply_type = HealthReport
    changes_nothing = True
    clock: Seconds
    next_hub_peer_id: str = PeerIdText


class SchemaMigration(BaseModel):
    """One numbered migration: statements in order, each CREATE or ALTER in the database ``syndb``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Annotated[SchemaVersion, Field(ge=1)]
    name: str = Field(max_length=200)
    statements: tuple[Annotated[str, Field(max_length=100_000)], ...] = Field(max_length=200)


class SchemaReport(Reply):
    """The node's schema version after the migrations, and the numbers it applied now."""

    schema_version: SchemaVersion
    applied: tuple[SchemaVersion, ...] = Field(max_length=1000)


class SchemaSync(Message):
    """Apply these migrations in order; those already applied are skipped."""

    reply_type = SchemaReport
    idempotent = True
    migrations: tuple[SchemaMigration, ...] = Field(max_length=1000)
    dry_run: bool = False


class CatalogAnnouncement(Message):
    """The versions a node has published, with the sharing level its owner's policy gives each data set.

    Also the reply to :class:`DatasetCatalogRequest`. A catalogue that does not fit one frame comes in pages, of which
    a node announces the first by itself; the hub asks for the others.
    """

    reply_type = Acknowledged
    idempotent = True
    revision: Count
    page: int = Field(default=0, ge=0, lt=10_000)
    pages: int = Field(default=1, ge=1, le=10_000)
    versions: tuple[PublishedVersion, ...] = Field(max_length=100_000)
    sharing: dict[UUID, Annotated[str, Field(max_length=20)]] = Field(default_factory=dict, max_length=100_000)


class DatasetCatalogRequest(Message):
    """What have you published? Pages count from 0."""

    reply_type = CatalogAnnouncement
    changes_nothing = True
    idempotent = True
    page: int = Field(default=0, ge=0, lt=10_000)


class OntologyTerm(BaseModel):
    """One term of a controlled vocabulary, for instance a brain region.

    Attributes:
        id: stable name of the term, for instance ``FBbt:00005801``.
        vocabulary: ``brain_region``, ``species``, ``microscopy``, ...
        label: what people read and metadata hold.
        parents: ids of broader terms.
        deprecated_by: id of the term to use instead; empty for a term in use.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(min_length=1, max_length=200)
    vocabulary: str = Field(min_length=1, max_length=100)
    label: str = Field(min_length=1, max_length=500)
    definition: str = Field(default="", max_length=4000)
    synonyms: tuple[Annotated[str, Field(max_length=500)], ...] = Field(default=(), max_length=100)
    parents: tuple[Annotated[str, Field(max_length=200)], ...] = Field(default=(), max_length=100)
    deprecated_by: str = Field(default="", max_length=200)


class OntologyReport(Reply):
    """The revision of the terms the node has afterwards: the former one until the last page arrived."""

    revision: Count


class OntologySync(Message):
    """One page of the federation's terms; all pages of a revision together replace what the node had."""

    reply_type = OntologyReport
    idempotent = True
    since = 2
    revision: Annotated[Count, Field(ge=1)]
    page: int = Field(ge=0, lt=10_000)
    pages: int = Field(ge=1, le=10_000)
    terms: tuple[OntologyTerm, ...] = Field(max_length=10_000)


class FlightEndpoint(Reply):
    """Where and with what certificate to read; ``ticket`` when a result was asked for."""

    location: FlightLocation
    certificate: str = Field(max_length=20_000)
    ticket: bytes | None = Field(default=None, max_length=10_000)


class GetFlightEndpoint(Message):
    """Where is your Flight server?"""

    reply_type = FlightEndpoint
    changes_nothing = True
    idempotent = True


class AnalyticsResult(Reply):
    """A node's part of an answer: inline Arrow IPC, or a ticket for Flight, or it is being delivered to the hub.

    Attributes:
        inline: Arrow IPC stream of the whole part, or None. Up to 64 KiB, and more where ``frames`` were asked for.
        pushed: the part is on its way to ``push_to`` of the question.
        rows: rows of the part when inline; the Flight end record carries it otherwise.
    """

    inline: bytes | None = Field(default=None, max_length=2**20)
    endpoint: FlightEndpoint | None = None
    pushed: bool = False
    rows: Count | None = None
    scanned_rows: Count = 0
    scanned_bytes: Count = 0
    seconds: Seconds = 0.0


DeliveryWay = Literal["pull", "push", "frames"]
"""How a part that is larger than 64 KiB comes to the hub: it fetches it, the node delivers it to the hub's Flight
server, or it travels inside the answer, up to a size that the node sets."""


class AnalyticsQuery(Message):
    """Compute your part of this plan. ``seconds`` is what remains of the caller's deadline.

    Attributes:
        reader: SHA-256 of the secret that the hub is going to present with the ticket; empty from hubs that name no
            reader, whose tickets are for whoever has them.
        delivery: how a large part shall come. A node that does not know this field offers a ticket.
        push_to: for ``push``: the hub's Flight server, and a ticket for one delivery.
        delivery_seconds: how long the hub waits for all of a part that is delivered; hubs that do not say give an hour.
    """

    reply_type = AnalyticsResult
    query_id: UUID
    plan: Plan
    seconds: float = Field(gt=0, le=86_400)
    reader: bytes = Field(default=b"", max_length=32)
    delivery: DeliveryWay = "pull"
    push_to: FlightEndpoint | None = None
    delivery_seconds: float = Field(default=3600.0, gt=0, le=86_400)


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
        LeaveFederation,
        HealthPing,
        SchemaSync,
        OntologySync,
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


def wire_value(value: Any) -> Any:
    """What stands on the wire for a value that msgpack does not know; its ``default`` hook.

    Raises:
        TypeError: nothing does.
    """
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return wire_value(value) if isinstance(value, UUID | datetime | Enum) else value
