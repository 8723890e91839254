"""The tables, without logic. Every row belongs to a tenant."""

from __future__ import annotations

import sqlalchemy as sa

from storage import columns
from storage.columns import created, key, lease, tenant

Utc, metadata = columns.Utc, columns.metadata

tenants = sa.Table(
    "tenants",
    metadata,
    key(),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    created(),
    sa.Column("max_queued_jobs", sa.Integer),  # null: the service's default
    sa.Column("max_stored_bytes", sa.BigInteger),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    key(),
    tenant(),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("secret_sha256", sa.String(64), nullable=False),
    sa.Column("last4", sa.String(4), nullable=False),
    sa.Column("previous_sha256", sa.String(64)),  # the secret before the last rotation, good until `previous_until`
    sa.Column("previous_until", Utc),
    created(),
    sa.Column("expires_at", Utc),
    sa.Column("revoked_at", Utc),
    sa.Column("last_used_at", Utc),
)

blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("tenant_id", sa.String(40), sa.ForeignKey("tenants.id"), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    created(),
)


def _artifact(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        key(),
        tenant(),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("blob", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("value_range", sa.String(100), nullable=False, default=""),
        sa.Column("state", sa.String(20), nullable=False, index=True),
        sa.Column("facts", sa.Text),
        sa.Column("rejection", sa.Text),
        sa.Column("condition", sa.Text),  # why it is inspected again, or why it failed
        sa.Column("reader", sa.String(200)),  # what inspected it, by version; null: not yet, or before this was kept
        created(),
        *lease(),
        sa.UniqueConstraint("tenant_id", "name", "version"),
    )


models = _artifact("models")
datasets = _artifact("datasets")

OPEN_JOB = sa.text("state NOT IN ('failed', 'cancelled')")

jobs = sa.Table(
    "jobs",
    metadata,
    key(),
    tenant(),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("model_id", sa.String(40), sa.ForeignKey("models.id"), nullable=False),
    sa.Column("dataset_id", sa.String(40), sa.ForeignKey("datasets.id"), nullable=False),
    sa.Column("model_digest", sa.String(64), nullable=False),
    sa.Column("dataset_digest", sa.String(64), nullable=False),
    sa.Column("value_range", sa.String(100), nullable=False, default=""),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("spec_digest", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("attempts", sa.Text, nullable=False),
    sa.Column("noise_key", sa.String(64), nullable=False),
    sa.Column("noise_commitment", sa.String(64)),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("plan", sa.Text),
    sa.Column("condition", sa.Text, nullable=False, default=""),
    sa.Column("error", sa.Text),
    sa.Column("report", sa.Text),
    created(),
    sa.Column("started_at", Utc),
    sa.Column("finished_at", Utc),
)
# One living job for each question: asking it again returns the answer that exists (no second throw of the dice).
sa.Index(
    "uq_jobs_living",
    jobs.c.tenant_id,
    jobs.c.model_digest,
    jobs.c.value_range,
    jobs.c.dataset_digest,
    jobs.c.spec_digest,
    unique=True,
    sqlite_where=OPEN_JOB,
    postgresql_where=OPEN_JOB,
)


def _question() -> tuple[sa.Column[str], ...]:
    """Whose and which: a range is no part of it, because it is free to choose and must restart nothing."""
    whose = sa.Column("tenant_id", sa.String(40), sa.ForeignKey("tenants.id"), primary_key=True)
    digests = ("model_digest", "dataset_digest", "spec_digest")
    return (whose, *(sa.Column(name, sa.String(64), primary_key=True) for name in digests))


# Drawn when a question is asked for the first time, never changed and never deleted: no question gets a second throw.
noise_salts = sa.Table("noise_salts", metadata, *_question(), sa.Column("salt", sa.String(64), nullable=False), created())

# Every throw of every certifier that draws noise: the spec that asked for it, its place there, and which throw it was.
throws = sa.Table(
    "throws",
    metadata,
    *_question(),
    sa.Column("ix", sa.Integer, primary_key=True),
    sa.Column("certifier", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.UniqueConstraint("tenant_id", "model_digest", "dataset_digest", "certifier", "attempt"),
)

shards = sa.Table(
    "shards",
    metadata,
    key(),
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), nullable=False),
    tenant(),
    sa.Column("ix", sa.Integer, nullable=False),
    sa.Column("certifier", sa.Integer, nullable=False),
    sa.Column("first", sa.Integer, nullable=False),
    sa.Column("last", sa.Integer, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    *lease(),
    sa.Column("not_before", Utc, nullable=False),
    sa.Column("last_error", sa.Text),
    sa.Column("examples_done", sa.Integer, nullable=False, default=0),
    sa.Column("samples_done", sa.BigInteger, nullable=False, default=0),
    sa.UniqueConstraint("job_id", "ix"),
    sa.Index("ix_shards_state_not_before", "state", "not_before"),
)

certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("certifier", sa.Integer, primary_key=True),
    sa.Column("example", sa.Integer, primary_key=True),
    tenant(),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("statement", sa.String(60), nullable=False),
    sa.Column("norm", sa.String(10), nullable=False),
    sa.Column("label", sa.Integer, nullable=False),
    sa.Column("prediction", sa.Integer),
    sa.Column("correct", sa.Boolean, nullable=False),
    sa.Column("verdict", sa.String(20), nullable=False),
    sa.Column("radius", sa.Double, nullable=False),
    sa.Column("epsilon_verified", sa.Boolean),
    sa.Column("alpha", sa.Double),
    sa.Column("example_digest", sa.String(64)),
    sa.Column("document", sa.Text, nullable=False),
    sa.Index("ix_certificates_tenant_id_example_digest", "tenant_id", "example_digest"),
)

attack_results = sa.Table(
    "attack_results",
    metadata,
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("certifier", sa.Integer, primary_key=True),
    sa.Column("example", sa.Integer, primary_key=True),
    tenant(),
    sa.Column("method", sa.String(40), nullable=False),
    sa.Column("norm", sa.String(10), nullable=False),
    sa.Column("label", sa.Integer, nullable=False),
    sa.Column("prediction", sa.Integer),
    sa.Column("correct", sa.Boolean, nullable=False),
    sa.Column("found", sa.Boolean, nullable=False),
    sa.Column("distance_upper", sa.Double),
    sa.Column("max_radius", sa.Double, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)

ledgers = sa.Table(
    "ledgers",
    metadata,
    key(),
    tenant(),
    sa.Column("model_digest", sa.String(64), nullable=False),
    sa.Column("rule_digest", sa.String(64), nullable=False),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("regions", sa.Integer, nullable=False),  # the number of the newest one
    sa.Column("version", sa.Integer, nullable=False),  # raised by every pass and every revocation
    sa.Column("largest_reach", sa.Double, nullable=False),
    created(),
    sa.UniqueConstraint("tenant_id", "model_digest", "rule_digest"),
)

SHADOW = tuple(f"p{i}" for i in range(8))

regions = sa.Table(
    "regions",
    metadata,
    sa.Column("ledger_id", sa.String(40), sa.ForeignKey("ledgers.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    tenant(),
    sa.Column("version", sa.Integer, nullable=False),  # of the ledger, when it came
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("certifier", sa.Integer, nullable=False),
    sa.Column("example", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("answer", sa.Integer, nullable=False),
    sa.Column("radius", sa.Double, nullable=False),
    sa.Column("sigma", sa.Double, nullable=False),
    sa.Column("alpha", sa.Double, nullable=False),
    sa.Column("reach", sa.Double, nullable=False),
    *(sa.Column(name, sa.Double, nullable=False) for name in SHADOW),
    created(),
    sa.Column("revoked_at", Utc),
    sa.Column("revoked_because", sa.Text),
    sa.Column("centre", sa.LargeBinary, nullable=False),  # last: SQLite reads what is behind it only after it
    sa.UniqueConstraint("job_id", "certifier", "example"),
    sa.Index("ix_regions_ledger_id_shadow", "ledger_id", *SHADOW),  # all coordinates: what is far is left out without its row
)

ledger_passes = sa.Table(
    "ledger_passes",
    metadata,
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("certifier", sa.Integer, primary_key=True),
    tenant(),
    sa.Column("ledger_id", sa.String(40), sa.ForeignKey("ledgers.id"), nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    created(),
)

schedules = sa.Table(
    "schedules",
    metadata,
    key(),
    tenant(),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("cron", sa.String(200), nullable=False),
    sa.Column("zone", sa.String(100), nullable=False),
    sa.Column("template", sa.Text, nullable=False),
    sa.Column("overlap", sa.String(20), nullable=False),
    sa.Column("catch_up", sa.String(20), nullable=False),
    sa.Column("deadline_seconds", sa.Integer),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("next_at", Utc, index=True),  # the first tick not decided yet; null while paused
    sa.Column("revision", sa.Integer, nullable=False),
    created(),
    sa.Column("updated_at", Utc, nullable=False),
    sa.UniqueConstraint("tenant_id", "name"),
)

schedule_runs = sa.Table(
    "schedule_runs",
    metadata,
    key(),
    tenant(),
    sa.Column("schedule_id", sa.String(40), sa.ForeignKey("schedules.id", ondelete="CASCADE"), nullable=False),
    sa.Column("scheduled_for", Utc, nullable=False),
    sa.Column("manual", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), index=True),
    sa.Column("reused", sa.Boolean, nullable=False, default=False),
    created(),
    sa.UniqueConstraint("schedule_id", "scheduled_for", "manual"),  # exactly one run for each tick, whoever fires it
)

gates = sa.Table(
    "gates",
    metadata,
    key(),
    tenant(),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("schedule_id", sa.String(40), sa.ForeignKey("schedules.id", ondelete="CASCADE"), index=True),
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), index=True),
    sa.Column("pinned_job_id", sa.String(40), sa.ForeignKey("jobs.id")),  # the baseline `pinned`; null: the first run judged
    created(),
)

gate_outcomes = sa.Table(
    "gate_outcomes",
    metadata,
    key(),
    tenant(),
    sa.Column("gate_id", sa.String(40), sa.ForeignKey("gates.id", ondelete="CASCADE"), nullable=False),
    sa.Column("subject", sa.String(40), nullable=False),  # the schedule run or, for a gate on a job, the job
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), nullable=False, index=True),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    created(),
    sa.UniqueConstraint("gate_id", "subject"),
)

webhooks = sa.Table(
    "webhooks",
    metadata,
    key(),
    tenant(),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("secret", sa.String(100), nullable=False),  # kept, since every delivery is signed with it
    sa.Column("events", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    created(),
)

outbox = sa.Table(
    "outbox",
    metadata,
    key(),
    tenant(),
    sa.Column("webhook_id", sa.String(40), sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    sa.Column("about", sa.String(100), nullable=False),  # what happened, once: `gate.failed:out_...`
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    *lease(),
    sa.Column("not_before", Utc, nullable=False),
    sa.Column("last_error", sa.Text),
    created(),
    sa.Column("delivered_at", Utc),
    sa.UniqueConstraint("webhook_id", "about"),
    sa.Index("ix_outbox_state_not_before", "state", "not_before"),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("tenant_id", sa.String(40), sa.ForeignKey("tenants.id"), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("request_sha256", sa.String(64), nullable=False),
    sa.Column("status", sa.Integer),  # null while the first request is still at work
    sa.Column("headers", sa.Text),
    sa.Column("body", sa.Text),
    sa.Column("created_at", Utc, nullable=False, index=True),
)

upload_parts = sa.Table(
    "upload_parts",
    metadata,
    sa.Column("tenant_id", sa.String(40), sa.ForeignKey("tenants.id"), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True),
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("created_at", Utc, nullable=False, index=True),
)

job_events = sa.Table(
    "job_events",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    tenant(),
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), nullable=False, index=True),
    sa.Column("event", sa.String(40), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    created(),
)

audit_log = sa.Table(
    "audit_log",
    metadata,
    key(),
    tenant(),
    sa.Column("key_id", sa.String(40)),  # null: the command line of the server
    sa.Column("action", sa.String(60), nullable=False),
    sa.Column("target", sa.String(100), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("request_id", sa.String(40), nullable=False),
    created(),
)
