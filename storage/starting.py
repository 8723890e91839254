"""What becomes of one tick: the overlap policy says whether it may start, the queue whether it gets a job or has one already.

Everything here happens inside the transaction that decides the tick. See `firing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
import structlog

from certify.errors import AssayError
from storage import audit
from storage.errors import Busy, NotReady
from storage.jobs import cancel_job, submit_job
from storage.quotas import DEFAULT, Quota
from storage.records import Actor, Job, JobState
from storage.records_schedules import Overlap, RunState, ScheduleRun
from storage.schedule_runs import run_of
from storage.scoped import owned
from storage.tables import jobs, schedule_runs
from storage.templates import read_template, versions
from storage.ticks import told

log = structlog.get_logger()

AWAY = (Busy, sa.exc.OperationalError, sa.exc.InterfaceError)  # the database, not the schedule
_OPEN = (JobState.QUEUED, JobState.RUNNING, JobState.FINALIZING, JobState.CANCELLING)


@dataclass(frozen=True, kw_only=True)
class Means:
    """With what a tick submits its job."""

    secret: bytes
    quota: Quota = DEFAULT
    by: Actor = audit.SERVER


class Outcome(NamedTuple):
    state: RunState
    reason: str
    job_id: str | None = None


class _Unchanged(Exception):
    """The job that would be cancelled is the one that is asked for."""


def conclude(connection: sa.Connection, run: Any, outcome: Outcome) -> ScheduleRun:
    """Write what became of a run into its row."""
    values = {**outcome._asdict(), "reused": outcome.state is RunState.REUSED}
    mine = owned(schedule_runs, run["tenant_id"]) & (schedule_runs.c.id == run["id"])
    connection.execute(sa.update(schedule_runs).where(mine).values(**values))
    return run_of({**run, **values})


def start(connection: sa.Connection, now: datetime, schedule: Any, run_id: str, means: Means) -> Outcome:
    """What becomes of a tick that is due; `schedule` is the locked row, `run_id` the tick's own run."""
    return _after_waiting(connection, schedule, run_id) or restart(connection, now, schedule, means)


def restart(connection: sa.Connection, now: datetime, schedule: Any, means: Means) -> Outcome:
    """What becomes of a tick that waited for its turn."""
    return _behind(connection, schedule) or _submit(connection, now, schedule, means)


def _after_waiting(connection: sa.Connection, schedule: Any, run_id: str) -> Outcome | None:
    """At most one tick waits: a new one is skipped, or takes the place of the other."""
    mine = owned(schedule_runs, schedule["tenant_id"]) & (schedule_runs.c.schedule_id == schedule["id"])
    others = sa.select(schedule_runs).where(mine, schedule_runs.c.state == RunState.WAITING, schedule_runs.c.id != run_id)
    waiting = list(connection.execute(others).mappings())
    if not waiting:
        return None
    if schedule["overlap"] != Overlap.CANCEL_PREVIOUS:
        return Outcome(RunState.SKIPPED, f"the tick of {told(waiting[0]['scheduled_for'])} still waits, and at most one does")
    for run in waiting:
        conclude(connection, run, Outcome(RunState.SKIPPED, "a later tick took its place; the overlap policy is cancel_previous"))
    return None


def _behind(connection: sa.Connection, schedule: Any) -> Outcome | None:
    """What becomes of a tick behind a job that is still at work; null when there is none, or the policy does not mind."""
    overlap = Overlap(schedule["overlap"])
    if overlap not in (Overlap.SKIP, Overlap.QUEUE) or not (working := _working(connection, schedule)):
        return None
    what = f"{working[0]['job_id']} of the tick of {told(working[0]['scheduled_for'])} is still at work"
    if overlap is Overlap.QUEUE:
        return Outcome(RunState.WAITING, f"{what}; this tick waits for its end")
    return Outcome(RunState.SKIPPED, f"{what}; the overlap policy is skip")


