"""Devices have groups, alarms are about places, and parts of the cloud have checkpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    op.add_column("devices", sa.Column("group", sa.String(), server_default="", nullable=False))
    with op.batch_alter_table("alarms") as alarms:
        alarms.alter_column("device", new_column_name="name")
        alarms.add_column(sa.Column("level", sa.String(), server_default="device", nullable=False))
        alarms.add_column(sa.Column("kind", sa.String(), server_default="drift", nullable=False))
        alarms.add_column(sa.Column("health", sa.String(), server_default="drift", nullable=False))
        alarms.add_column(sa.Column("devices", sa.JSON(), server_default="[]", nullable=False))
    table = sa.table("alarms", sa.column("name", sa.String()), sa.column("devices", sa.JSON()))
    for name in op.get_bind().scalars(sa.select(table.c.name).distinct()).all():
        op.execute(table.update().where(table.c.name == name).values(devices=[name]))
    with op.batch_alter_table("alarms") as alarms:
        alarms.alter_column("level", server_default=None)
        alarms.alter_column("devices", server_default=None)
        alarms.alter_column("kind", server_default=None)
        alarms.alter_column("health", server_default=None)
    op.create_table(
        "checkpoints",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    """Back to the one before."""
    op.drop_table("checkpoints")
    with op.batch_alter_table("alarms") as alarms:
        alarms.drop_column("devices")
        alarms.drop_column("kind")
        alarms.drop_column("health")
        alarms.drop_column("level")
        alarms.alter_column("name", new_column_name="device")
    with op.batch_alter_table("devices") as devices:
        devices.drop_column("group")
