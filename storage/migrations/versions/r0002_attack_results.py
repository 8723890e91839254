"""Results of attacks, in a table of their own: they are never certificates."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attack_results",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("certifier", sa.Integer(), nullable=False),
        sa.Column("example", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("method", sa.String(length=40), nullable=False),
        sa.Column("norm", sa.String(length=10), nullable=False),
        sa.Column("label", sa.Integer(), nullable=False),
        sa.Column("prediction", sa.Integer(), nullable=True),
        sa.Column("correct", sa.Boolean(), nullable=False),
        sa.Column("found", sa.Boolean(), nullable=False),
        sa.Column("distance_upper", sa.Double(), nullable=True),
        sa.Column("max_radius", sa.Double(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attack_results_job_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_attack_results_tenant_id")),
        sa.PrimaryKeyConstraint("job_id", "certifier", "example", name=op.f("pk_attack_results")),
    )
    op.create_index(op.f("ix_attack_results_tenant_id"), "attack_results", ["tenant_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_attack_results_tenant_id"), table_name="attack_results")
    op.drop_table("attack_results")
