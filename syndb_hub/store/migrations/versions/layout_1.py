"""Tokens, jobs, nodes, and the history of their health."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the first tables."""
    layout = op.create_table("schema_version", sa.Column("version", sa.Integer, nullable=False))
    op.bulk_insert(layout, [{"version": 1}])
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("revoked_at", MOMENT),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("owner", sa.String(100), nullable=False, index=True),
        sa.Column("status", sa.String(16), nullable=False, index=True),
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("scope", sa.String(16)),
        sa.Column("cluster_ids", sa.JSON(none_as_null=True)),
        sa.Column("require", sa.String(8), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT),
        sa.Column("finished_at", MOMENT),
        sa.Column("error", sa.JSON(none_as_null=True)),
        sa.Column("provenance", sa.JSON(none_as_null=True)),
        sa.Column("rows", sa.BigInteger),
        sa.Column("result_bytes", sa.BigInteger),
        sa.Column("result_sha256", sa.String(64)),
    )
    op.create_table(
        "clusters",
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
        sa.Column("registered_at", MOMENT, nullable=False),
    )
    op.create_table(
        "health_transitions",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("cluster_id", sa.Uuid, sa.ForeignKey("clusters.id"), nullable=False, index=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("from_state", sa.String(16), nullable=False),
        sa.Column("to_state", sa.String(16), nullable=False),
        sa.Column("cause", sa.String(1000), nullable=False),
    )
