"""Ticks become runs and jobs. A tick is decided in one transaction: its run and its job are stored together or not at all.

Any number of schedulers may call `fire_due` at once, and each may be killed at any step. Who holds the schedule's row decides its
ticks; `next_at` moves on with them; and a unique key lets no second run of a tick in.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
import structlog

from storage import audit
from storage.cron import Cron
from storage.database import Database, insert_once, locked
from storage.errors import NotFound
from storage.quotas import DEFAULT, Quota
from storage.records import Actor
from storage.records_schedules import CatchUp, RunState, ScheduleRun
from storage.schedule_runs import new_run, run_of
from storage.scoped import one, owned
from storage.starting import AWAY, Means, Outcome, conclude, restart, start
from storage.tables import schedule_runs, schedules
from storage.ticks import decide

log = structlog.get_logger()


def fire_due(db: Database, secret: bytes, *, quota: Quota = DEFAULT, now: datetime | None = None) -> tuple[ScheduleRun, ...]:
    """Start what waits and can start, then decide every tick that is due; the runs that were decided.

    Exactly one run for each tick and at most one job for each run, however many do this at once and wherever they are killed. A
    schedule about which nothing can be decided is paused with the reason; it holds up no other.

    Args:
        secret: the server's, from which noise keys are drawn.
        quota: of tenants that have none of their own.
        now: the moment to decide for; the database's clock when None.

    Raises:
        Busy: the database cannot be reached; nothing is lost, and the next call goes on.
    """
    means = Means(secret=secret, quota=quota)
    decided: list[ScheduleRun] = []
    for tenant_id, run_id in _waiting(db):
        decided += _start_waiting(db, tenant_id, run_id, means, now)
    due = _due(db, now)
    random.shuffle(due)  # several schedulers get less in each other's way, and one schedule that keeps failing holds up no other
    for tenant_id, schedule_id in due:
        while found := _decide(db, tenant_id, schedule_id, means, now):
            decided += found
    return tuple(decided)


def run_now(
    db: Database, tenant_id: str, schedule_id: str, secret: bytes, *, quota: Quota = DEFAULT, by: Actor = audit.SERVER
) -> ScheduleRun:
    """Fire a schedule out of turn, also while it is paused. The overlap policy holds; what became of it is in the run.

    Raises:
        NotFound: no such schedule.
    """
    with db.begin() as connection:
        row = one(connection, schedules, tenant_id, schedule_id, lock=True)
        moment, run = db.now(connection), None
        while run is None:  # a second one in the same microsecond is a run of its own
            run = _fire(connection, moment, row, moment, Means(secret=secret, quota=quota, by=by), manual=True)
            moment += timedelta(microseconds=1)
        audit.record(connection, tenant_id, by, "schedule.fired", schedule_id, moment, {"run": run.id, "state": run.state})
        return run


def next_due(db: Database) -> datetime | None:
    """When the next tick of any schedule is due; None when there is none."""
    with db.read() as connection:
        return connection.execute(sa.select(sa.func.min(schedules.c.next_at))).scalar()


def _due(db: Database, now: datetime | None) -> list[tuple[str, str]]:
    with db.read() as connection:
        query = sa.select(schedules.c.tenant_id, schedules.c.id).where(schedules.c.next_at <= (now or db.now(connection)))
        return [(row.tenant_id, row.id) for row in connection.execute(query)]


def _waiting(db: Database) -> list[tuple[str, str]]:
    runs = schedule_runs.c
    query = sa.select(runs.tenant_id, runs.id).where(runs.state == RunState.WAITING).order_by(runs.scheduled_for)
    with db.read() as connection:
        return [(row.tenant_id, row.id) for row in connection.execute(query)]


def _decide(db: Database, tenant_id: str, schedule_id: str, means: Means, now: datetime | None) -> list[ScheduleRun]:
    """One decision about a schedule, which is set aside when none can be made."""
    try:
        with db.begin() as connection:
            moment = now or db.now(connection)
            row = _take(connection, tenant_id, schedule_id, moment)
            return [] if row is None else _decided(connection, moment, row, means)
    except AWAY:
        raise
    except Exception as error:
        log.exception("schedule set aside", action="schedule_set_aside", schedule=schedule_id)
        return _set_aside(db, tenant_id, schedule_id, now, f"the schedule was paused: {type(error).__name__}: {error}")


def _take(connection: sa.Connection, tenant_id: str, schedule_id: str, now: datetime) -> Any:
    """The row of a schedule that is due, for this transaction alone; null when another scheduler has it or was quicker."""
    mine = owned(schedules, tenant_id) & (schedules.c.id == schedule_id)
    return connection.execute(locked(sa.select(schedules).where(mine, schedules.c.next_at <= now))).mappings().first()


def _decided(connection: sa.Connection, now: datetime, row: Any, means: Means) -> list[ScheduleRun]:
    clock, policy = Cron(row["cron"], row["zone"]), CatchUp(row["catch_up"])
    decision = decide(clock, row["next_at"], now, policy, row["deadline_seconds"])
    _move_on(connection, row, next_at=decision.next_at)
    runs = [_note(connection, new_run(row, tick, now, RunState.SKIPPED, why)) for tick, why in decision.skipped]
    if decision.fire is not None:
        runs.append(_fire(connection, now, row, decision.fire, means))
    return [run for run in runs if run is not None]


def _move_on(connection: sa.Connection, row: Any, **values: Any) -> None:
    mine = owned(schedules, row["tenant_id"]) & (schedules.c.id == row["id"])
    connection.execute(sa.update(schedules).where(mine).values(**values))


def _note(connection: sa.Connection, values: dict[str, Any]) -> ScheduleRun | None:
    """A run as it is, or null when the tick has one."""
    return run_of(values) if insert_once(connection, schedule_runs, values) else None


def _fire(connection: sa.Connection, now: datetime, row: Any, tick: datetime, means: Means, *, manual: bool = False) -> ScheduleRun | None:
    """The run of a tick, with its job if it gets one; null when the tick has a run."""
    values = new_run(row, tick, now, RunState.WAITING, "", manual=manual)
    if _note(connection, values) is None:
        return None
    return conclude(connection, values, start(connection, now, row, values["id"], means))


def _start_waiting(db: Database, tenant_id: str, run_id: str, means: Means, now: datetime | None) -> list[ScheduleRun]:
    """A run that waited gets its job if it can start now, or its reason if it cannot any more."""
    try:
        with db.begin() as connection:
            schedule_id = one(connection, schedule_runs, tenant_id, run_id)["schedule_id"]
            row = one(connection, schedules, tenant_id, schedule_id, lock=True)
            run = one(connection, schedule_runs, tenant_id, run_id)  # as it is now that nobody else can change it
            if run["state"] != RunState.WAITING:
                return []
            outcome = _waited(connection, now or db.now(connection), row, run, means)
            return [] if outcome.state is RunState.WAITING else [conclude(connection, run, outcome)]
    except AWAY:
        raise
    except NotFound:  # the schedule was removed
        return []
    except Exception:
        log.exception("run cannot be started", action="run_stuck", run=run_id)
        return []


def _waited(connection: sa.Connection, now: datetime, row: Any, run: Any, means: Means) -> Outcome:
    deadline = row["deadline_seconds"]
    if deadline is not None and not run["manual"] and now - run["scheduled_for"] > timedelta(seconds=deadline):
        return Outcome(RunState.SKIPPED, f"waited longer than its deadline of {deadline} s: {run['reason']}")
    outcome = restart(connection, now, row, means)
    return Outcome(RunState.WAITING, run["reason"]) if outcome.state is RunState.SKIPPED else outcome


def _set_aside(db: Database, tenant_id: str, schedule_id: str, now: datetime | None, why: str) -> list[ScheduleRun]:
    try:
        with db.begin() as connection:
            moment = now or db.now(connection)
            row = _take(connection, tenant_id, schedule_id, moment)
            if row is None:
                return []
            _move_on(connection, row, paused=True, next_at=None, revision=row["revision"] + 1, updated_at=moment)
            audit.record(connection, tenant_id, audit.SERVER, "schedule.paused", schedule_id, moment, {"why": why})
            run = _note(connection, new_run(row, row["next_at"], moment, RunState.FAILED, why))
            return [] if run is None else [run]
    except AWAY:
        raise
    except Exception:
        log.exception("schedule cannot be set aside", action="schedule_stuck", schedule=schedule_id)
        return []
