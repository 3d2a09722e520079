"""Alarms have owners and escalate; what is to be told of them waits in an outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    with op.batch_alter_table("alarms") as alarms:
        alarms.add_column(sa.Column("owner", sa.String(), server_default="", nullable=False))
        alarms.add_column(sa.Column("opened", sa.Double(), server_default="0", nullable=False))
        alarms.add_column(sa.Column("step", sa.Integer(), server_default="0", nullable=False))
    op.execute("UPDATE alarms SET opened = raised")
    with op.batch_alter_table("alarms") as alarms:
        for name in ("owner", "opened", "step"):
            alarms.alter_column(name, server_default=None)
    op.create_table(
        "notices",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("alarm", sa.Integer(), sa.ForeignKey("alarms.id"), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("first", sa.Integer(), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("addressed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_notices_addressed", "notices", ["addressed"])
    op.create_table(
        "deliveries",
        sa.Column("notice", sa.Integer(), sa.ForeignKey("notices.id"), nullable=False),
        sa.Column("route", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due", sa.Double(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("notice", "route"),
    )
    op.create_index("ix_deliveries_state", "deliveries", ["state"])


def downgrade() -> None:
    """Back to the one before."""
    op.drop_table("deliveries")
    op.drop_table("notices")
    with op.batch_alter_table("alarms") as alarms:
        for name in ("step", "opened", "owner"):
            alarms.drop_column(name)
