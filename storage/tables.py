"""The tables, without logic. Every row belongs to a tenant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa


class Utc(sa.types.TypeDecorator[datetime]):
    """A moment, always UTC and aware; SQLite stores no zone, so it is put back on the way out."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC).replace(tzinfo=None) if dialect.name == "sqlite" else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> sa.Column[str]:
    return sa.Column("id", sa.String(40), primary_key=True)


def _tenant() -> sa.Column[str]:
    return sa.Column("tenant_id", sa.String(40), sa.ForeignKey("tenants.id"), nullable=False, index=True)


def _created() -> sa.Column[datetime]:
    return sa.Column("created_at", Utc, nullable=False)


def _lease() -> list[sa.Column[Any]]:
    return [
        sa.Column("lease_owner", sa.String(200)),
        sa.Column("lease_until", Utc),
        sa.Column("epoch", sa.Integer, nullable=False, default=0),
        sa.Column("attempts", sa.Integer, nullable=False, default=0),
    ]


tenants = sa.Table(
    "tenants",
    metadata,
    _id(),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    _created(),
    sa.Column("max_queued_jobs", sa.Integer),  # null: the service's default
    sa.Column("max_stored_bytes", sa.BigInteger),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    _id(),
    _tenant(),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("secret_sha256", sa.String(64), nullable=False),
    sa.Column("last4", sa.String(4), nullable=False),
    sa.Column("previous_sha256", sa.String(64)),  # the secret before the last rotation, good until `previous_until`
    sa.Column("previous_until", Utc),
    _created(),
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
    _created(),
)


def _artifact(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        _id(),
        _tenant(),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("blob", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("value_range", sa.String(100), nullable=False, default=""),
        sa.Column("state", sa.String(20), nullable=False, index=True),
        sa.Column("facts", sa.Text),
        sa.Column("rejection", sa.Text),
        _created(),
        *_lease(),
        sa.UniqueConstraint("tenant_id", "name", "version"),
    )


models = _artifact("models")
datasets = _artifact("datasets")

OPEN_JOB = sa.text("state NOT IN ('failed', 'cancelled')")

jobs = sa.Table(
    "jobs",
    metadata,
    _id(),
    _tenant(),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("model_id", sa.String(40), sa.ForeignKey("models.id"), nullable=False),
    sa.Column("dataset_id", sa.String(40), sa.ForeignKey("datasets.id"), nullable=False),
    sa.Column("model_digest", sa.String(64), nullable=False),
    sa.Column("dataset_digest", sa.String(64), nullable=False),
    sa.Column("value_range", sa.String(100), nullable=False, default=""),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("spec_digest", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("noise_key", sa.String(64), nullable=False),
    sa.Column("noise_commitment", sa.String(64)),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("plan", sa.Text),
    sa.Column("condition", sa.Text, nullable=False, default=""),
    sa.Column("error", sa.Text),
    sa.Column("report", sa.Text),
    _created(),
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

shards = sa.Table(
    "shards",
    metadata,
    _id(),
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), nullable=False),
    _tenant(),
    sa.Column("ix", sa.Integer, nullable=False),
    sa.Column("certifier", sa.Integer, nullable=False),
    sa.Column("first", sa.Integer, nullable=False),
    sa.Column("last", sa.Integer, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    *_lease(),
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
    _tenant(),
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
    _tenant(),
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

schedules = sa.Table(
    "schedules",
    metadata,
    _id(),
    _tenant(),
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
    _created(),
    sa.Column("updated_at", Utc, nullable=False),
    sa.UniqueConstraint("tenant_id", "name"),
)

schedule_runs = sa.Table(
    "schedule_runs",
    metadata,
    _id(),
    _tenant(),
    sa.Column("schedule_id", sa.String(40), sa.ForeignKey("schedules.id", ondelete="CASCADE"), nullable=False),
    sa.Column("scheduled_for", Utc, nullable=False),
    sa.Column("manual", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), index=True),
    sa.Column("reused", sa.Boolean, nullable=False, default=False),
    _created(),
    sa.UniqueConstraint("schedule_id", "scheduled_for", "manual"),  # exactly one run for each tick, whoever fires it
)

gates = sa.Table(
    "gates",
    metadata,
    _id(),
    _tenant(),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("schedule_id", sa.String(40), sa.ForeignKey("schedules.id", ondelete="CASCADE"), index=True),
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), index=True),
    sa.Column("pinned_job_id", sa.String(40), sa.ForeignKey("jobs.id")),  # the baseline `pinned`; null: the first run judged
    _created(),
)

gate_outcomes = sa.Table(
    "gate_outcomes",
    metadata,
    _id(),
    _tenant(),
    sa.Column("gate_id", sa.String(40), sa.ForeignKey("gates.id", ondelete="CASCADE"), nullable=False),
    sa.Column("subject", sa.String(40), nullable=False),  # the schedule run or, for a gate on a job, the job
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), nullable=False, index=True),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    _created(),
    sa.UniqueConstraint("gate_id", "subject"),
)

webhooks = sa.Table(
    "webhooks",
    metadata,
    _id(),
    _tenant(),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("secret", sa.String(100), nullable=False),  # kept, since every delivery is signed with it
    sa.Column("events", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    _created(),
)

outbox = sa.Table(
    "outbox",
    metadata,
    _id(),
    _tenant(),
    sa.Column("webhook_id", sa.String(40), sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    sa.Column("about", sa.String(100), nullable=False),  # what happened, once: `gate.failed:out_...`
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    *_lease(),
    sa.Column("not_before", Utc, nullable=False),
    sa.Column("last_error", sa.Text),
    _created(),
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
    _tenant(),
    sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), nullable=False, index=True),
    sa.Column("event", sa.String(40), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    _created(),
)

audit_log = sa.Table(
    "audit_log",
    metadata,
    _id(),
    _tenant(),
    sa.Column("key_id", sa.String(40)),  # null: the command line of the server
    sa.Column("action", sa.String(60), nullable=False),
    sa.Column("target", sa.String(100), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("request_id", sa.String(40), nullable=False),
    _created(),
)