def _working(connection: sa.Connection, schedule: Any, *conditions: sa.ColumnElement[bool]) -> list[Any]:
    """Runs of the schedule whose job has not ended, latest first."""
    tenant_id = schedule["tenant_id"]
    at_work = (jobs.c.id == schedule_runs.c.job_id) & owned(jobs, tenant_id) & jobs.c.state.in_(_OPEN)
    query = sa.select(schedule_runs).join(jobs, at_work).where(owned(schedule_runs, tenant_id), *conditions)
    mine = query.where(schedule_runs.c.schedule_id == schedule["id"]).order_by(schedule_runs.c.scheduled_for.desc())
    return list(connection.execute(mine).mappings())


def _submit(connection: sa.Connection, now: datetime, schedule: Any, means: Means) -> Outcome:
    """The job of a tick. Whatever is wrong with it is the reason of its run, and undoes nothing but the job."""
    try:
        try:
            with connection.begin_nested():
                return _ask(connection, now, schedule, means, replace=schedule["overlap"] == Overlap.CANCEL_PREVIOUS)
        except _Unchanged:
            with connection.begin_nested():
                return _ask(connection, now, schedule, means, replace=False)
    except NotReady as error:
        return Outcome(RunState.WAITING, str(error))
    except AWAY:
        raise
    except AssayError as error:
        return Outcome(RunState.FAILED, str(error))
    except Exception as error:
        log.exception("tick failed", action="tick_failed", schedule=schedule["id"])
        return Outcome(RunState.FAILED, f"could not be submitted: {type(error).__name__}: {error}")


def _ask(connection: sa.Connection, now: datetime, schedule: Any, means: Means, *, replace: bool) -> Outcome:
    template, tenant_id = read_template(schedule["template"]), schedule["tenant_id"]
    model, dataset = versions(connection, tenant_id, template)
    replaced = _own_jobs(connection, schedule) if replace else set()
    for job_id in sorted(replaced):
        cancel_job(connection, now, tenant_id, job_id, means.by)
    job, new = submit_job(
        connection,
        now,
        tenant_id,
        model_id=model.id,
        dataset_id=dataset.id,
        spec=template.spec,
        secret=means.secret,
        name=template.name or schedule["name"],
        quota=means.quota,
        by=means.by,
    )
    if replaced and _question(connection, tenant_id, {job.id}) <= _question(connection, tenant_id, replaced):
        raise _Unchanged
    asked = f"{model.name} version {model.version} on {dataset.name} version {dataset.version}"
    instead = f"; {', '.join(sorted(replaced))} was cancelled for it" if replaced else ""
    return Outcome(RunState.SUBMITTED, asked + instead, job.id) if new else _reused(asked, job)


def _own_jobs(connection: sa.Connection, schedule: Any) -> set[str]:
    """Jobs at work that only this schedule wants. One that it did not submit, or that another schedule uses, is not its to cancel."""
    submitted = {run["job_id"] for run in _working(connection, schedule, schedule_runs.c.state == RunState.SUBMITTED)}
    others = owned(schedule_runs, schedule["tenant_id"]) & (schedule_runs.c.schedule_id != schedule["id"])
    query = sa.select(schedule_runs.c.job_id).where(others, schedule_runs.c.job_id.in_(submitted))
    return submitted - set(connection.execute(query).scalars())


def _question(connection: sa.Connection, tenant_id: str, job_ids: set[str]) -> set[Any]:
    """What jobs ask: two with the same question have the same answer."""
    columns = (jobs.c.model_digest, jobs.c.value_range, jobs.c.dataset_digest, jobs.c.spec_digest)
    return {tuple(row) for row in connection.execute(sa.select(*columns).where(owned(jobs, tenant_id), jobs.c.id.in_(job_ids)))}


def _reused(asked: str, job: Job) -> Outcome:
    if job.state is JobState.CANCELLING:
        return Outcome(RunState.WAITING, f"{job.id} asks the same and is being cancelled; this tick waits for its end")
    use = "its certificates are used again" if job.state.ended else "it is still at work, and its certificates will be used"
    return Outcome(RunState.REUSED, f"model, dataset and spec are unchanged ({asked}): {job.id} asks the same, and {use}", job.id)
