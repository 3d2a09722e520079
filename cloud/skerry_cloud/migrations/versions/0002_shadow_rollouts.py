"""Rollouts have a mode: serve, or shadow."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    op.add_column("rollouts", sa.Column("mode", sa.String(), server_default="serve", nullable=False))


def downgrade() -> None:
    """Back to the one before."""
    with op.batch_alter_table("rollouts") as rollouts:
        rollouts.drop_column("mode")
