"""A device may have several workloads, each with its release."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    op.create_table(
        "installed",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("workload", sa.String(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("device", "workload"),
    )
    op.execute("INSERT INTO installed SELECT name, workload, release FROM devices WHERE release > 0")
    with op.batch_alter_table("devices") as devices:
        devices.drop_column("workload")
        devices.drop_column("release")


def downgrade() -> None:
    """Back to the one before: of several workloads one stays known."""
    with op.batch_alter_table("devices") as devices:
        devices.add_column(sa.Column("workload", sa.String(), server_default="", nullable=False))
        devices.add_column(sa.Column("release", sa.Integer(), server_default="0", nullable=False))
    first = "FROM installed WHERE device = name ORDER BY workload LIMIT 1"
    op.execute(
        f"UPDATE devices SET workload = (SELECT workload {first}), release = (SELECT release {first}) "
        "WHERE name IN (SELECT device FROM installed)"
    )
    op.drop_table("installed")
