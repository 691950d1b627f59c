"""The first schema: the index of workspaces, stops, running servers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "workspaces",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("principal", sa.String(200), nullable=False),
        sa.Column("repo", sa.Text, nullable=False),
        sa.Column("task", sa.Text),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("used", sa.Float, nullable=False),
    )
    op.create_index("ix_workspaces_principal", "workspaces", ["principal"])
    op.create_table(
        "stops",
        sa.Column("scope", sa.String(20), primary_key=True),
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("since", sa.Float, nullable=False),
    )
    op.create_table(
        "servers",
        sa.Column("pid", sa.Integer, primary_key=True),
        sa.Column("born", sa.String(40), nullable=False),
        sa.Column("started", sa.Float, nullable=False),
    )


def downgrade() -> None:
    for table in ("servers", "stops", "workspaces"):
        op.drop_table(table)
