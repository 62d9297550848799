"""The tables of the hub's store, as :mod:`syndb_hub.store.migrations` leaves them."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

metadata = sa.MetaData()


class Moment(sa.types.TypeDecorator[datetime]):
    """A point in time: aware datetimes in, UTC out, on databases with and without time zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """To UTC; a naive time is a mistake of the caller."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Back to an aware UTC time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


api_tokens = sa.Table(
    "api_tokens",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("secret_sha256", sa.String(64), nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    sa.Column("revoked_at", Moment),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("owner", sa.String(100), nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("scope", sa.String(16)),
    sa.Column("cluster_ids", sa.JSON(none_as_null=True)),
    sa.Column("require", sa.String(8), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("started_at", Moment),
    sa.Column("finished_at", Moment),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("provenance", sa.JSON(none_as_null=True)),
    sa.Column("rows", sa.BigInteger),
    sa.Column("result_bytes", sa.BigInteger),
    sa.Column("result_sha256", sa.String(64)),
)

clusters = sa.Table(
    "clusters",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(63), nullable=False, unique=True),
    sa.Column("peer_id", sa.String(128), unique=True),
    sa.Column("endpoints", sa.JSON, nullable=False),
    sa.Column("institution", sa.String(300), nullable=False),
    sa.Column("description", sa.String(2000), nullable=False),
    sa.Column("contact_email", sa.String(300), nullable=False),
    sa.Column("software", sa.String(100), nullable=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("registered_at", Moment, nullable=False),
    sa.Column("standing", sa.String(16), nullable=False),
    sa.Column("protocol_version", sa.Integer, nullable=False),
    sa.Column("key_id", sa.String(16), nullable=False),
    sa.Column("observed_hosts", sa.JSON, nullable=False),
    sa.Column("approved_hosts", sa.JSON, nullable=False),
)

catalogues = sa.Table(
    "catalogues",
    metadata,
    sa.Column("cluster_id", sa.Uuid, sa.ForeignKey("clusters.id"), primary_key=True),
    sa.Column("announcement", sa.Text, nullable=False),
)

health_transitions = sa.Table(
    "health_transitions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("cluster_id", sa.Uuid, sa.ForeignKey("clusters.id"), nullable=False, index=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("from_state", sa.String(16), nullable=False),
    sa.Column("to_state", sa.String(16), nullable=False),
    sa.Column("cause", sa.String(1000), nullable=False),
)

invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("key_id", sa.String(16), primary_key=True),
    sa.Column("key", sa.LargeBinary(32), nullable=False),
    sa.Column("cluster_name", sa.String(63), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    sa.Column("used_by", sa.String(128)),
    sa.Column("revoked_at", Moment),
)

revoked_peers = sa.Table(
    "revoked_peers",
    metadata,
    sa.Column("peer_id", sa.String(128), primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("cause", sa.String(1000), nullable=False),
)

benchmarks = sa.Table(
    "benchmarks",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Uuid, nullable=False, unique=True),
    sa.Column("at", Moment, nullable=False, index=True),
    sa.Column("cluster_id", sa.Uuid),
    sa.Column("query_type", sa.String(32), nullable=False),
    sa.Column("latency_ms", sa.Float(53), nullable=False),
    sa.Column("row_count", sa.BigInteger, nullable=False),
    sa.Column("cluster_count", sa.Integer, nullable=False),
    sa.Column("payload_bytes", sa.BigInteger, nullable=False),
    sa.Column("success", sa.Boolean, nullable=False),
)

ontology_terms = sa.Table(
    "ontology_terms",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("vocabulary", sa.String(100), nullable=False, index=True),
    sa.Column("term", sa.JSON, nullable=False),
)

hub_state = sa.Table(
    "hub_state",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
"""Single values by name."""

TOLD = "told "
"""Begins the name of the value that says which next key of the hub a node was told; the node's id follows."""
