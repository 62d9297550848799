"""The control plane: how nodes stand and what joined them, invitations, benchmarks, ontology."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Replace ``is_active`` by ``standing``, let names wait without a PeerId, and create the new tables."""
    with op.batch_alter_table("clusters") as batch:
        batch.alter_column("peer_id", existing_type=sa.String(128), nullable=True)
        batch.add_column(sa.Column("standing", sa.String(16), nullable=False, server_default="active"))
        batch.add_column(sa.Column("protocol_version", sa.Integer, nullable=False, server_default="1"))
        batch.add_column(sa.Column("key_id", sa.String(16), nullable=False, server_default=""))
        batch.add_column(sa.Column("observed_hosts", sa.JSON, nullable=False, server_default="[]"))
        batch.add_column(sa.Column("approved_hosts", sa.JSON, nullable=False, server_default="[]"))
    clusters = sa.table("clusters", sa.column("is_active", sa.Boolean), sa.column("standing", sa.String))
    op.execute(sa.update(clusters).where(sa.not_(clusters.c.is_active)).values(standing="inactive"))
    with op.batch_alter_table("clusters") as batch:
        batch.drop_column("is_active")
        for column in ("standing", "protocol_version", "key_id", "observed_hosts", "approved_hosts"):
            batch.alter_column(column, server_default=None)
    op.create_table(
        "invitations",
        sa.Column("key_id", sa.String(16), primary_key=True),
        sa.Column("key", sa.LargeBinary(32), nullable=False),
        sa.Column("cluster_name", sa.String(63), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("used_by", sa.String(128)),
        sa.Column("revoked_at", MOMENT),
    )
    op.create_table(
        "revoked_peers",
        sa.Column("peer_id", sa.String(128), primary_key=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("cause", sa.String(1000), nullable=False),
    )
    op.create_table(
        "benchmarks",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Uuid, nullable=False, unique=True),
        sa.Column("at", MOMENT, nullable=False, index=True),
        sa.Column("cluster_id", sa.Uuid),
        sa.Column("query_type", sa.String(32), nullable=False),
        sa.Column("latency_ms", sa.Float(53), nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("cluster_count", sa.Integer, nullable=False),
        sa.Column("payload_bytes", sa.BigInteger, nullable=False),
        sa.Column("success", sa.Boolean, nullable=False),
    )
    op.create_table(
        "ontology_terms",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("vocabulary", sa.String(100), nullable=False, index=True),
        sa.Column("term", sa.JSON, nullable=False),
    )
    op.create_table(
        "hub_state",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.execute(sa.text("UPDATE schema_version SET version = 3"))
