"""Salts of noise keys, and the throws of every certifier; jobs that were there keep their keys and are counted."""

import hashlib
import json
from collections import Counter

import sqlalchemy as sa
from alembic import op

from storage import tables

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_DIGESTS = ("model_digest", "dataset_digest", "spec_digest")
_NOISY = {"smoothing", "instance-smoothing", "latent-smoothing", "predict", "dual-predict", "memory-predict"}
# What `certify.attempts` left out when this was written.
_EFFORT = {
    "alpha",
    "batch_size",
    "bound",
    "calibrated_on",
    "error_rate",
    "ledger",
    "looks",
    "n",
    "n0",
    "norm",
    "precision",
    "radii",
    "sampling",
    "search",
    "tolerance",
    "version",
}


def upgrade() -> None:
    op.create_table(
        "noise_salts",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        *(sa.Column(name, sa.String(length=64), nullable=False) for name in _DIGESTS),
        sa.Column("salt", sa.String(length=64), nullable=False),
        sa.Column("created_at", tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_noise_salts_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", *_DIGESTS, name=op.f("pk_noise_salts")),
    )
    op.create_table(
        "throws",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        *(sa.Column(name, sa.String(length=64), nullable=False) for name in _DIGESTS),
        sa.Column("ix", sa.Integer(), nullable=False),
        sa.Column("certifier", sa.String(length=64), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_throws_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", *_DIGESTS, "ix", name=op.f("pk_throws")),
        sa.UniqueConstraint(
            "tenant_id",
            "model_digest",
            "dataset_digest",
            "certifier",
            "attempt",
            name=op.f("uq_throws_tenant_id_model_digest_dataset_digest_certifier_attempt"),
        ),
    )
    op.add_column("jobs", sa.Column("attempts", sa.Text(), nullable=False, server_default="[]"))
    _count(op.get_bind())


def downgrade() -> None:
    op.drop_column("jobs", "attempts")
    op.drop_table("throws")
    op.drop_table("noise_salts")


def _count(connection: sa.Connection) -> None:
    """The throws of the jobs that are there, in the order in which they were asked for."""
    names = ("id", "tenant_id", *_DIGESTS, "spec", "attempts")
    jobs = sa.table("jobs", *(sa.column(name) for name in names))
    throws = sa.table("throws", *(sa.column(name) for name in ("tenant_id", *_DIGESTS, "ix", "certifier", "attempt")))
    seen: Counter[tuple[str, ...]] = Counter()
    numbers: dict[tuple[str, ...], list[int | None]] = {}
    for row in connection.execute(sa.select(jobs).order_by(jobs.c.id)).mappings().all():
        question = (row["tenant_id"], *(row[name] for name in _DIGESTS))
        if question not in numbers:
            numbers[question] = []
            for index, certifier in enumerate(json.loads(row["spec"])["certifiers"]):
                if certifier["kind"] not in _NOISY:
                    numbers[question].append(None)
                    continue
                tried = _tried_as(certifier)
                seen[(*question[:3], tried)] += 1
                number = seen[(*question[:3], tried)]
                numbers[question].append(number)
                values = dict(zip(("tenant_id", *_DIGESTS), question, strict=True))
                connection.execute(sa.insert(throws).values(**values, ix=index, certifier=tried, attempt=number))
        connection.execute(sa.update(jobs).where(jobs.c.id == row["id"]).values(attempts=json.dumps(numbers[question])))


def _tried_as(certifier: object) -> str:
    text = json.dumps(_without_effort(certifier), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_effort(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_effort(one) for name, one in value.items() if name not in _EFFORT}
    return value
