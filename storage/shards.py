"""Shards: leased, kept alive, finished. The epoch fences off every earlier holder; a stale worker writes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from certify.certificate import Certificate
from certify.errors import Problem
from certify.facts import DatasetFacts
from certify.findings import AttackResult
from certify.run import Plan
from certify.spec import parse_spec
from storage import events
from storage.catalog import dump_problems, read_range
from storage.database import Database, held, locked
from storage.errors import LostLease
from storage.records import JobState, LeaseStatus, ShardLease, ShardState
from storage.results import insert
from storage.tables import datasets, jobs, shards

MAX_ATTEMPTS = 3
_BACKOFF = timedelta(seconds=2)


def lease_shard(db: Database, worker: str, ttl: float) -> ShardLease | None:
    """The right to answer the oldest free shard for `ttl` seconds; null when none is free.

    A shard whose holder went silent is free again; one that failed too often ends as failed and fails its job.
    """
    with db.begin() as connection:
        while (row := _free(connection, db)) is not None:
            now = db.now(connection)
            mine = sa.update(shards).where(shards.c.id == row["id"])
            if row["attempts"] >= MAX_ATTEMPTS:
                why = Problem(
                    field=f"certifiers.{row['certifier']}",
                    detail=f"the worker died {MAX_ATTEMPTS} times on examples {row['first']} to {row['last']}",
                    mend="choose a cheaper method or a smaller model, or give the worker more memory",
                )
                connection.execute(mine.values(state=ShardState.FAILED, last_error=dump_problems([why])))
                _after(db, connection, row["job_id"], why)
                continue
            values = {
                "state": ShardState.LEASED,
                "lease_owner": worker,
                "lease_until": now + timedelta(seconds=ttl),
                "epoch": row["epoch"] + 1,
                "attempts": row["attempts"] + 1,
                "examples_done": 0,
                "samples_done": 0,
            }
            connection.execute(mine.values(**values))
            job = connection.execute(sa.select(jobs).where(jobs.c.id == row["job_id"])).mappings().one()
            return _lease({**row, **values}, job)
    return None


def heartbeat(db: Database, lease: ShardLease, ttl: float, *, examples_done: int, samples_done: int) -> LeaseStatus:
    """Keep a lease and report progress; says whether the job is to stop.

    Raises:
        LostLease: another worker holds the shard.
    """
    with db.begin() as connection:
        until = db.now(connection) + timedelta(seconds=ttl)
        _mine(connection, lease, lease_until=until, examples_done=examples_done, samples_done=samples_done)
        state = connection.execute(sa.select(jobs.c.state).where(jobs.c.id == lease.job_id)).scalar_one()
        return LeaseStatus(cancel_requested=state == JobState.CANCELLING)


def finish_shard(db: Database, lease: ShardLease, findings: Sequence[Certificate | AttackResult]) -> None:
    """Store the certificates or attack results of a shard and end it, in one transaction.

    Raises:
        LostLease: another worker holds the shard; nothing was stored.
        ValueError: they are not exactly those of the shard; nothing was stored.
    """
    with db.begin() as connection:
        _check_complete(connection, lease, findings)
        _mine(connection, lease, state=ShardState.DONE, lease_until=None)
        insert(connection, lease.tenant_id, lease.job_id, findings)
        _after(db, connection, lease.job_id)


def fail_shard(db: Database, lease: ShardLease, problems: Sequence[Problem], *, retry: bool) -> None:
    """A shard went wrong: try it again later with the same streams, or end it as failed. The job's other shards go on.

    Raises:
        LostLease: another worker holds the shard.
    """
    with db.begin() as connection:
        error = dump_problems(problems)
        if retry and lease.attempts < MAX_ATTEMPTS:
            later = db.now(connection) + _BACKOFF * 2 ** (lease.attempts - 1)
            _mine(connection, lease, state=ShardState.QUEUED, lease_until=None, not_before=later, last_error=error)
        else:
            _mine(connection, lease, state=ShardState.FAILED, lease_until=None, last_error=error)
        _after(db, connection, lease.job_id, *problems)


def cancel_shard(db: Database, lease: ShardLease) -> None:
    """A running shard was stopped because its job was cancelled; nothing partial is kept."""
    with db.begin() as connection:
        _mine(connection, lease, state=ShardState.CANCELLED, lease_until=None)


def release_shard(db: Database, lease: ShardLease) -> None:
    """Give a shard back unanswered, as on a graceful stop; the attempt does not count."""
    with db.begin() as connection:
        _mine(connection, lease, state=ShardState.QUEUED, lease_until=None, attempts=lease.attempts - 1)
        _after(db, connection, lease.job_id)


def _free(connection: sa.Connection, db: Database) -> dict[str, Any] | None:
    now = db.now(connection)
    waiting = (shards.c.state == ShardState.QUEUED) & (shards.c.not_before <= now)
    silent = (shards.c.state == ShardState.LEASED) & (shards.c.lease_until < now)
    wanted = (jobs.c.id == shards.c.job_id) & (jobs.c.state == JobState.RUNNING)
    query = sa.select(shards).join(jobs, wanted).where(waiting | silent).order_by(shards.c.job_id, shards.c.ix).limit(1)
    row = connection.execute(locked(query, of=shards)).mappings().first()
    return dict(row) if row else None


def _mine(connection: sa.Connection, lease: ShardLease, **values: Any) -> None:
    own = (shards.c.id == lease.id) & (shards.c.epoch == lease.epoch) & (shards.c.state == ShardState.LEASED)
    if connection.execute(sa.update(shards).where(own).values(**values)).rowcount != 1:
        raise LostLease


def _check_complete(connection: sa.Connection, lease: ShardLease, findings: Sequence[Certificate | AttackResult]) -> None:
    # A job that says `succeeded` over missing or foreign rows would be a false report, whatever the worker did to cause it.
    dataset = sa.select(datasets.c.facts).join(jobs, jobs.c.dataset_id == datasets.c.id).where(jobs.c.id == lease.job_id)
    count = DatasetFacts.model_validate_json(connection.execute(dataset).scalar_one()).count
    due = [(lease.certifier, example) for example in lease.spec.examples.indices(count)[lease.first : lease.last]]
    if sorted((row.certifier, row.example) for row in findings) != due:
        raise ValueError(
            f"shard {lease.id} needs the certificates or attack results of its {len(due)} examples, each once; got {len(findings)}"
        )
    # The other table would hide them from whoever reads one kind only.
    kind = lease.spec.certifiers[lease.certifier].kind
    if any(row.kind != kind for row in findings):
        raise ValueError(f"shard {lease.id} needs results of kind {kind}")


def _after(db: Database, connection: sa.Connection, job_id: str, *problems: Problem) -> None:
    """What a change of a shard means for its job: errors are kept, and the last shard hands the job on to the report."""
    job = connection.execute(held(sa.select(jobs).where(jobs.c.id == job_id))).mappings().one()
    in_job = shards.c.job_id == job_id
    if job["state"] == JobState.CANCELLING:
        connection.execute(sa.update(shards).where(in_job & (shards.c.state == ShardState.QUEUED)).values(state=ShardState.CANCELLED))
        return
    failed = connection.execute(sa.select(shards.c.id).where(in_job & (shards.c.state == ShardState.FAILED)).limit(1)).first()
    if problems and failed:
        connection.execute(sa.update(jobs).where((jobs.c.id == job_id) & jobs.c.error.is_(None)).values(error=dump_problems(problems)))
    left = connection.execute(
        sa.select(shards.c.id).where(in_job & shards.c.state.in_((ShardState.QUEUED, ShardState.LEASED))).limit(1)
    ).first()
    if left is None:
        open_job = (jobs.c.id == job_id) & (jobs.c.state == JobState.RUNNING)
        if connection.execute(sa.update(jobs).where(open_job).values(state=JobState.FINALIZING, condition="")).rowcount:
            events.record(connection, job["tenant_id"], job_id, "finalizing", db.now(connection), state=JobState.FINALIZING)


def _lease(row: dict[str, Any], job: Any) -> ShardLease:
    return ShardLease(
        **{name: row[name] for name in ("id", "job_id", "tenant_id", "ix", "certifier", "first", "last", "epoch", "attempts")},
        model_digest=job["model_digest"],
        dataset_digest=job["dataset_digest"],
        value_range=read_range(job["value_range"]),
        spec=parse_spec(job["spec"]),
        noise_key=bytes.fromhex(job["noise_key"]),
        attempt=json.loads(job["attempts"])[row["certifier"]] or 1,
        plan=Plan.model_validate_json(job["plan"]),
    )
