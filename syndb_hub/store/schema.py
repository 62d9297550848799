"""The tables of the hub's store and the number of their layout."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

SCHEMA_VERSION = 2
"""Number of this layout; each so far only adds tables. A file with a higher one was written by a newer release and is
not touched.

1. tokens, jobs, clusters, health
2. catalogues
"""

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


schema_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, nullable=False))

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
    sa.Column("peer_id", sa.String(128), nullable=False, unique=True),
    sa.Column("endpoints", sa.JSON, nullable=False),
    sa.Column("institution", sa.String(300), nullable=False),
    sa.Column("description", sa.String(2000), nullable=False),
    sa.Column("contact_email", sa.String(300), nullable=False),
    sa.Column("software", sa.String(100), nullable=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("registered_at", Moment, nullable=False),
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
