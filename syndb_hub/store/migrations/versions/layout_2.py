"""What nodes announced last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table of catalogues."""
    op.create_table(
        "catalogues",
        sa.Column("cluster_id", sa.Uuid, sa.ForeignKey("clusters.id"), primary_key=True),
        sa.Column("announcement", sa.Text, nullable=False),
    )
    op.execute(sa.text("UPDATE schema_version SET version = 2"))
