"""What happened to a job, in order: written with each change of its state, in the same transaction, and read by who watches it.

Whoever writes an event has the job's row locked, so the events of one job are numbered as they are committed, and a reader who goes on
behind the last one it saw misses none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from storage.database import Database
from storage.errors import NotFound
from storage.progress import progress
from storage.records import JobState, Progress
from storage.scoped import owned
from storage.tables import job_events, jobs

Name = Literal["queued", "running", "condition", "cancelling", "finalizing", "ended"]
_AT_ONCE = 500
# Not the report, which is large.
_SEEN = tuple(jobs.c[name] for name in ("id", "tenant_id", "state", "condition", "dataset_id", "spec", "started_at", "finished_at"))


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """`seq` grows with every event of a job; `body` is JSON."""

    seq: int
    event: str
    body: str


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A job as it is now, and its events behind the last one seen. `more`: there are others behind these."""

    state: JobState
    condition: str
    progress: Progress
    events: tuple[JobEvent, ...]
    more: bool


def record(connection: sa.Connection, tenant_id: str, job_id: str, event: Name, now: datetime, **said: Any) -> None:
    """Note what happened, in the transaction that makes it so; the caller holds the job's row."""
    body = {"job": job_id, "at": now.isoformat(), **said}
    values = {"tenant_id": tenant_id, "job_id": job_id, "event": event, "body": json.dumps(body), "created_at": now}
    connection.execute(sa.insert(job_events).values(values))


def watch(db: Database, tenant_id: str, job_id: str, after: int = 0) -> Watched:
    """One look at a job.

    Raises:
        NotFound: there is none.
    """
    mine = owned(job_events, tenant_id) & (job_events.c.job_id == job_id) & (job_events.c.seq > after)
    columns = (job_events.c.seq, job_events.c.event, job_events.c.body)
    with db.read() as connection:
        # The state first: an event that comes between the two statements is read with an older state, never the other way round.
        row = connection.execute(sa.select(*_SEEN).where(owned(jobs, tenant_id) & (jobs.c.id == job_id))).mappings().first()
        if row is None:
            raise NotFound.at("job", f"there is no job {job_id}", "list them with GET /v1/jobs")
        found = connection.execute(sa.select(*columns).where(mine).order_by(job_events.c.seq).limit(_AT_ONCE)).all()
        return Watched(
            state=JobState(row["state"]),
            condition=row["condition"],
            progress=progress(connection, row, db.now(connection), by_verdict=True),
            events=tuple(JobEvent(seq=e.seq, event=e.event, body=e.body) for e in found),
            more=len(found) == _AT_ONCE,
        )
