"""Ledgers of certified regions, and which job has gone through them."""

import sqlalchemy as sa
from alembic import op

from storage import tables

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ledgers",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("rule_digest", sa.String(length=64), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("regions", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("largest_reach", sa.Double(), nullable=False),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_ledgers_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledgers")),
        sa.UniqueConstraint("tenant_id", "model_digest", "rule_digest", name=op.f("uq_ledgers_tenant_id_model_digest_rule_digest")),
    )
    op.create_index(op.f("ix_ledgers_tenant_id"), "ledgers", ["tenant_id"], unique=False)
    op.create_table(
        "regions",
        sa.Column("ledger_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("certifier", sa.Integer(), nullable=False),
        sa.Column("example", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.Integer(), nullable=False),
        sa.Column("radius", sa.Double(), nullable=False),
        sa.Column("sigma", sa.Double(), nullable=False),
        sa.Column("alpha", sa.Double(), nullable=False),
        sa.Column("reach", sa.Double(), nullable=False),
        *(sa.Column(f"p{i}", sa.Double(), nullable=False) for i in range(8)),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.Column("revoked_at", tables.Utc(timezone=True), nullable=True),
        sa.Column("revoked_because", sa.Text(), nullable=True),
        sa.Column("centre", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_regions_job_id")),
        sa.ForeignKeyConstraint(["ledger_id"], ["ledgers.id"], name=op.f("fk_regions_ledger_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_regions_tenant_id")),
        sa.PrimaryKeyConstraint("ledger_id", "number", name=op.f("pk_regions")),
        sa.UniqueConstraint("job_id", "certifier", "example", name=op.f("uq_regions_job_id_certifier_example")),
    )
    op.create_index("ix_regions_ledger_id_shadow", "regions", ["ledger_id", *(f"p{i}" for i in range(8))], unique=False)
    op.create_index(op.f("ix_regions_tenant_id"), "regions", ["tenant_id"], unique=False)
    op.create_table(
        "ledger_passes",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("certifier", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("ledger_id", sa.String(length=40), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_ledger_passes_job_id")),
        sa.ForeignKeyConstraint(["ledger_id"], ["ledgers.id"], name=op.f("fk_ledger_passes_ledger_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_ledger_passes_tenant_id")),
        sa.PrimaryKeyConstraint("job_id", "certifier", name=op.f("pk_ledger_passes")),
    )
    op.create_index(op.f("ix_ledger_passes_ledger_id"), "ledger_passes", ["ledger_id"], unique=False)
    op.create_index(op.f("ix_ledger_passes_tenant_id"), "ledger_passes", ["tenant_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_ledger_passes_tenant_id"), table_name="ledger_passes")
    op.drop_index(op.f("ix_ledger_passes_ledger_id"), table_name="ledger_passes")
    op.drop_table("ledger_passes")
    op.drop_index(op.f("ix_regions_tenant_id"), table_name="regions")
    op.drop_index("ix_regions_ledger_id_shadow", table_name="regions")
    op.drop_table("regions")
    op.drop_index(op.f("ix_ledgers_tenant_id"), table_name="ledgers")
    op.drop_table("ledgers")
