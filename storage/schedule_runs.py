"""The history of schedules: one row for each tick, with its reason."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from certify.errors import InputError
from storage import cursors
from storage.database import Database, insert_once
from storage.ids import new_id
from storage.records import Page
from storage.records_schedules import RunState, ScheduleCounts, ScheduleRun
from storage.scoped import everyones, one, owned
from storage.tables import schedule_runs, schedules


def list_runs(db: Database, tenant_id: str, schedule_id: str, *, limit: int, cursor: str | None = None) -> Page[ScheduleRun]:
    """The history of a schedule: ticks and what became of them, latest tick first."""
    runs = schedule_runs.c
    query = sa.select(schedule_runs).where(owned(schedule_runs, tenant_id), runs.schedule_id == schedule_id)
    if cursor is not None:
        when, run_id = _place(cursor)
        query = query.where((runs.scheduled_for < when) | ((runs.scheduled_for == when) & (runs.id < run_id)))
    query = query.order_by(runs.scheduled_for.desc(), runs.id.desc()).limit(cursors.checked(limit) + 1)
    with db.read() as connection:
        one(connection, schedules, tenant_id, schedule_id)
        rows = list(connection.execute(query).mappings())
    last = rows[limit - 1] if len(rows) > limit else None
    following = cursors.encode("runs", last["scheduled_for"].isoformat(), last["id"]) if last else None
    return Page(items=tuple(map(run_of, rows[:limit])), next_cursor=following)


def count_schedules(db: Database) -> ScheduleCounts:
    """How many schedules and runs of all tenants there are, for metrics."""
    runs, s = schedule_runs.c, schedules.c
    with db.read() as connection:
        states = {row[0]: row[1] for row in connection.execute(everyones(sa.select(runs.state, sa.func.count()).group_by(runs.state)))}
        paused = {row[0]: row[1] for row in connection.execute(everyones(sa.select(s.paused, sa.func.count()).group_by(s.paused)))}
        oldest = connection.execute(everyones(sa.select(sa.func.min(s.next_at)))).scalar()
        late = 0.0 if oldest is None else max(0.0, (db.now(connection) - oldest).total_seconds())
    counts = {state: states.get(state, 0) for state in RunState}
    return ScheduleCounts(active=paused.get(False, 0), paused=paused.get(True, 0), late_seconds=late, runs=counts)


def run_of(row: Any) -> ScheduleRun:
    return ScheduleRun(**{**{name: row[name] for name in ScheduleRun.__dataclass_fields__}, "state": RunState(row["state"])})


def new_run(schedule: Any, tick: datetime, now: datetime, state: RunState, reason: str, *, manual: bool = False) -> dict[str, Any]:
    """The row of a run that has no job; `schedule` is the row it belongs to."""
    return {
        "id": new_id("run"),
        "tenant_id": schedule["tenant_id"],
        "schedule_id": schedule["id"],
        "scheduled_for": tick,
        "manual": manual,
        "state": state,
        "reason": reason,
        "job_id": None,
        "reused": False,
        "created_at": now,
    }


def close_runs(connection: sa.Connection, now: datetime, row: Any, what: str) -> None:
    """Ticks that were due, or waited, when their schedule was changed or paused are skipped with that reason."""
    why = f"the schedule was {what} before this tick was started"
    if row["next_at"] is not None and row["next_at"] <= now:
        insert_once(connection, schedule_runs, new_run(row, row["next_at"], now, RunState.SKIPPED, why))
    if what == "paused":
        waiting = owned(schedule_runs, row["tenant_id"]) & (schedule_runs.c.state == RunState.WAITING)
        mine = waiting & (schedule_runs.c.schedule_id == row["id"])
        connection.execute(sa.update(schedule_runs).where(mine).values(state=RunState.SKIPPED, reason=why))


def _place(cursor: str) -> tuple[datetime, str]:
    when, run_id = cursors.decode(cursor, "runs", str, str)
    try:
        return datetime.fromisoformat(when).astimezone(UTC), run_id
    except (ValueError, OverflowError):
        raise InputError.at("cursor", "is not a cursor of this list", "use next_cursor of the page before") from None
