"""Retrainings are rows that outlive the process; runs know their epochs, and what they cost."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

RUNS: dict[str, Any] = {"epochs": sa.Integer(), "seconds": sa.Double(), "cost": sa.Double()}


def upgrade() -> None:
    """To this revision."""
    with op.batch_alter_table("runs") as runs:
        for name, kind in RUNS.items():
            runs.add_column(sa.Column(name, kind, server_default="0", nullable=False))
    with op.batch_alter_table("runs") as runs:
        for name in RUNS:
            runs.alter_column(name, server_default=None)
    op.create_table(
        "retrainings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("workload", sa.String(), nullable=False),
        sa.Column("champion", sa.Integer(), nullable=False),
        sa.Column("alarms", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("began", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=False),
        sa.Column("dataset", sa.Integer(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("published", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    """Back to the one before."""
    op.drop_table("retrainings")
    with op.batch_alter_table("runs") as runs:
        for name in RUNS:
            runs.drop_column(name)
