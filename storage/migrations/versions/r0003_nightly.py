"""Nightly certification: schedules, gates, webhooks, idempotent requests, resumable uploads, events and the audit log."""

import sqlalchemy as sa
from alembic import op

from storage import tables

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=True),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("target", sa.String(length=100), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_audit_log_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index(op.f("ix_audit_log_tenant_id"), "audit_log", ["tenant_id"], unique=False)
    op.create_table(
        "idempotency",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_idempotency_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_idempotency")),
    )
    op.create_index(op.f("ix_idempotency_created_at"), "idempotency", ["created_at"], unique=False)
    op.create_table(
        "schedules",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("cron", sa.String(length=200), nullable=False),
        sa.Column("zone", sa.String(length=100), nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("overlap", sa.String(length=20), nullable=False),
        sa.Column("catch_up", sa.String(length=20), nullable=False),
        sa.Column("deadline_seconds", sa.Integer(), nullable=True),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("next_at", tables.Utc(timezone=True), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.Column("updated_at", tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_schedules_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
        sa.UniqueConstraint("tenant_id", "name", name=op.f("uq_schedules_tenant_id_name")),
    )
    op.create_index(op.f("ix_schedules_next_at"), "schedules", ["next_at"], unique=False)
    op.create_index(op.f("ix_schedules_tenant_id"), "schedules", ["tenant_id"], unique=False)
    op.create_table(
        "upload_parts",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_upload_parts_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "sha256", "first", name=op.f("pk_upload_parts")),
    )
    op.create_index(op.f("ix_upload_parts_created_at"), "upload_parts", ["created_at"], unique=False)
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(length=100), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_webhooks_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_tenant_id"), "webhooks", ["tenant_id"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("webhook_id", sa.String(length=40), nullable=False),
        sa.Column("about", sa.String(length=100), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("lease_owner", sa.String(length=200), nullable=True),
        sa.Column("lease_until", tables.Utc(timezone=True), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", tables.Utc(timezone=True), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.Column("delivered_at", tables.Utc(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_outbox_tenant_id")),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name=op.f("fk_outbox_webhook_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("webhook_id", "about", name=op.f("uq_outbox_webhook_id_about")),
    )
    op.create_index("ix_outbox_state_not_before", "outbox", ["state", "not_before"], unique=False)
    op.create_index(op.f("ix_outbox_tenant_id"), "outbox", ["tenant_id"], unique=False)
    op.create_table(
        "gates",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("schedule_id", sa.String(length=40), nullable=True),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("pinned_job_id", sa.String(length=40), nullable=True),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_gates_job_id")),
        sa.ForeignKeyConstraint(["pinned_job_id"], ["jobs.id"], name=op.f("fk_gates_pinned_job_id")),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedules.id"], name=op.f("fk_gates_schedule_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_gates_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gates")),
    )
    op.create_index(op.f("ix_gates_job_id"), "gates", ["job_id"], unique=False)
    op.create_index(op.f("ix_gates_schedule_id"), "gates", ["schedule_id"], unique=False)
    op.create_index(op.f("ix_gates_tenant_id"), "gates", ["tenant_id"], unique=False)
    op.create_table(
        "job_events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("event", sa.String(length=40), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_job_events_tenant_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_job_events")),
    )
    op.create_index(op.f("ix_job_events_job_id"), "job_events", ["job_id"], unique=False)
    op.create_index(op.f("ix_job_events_tenant_id"), "job_events", ["tenant_id"], unique=False)
    op.create_table(
        "schedule_runs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("schedule_id", sa.String(length=40), nullable=False),
        sa.Column("scheduled_for", tables.Utc(timezone=True), nullable=False),
        sa.Column("manual", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("reused", sa.Boolean(), nullable=False),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_schedule_runs_job_id")),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedules.id"], name=op.f("fk_schedule_runs_schedule_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_schedule_runs_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedule_runs")),
        sa.UniqueConstraint("schedule_id", "scheduled_for", "manual", name=op.f("uq_schedule_runs_schedule_id_scheduled_for_manual")),
    )
    op.create_index(op.f("ix_schedule_runs_job_id"), "schedule_runs", ["job_id"], unique=False)
    op.create_index(op.f("ix_schedule_runs_state"), "schedule_runs", ["state"], unique=False)
    op.create_index(op.f("ix_schedule_runs_tenant_id"), "schedule_runs", ["tenant_id"], unique=False)
    op.create_table(
        "gate_outcomes",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("gate_id", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=40), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["gate_id"], ["gates.id"], name=op.f("fk_gate_outcomes_gate_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_gate_outcomes_job_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_gate_outcomes_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gate_outcomes")),
        sa.UniqueConstraint("gate_id", "subject", name=op.f("uq_gate_outcomes_gate_id_subject")),
    )
    op.create_index(op.f("ix_gate_outcomes_job_id"), "gate_outcomes", ["job_id"], unique=False)
    op.create_index(op.f("ix_gate_outcomes_tenant_id"), "gate_outcomes", ["tenant_id"], unique=False)
    op.add_column("tenants", sa.Column("max_queued_jobs", sa.Integer(), nullable=True))
    op.add_column("tenants", sa.Column("max_stored_bytes", sa.BigInteger(), nullable=True))
    op.add_column("api_keys", sa.Column("previous_sha256", sa.String(length=64), nullable=True))
    op.add_column("api_keys", sa.Column("previous_until", tables.Utc(timezone=True), nullable=True))
    for statement in _append_only("audit_log", op.get_bind().dialect.name):
        op.execute(statement)
    op.add_column("certificates", sa.Column("example_digest", sa.String(length=64), nullable=True))
    op.create_index("ix_certificates_tenant_id_example_digest", "certificates", ["tenant_id", "example_digest"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_certificates_tenant_id_example_digest", table_name="certificates")
    op.drop_column("certificates", "example_digest")
    op.drop_column("api_keys", "previous_until")
    op.drop_column("api_keys", "previous_sha256")
    op.drop_column("tenants", "max_stored_bytes")
    op.drop_column("tenants", "max_queued_jobs")
    op.drop_index(op.f("ix_gate_outcomes_tenant_id"), table_name="gate_outcomes")
    op.drop_index(op.f("ix_gate_outcomes_job_id"), table_name="gate_outcomes")
    op.drop_table("gate_outcomes")
    op.drop_index(op.f("ix_schedule_runs_tenant_id"), table_name="schedule_runs")
    op.drop_index(op.f("ix_schedule_runs_state"), table_name="schedule_runs")
    op.drop_index(op.f("ix_schedule_runs_job_id"), table_name="schedule_runs")
    op.drop_table("schedule_runs")
    op.drop_index(op.f("ix_job_events_tenant_id"), table_name="job_events")
    op.drop_index(op.f("ix_job_events_job_id"), table_name="job_events")
    op.drop_table("job_events")
    op.drop_index(op.f("ix_gates_tenant_id"), table_name="gates")
    op.drop_index(op.f("ix_gates_schedule_id"), table_name="gates")
    op.drop_index(op.f("ix_gates_job_id"), table_name="gates")
    op.drop_table("gates")
    op.drop_index(op.f("ix_outbox_tenant_id"), table_name="outbox")
    op.drop_index("ix_outbox_state_not_before", table_name="outbox")
    op.drop_table("outbox")
    op.drop_index(op.f("ix_webhooks_tenant_id"), table_name="webhooks")
    op.drop_table("webhooks")
    op.drop_index(op.f("ix_upload_parts_created_at"), table_name="upload_parts")
    op.drop_table("upload_parts")
    op.drop_index(op.f("ix_schedules_tenant_id"), table_name="schedules")
    op.drop_index(op.f("ix_schedules_next_at"), table_name="schedules")
    op.drop_table("schedules")
    op.drop_index(op.f("ix_idempotency_created_at"), table_name="idempotency")
    op.drop_table("idempotency")
    op.drop_index(op.f("ix_audit_log_tenant_id"), table_name="audit_log")
    op.drop_table("audit_log")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_log_refuse()")


def _append_only(table: str, dialect: str) -> list[str]:
    """Triggers that refuse to change or delete a row; they go when the table goes."""
    if dialect == "sqlite":
        refuse = f"SELECT RAISE(ABORT, '{table} is append-only')"
        return [f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} BEGIN {refuse}; END" for verb in ("update", "delete")]
    return [
        f"CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} is append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$",
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_refuse()",
        f"CREATE TRIGGER {table}_keep BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse()",
    ]
