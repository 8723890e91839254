"""Why a model or dataset is inspected again or could not be, and what has inspected it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLES = ("models", "datasets")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("condition", sa.Text(), nullable=True))
        op.add_column(table, sa.Column("reader", sa.String(length=200), nullable=True))


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"UPDATE {table} SET state = 'inspecting', attempts = 0 WHERE state = 'failed'")
        op.drop_column(table, "reader")
        op.drop_column(table, "condition")
