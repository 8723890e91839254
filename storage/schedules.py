"""Schedules: made, read, changed, paused, removed. Each function is one transaction; `firing` makes jobs of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Unpack

import sqlalchemy as sa

from storage import audit
from storage.cron import parse_cron
from storage.database import Database, insert_once
from storage.errors import Conflict, Stale
from storage.ids import new_id
from storage.records import Actor, Page
from storage.records_schedules import CatchUp, Changes, Overlap, Schedule, Template
from storage.schedule_runs import close_runs
from storage.scoped import newest, one, owned
from storage.tables import schedules
from storage.templates import check_template, dump_template, read_template


def create_schedule(
    db: Database,
    tenant_id: str,
    *,
    name: str,
    cron: str,
    zone: str,
    template: Template,
    overlap: Overlap = Overlap.SKIP,
    catch_up: CatchUp = CatchUp.LATEST,
    deadline_seconds: int | None = None,
    paused: bool = False,
    by: Actor = audit.SERVER,
) -> Schedule:
    """A new schedule; its first tick is the first one after now.

    Raises:
        InputError: cron, zone or template cannot be used; what is ready is checked against its facts.
        NotFound: the template names a model or dataset that does not exist.
        Conflict: the name is taken.
    """
    clock = parse_cron(cron, zone)
    with db.begin() as connection:
        now = db.now(connection)
        check_template(connection, tenant_id, template)
        values: dict[str, Any] = {
            "id": new_id("sch"),
            "tenant_id": tenant_id,
            "name": name,
            "cron": clock.text,
            "zone": zone,
            "template": dump_template(template),
            "overlap": overlap,
            "catch_up": catch_up,
            "deadline_seconds": deadline_seconds,
            "paused": paused,
            "next_at": None if paused else clock.next(now),
            "revision": 1,
            "created_at": now,
            "updated_at": now,
        }
        if not insert_once(connection, schedules, values):
            raise _taken(name)
        audit.record(connection, tenant_id, by, "schedule.created", values["id"], now, {"name": name})
    return _schedule(values)


def get_schedule(db: Database, tenant_id: str, schedule_id: str) -> Schedule:
    with db.read() as connection:
        return _schedule(one(connection, schedules, tenant_id, schedule_id))


def list_schedules(db: Database, tenant_id: str, *, limit: int, cursor: str | None = None, name: str | None = None) -> Page[Schedule]:
    """Newest first."""
    wanted = [] if name is None else [schedules.c.name == name]
    with db.read() as connection:
        rows, following = newest(connection, schedules, tenant_id, *wanted, limit=limit, cursor=cursor)
    return Page(items=tuple(map(_schedule, rows)), next_cursor=following)


def update_schedule(
    db: Database,
    tenant_id: str,
    schedule_id: str,
    *,
    revision: int | None = None,
    by: Actor = audit.SERVER,
    **changes: Unpack[Changes],
) -> Schedule:
    """Change a schedule; what is not named stays. Pausing one that is paused, and the like, changes nothing.

    Another cron expression or zone, and the end of a pause, count from now: no tick of the past is made up for.

    Args:
        revision: refuse unless the schedule still has this revision.

    Raises:
        Stale: somebody has changed it since.
        NotFound, InputError, Conflict: as for a new schedule.
    """
    with db.begin() as connection:
        now = db.now(connection)
        row = one(connection, schedules, tenant_id, schedule_id, lock=True)
        before = _schedule(row)
        if revision is not None and revision != before.revision:
            detail = f"is {revision}, but {schedule_id} has been changed since and is at revision {before.revision}"
            raise Stale.at("If-Match", detail, "read it again and repeat the change")
        values = _changed(connection, row, before, changes, now)
        if values:
            values |= {"revision": before.revision + 1, "updated_at": now}
            try:
                with connection.begin_nested():
                    mine = owned(schedules, tenant_id) & (schedules.c.id == schedule_id)
                    connection.execute(sa.update(schedules).where(mine).values(values))
            except sa.exc.IntegrityError:  # the one thing that must be unique and can be changed
                raise _taken(values["name"]) from None
            audit.record(connection, tenant_id, by, _action(values), schedule_id, now, {"changed": sorted(changes)})
        return _schedule({**row, **values})


def delete_schedule(db: Database, tenant_id: str, schedule_id: str, *, by: Actor = audit.SERVER) -> None:
    """Remove a schedule with its history and its gates. Jobs that it submitted stay and go on."""
    with db.begin() as connection:
        row = one(connection, schedules, tenant_id, schedule_id, lock=True)
        connection.execute(sa.delete(schedules).where(owned(schedules, tenant_id) & (schedules.c.id == schedule_id)))
        audit.record(connection, tenant_id, by, "schedule.deleted", schedule_id, db.now(connection), {"name": row["name"]})


def _changed(connection: sa.Connection, row: Any, before: Schedule, changes: Changes, now: datetime) -> dict[str, Any]:
    """The columns that get another value."""
    values: dict[str, Any] = dict(changes)
    clock = parse_cron(changes.get("cron", before.cron), changes.get("zone", before.zone))
    if "cron" in changes:
        values["cron"] = clock.text
    if "template" in changes:
        check_template(connection, before.tenant_id, changes["template"])
    values = {name: value for name, value in values.items() if value != getattr(before, name)}
    if "template" in values:
        values["template"] = dump_template(values["template"])
    if values.keys() & {"cron", "zone", "paused"}:
        values["next_at"] = None if values.get("paused", before.paused) else clock.next(now)
        close_runs(connection, now, row, "paused" if values.get("paused") else "changed")
    return values


def _action(values: dict[str, Any]) -> str:
    if "paused" in values:
        return "schedule.paused" if values["paused"] else "schedule.resumed"
    return "schedule.updated"


def _taken(name: str) -> Conflict:
    return Conflict.at("name", f"there is a schedule named {name!r} already", "choose another name, or change that one")


def _schedule(row: Any) -> Schedule:
    plain = {name: row[name] for name in Schedule.__dataclass_fields__}
    return Schedule(
        **{
            **plain,
            "template": read_template(row["template"]),
            "overlap": Overlap(row["overlap"]),
            "catch_up": CatchUp(row["catch_up"]),
        }
    )
