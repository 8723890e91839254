"""Schedules: jobs that are asked for again and again, on the clock of a zone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from api.openapi import also
from api.paging import Cursor, Limit, page
from api.schemas import Moment, PageOut
from api.schemas_schedules import (
    NewSchedule,
    NewTemplate,
    PreviewOut,
    ScheduleChanges,
    ScheduleOut,
    ScheduleRunOut,
    TickOut,
)
from api.security import By, CanRead, CanWriteSchedules, Conf, Db
from certify.errors import InputError, SpecError
from certify.spec import parse_spec
from storage import firing, schedules
from storage.cron import Cron, parse_cron
from storage.errors import RevisionNeeded, Stale
from storage.records_schedules import Changes, Schedule, Template
from storage.schedule_runs import list_runs

router = APIRouter(prefix="/v1/schedules", tags=["schedules"])

Count = Annotated[int, Query(ge=1, le=100, description="how many ticks")]
After = Annotated[Moment | None, Query(description="ticks after this moment; now when left out")]
IfMatch = Annotated[str | None, Header(description='the ETag that was read, such as "3"; * for any')]


@router.post("", status_code=201, responses=also(404))
def create_schedule(body: NewSchedule, response: Response, db: Db, tenant: CanWriteSchedules, by: By) -> ScheduleOut:
    """Make a schedule. What is ready of its template is checked now, the rest at each tick."""
    made = schedules.create_schedule(
        db,
        tenant,
        name=body.name,
        cron=body.cron,
        zone=body.zone,
        template=_template(body.template),
        overlap=body.overlap,
        catch_up=body.catch_up,
        deadline_seconds=body.deadline_seconds,
        paused=body.paused,
        by=by,
    )
    response.headers["Location"] = f"/v1/schedules/{made.id}"
    return _shown(made, response)


@router.get("")
def list_schedules(
    request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 20, cursor: Cursor = None, name: str | None = None
) -> PageOut[ScheduleOut]:
    """Schedules, newest first."""
    return page(schedules.list_schedules(db, tenant, limit=limit, cursor=cursor, name=name), ScheduleOut.of, request, response)


@router.get("/preview")
def preview(
    tenant: CanRead,
    cron: Annotated[str, Query(max_length=200, examples=["0 2 * * *"])],
    zone: Annotated[str, Query(max_length=100)] = "UTC",
    n: Count = 10,
    after: After = None,
) -> PreviewOut:
    """When a schedule with this cron expression and zone would run."""
    return _preview(parse_cron(cron, zone), n, after)


@router.get("/{schedule_id}")
def get_schedule(schedule_id: str, response: Response, db: Db, tenant: CanRead) -> ScheduleOut:
    """One schedule; the ETag is its revision."""
    return _shown(schedules.get_schedule(db, tenant, schedule_id), response)


@router.patch("/{schedule_id}", responses=also(409, 412, 428))
def update_schedule(
    schedule_id: str, body: ScheduleChanges, response: Response, db: Db, tenant: CanWriteSchedules, by: By, if_match: IfMatch = None
) -> ScheduleOut:
    """Change what the body names. If-Match must hold the ETag that was read, so that nobody's change is overwritten unseen."""
    named: Changes = {name: getattr(body, name) for name in body.model_fields_set}  # type: ignore[assignment]
    if "template" in named:
        named["template"] = _template(body.template)
    return _shown(schedules.update_schedule(db, tenant, schedule_id, revision=_revision(if_match), by=by, **named), response)


@router.delete("/{schedule_id}", status_code=204)
def delete_schedule(schedule_id: str, db: Db, tenant: CanWriteSchedules, by: By) -> None:
    """Remove a schedule with its history and its gates. Its jobs stay."""
    schedules.delete_schedule(db, tenant, schedule_id, by=by)


@router.post("/{schedule_id}/pause")
def pause_schedule(schedule_id: str, response: Response, db: Db, tenant: CanWriteSchedules, by: By) -> ScheduleOut:
    """No more ticks until it is resumed. Pausing it again changes nothing."""
    return _shown(schedules.update_schedule(db, tenant, schedule_id, paused=True, by=by), response)


@router.post("/{schedule_id}/resume")
def resume_schedule(schedule_id: str, response: Response, db: Db, tenant: CanWriteSchedules, by: By) -> ScheduleOut:
    """Tick again from now on; what was missed while it was paused is not made up for."""
    return _shown(schedules.update_schedule(db, tenant, schedule_id, paused=False, by=by), response)


@router.post("/{schedule_id}/run", status_code=202)
def run_schedule(schedule_id: str, response: Response, db: Db, conf: Conf, tenant: CanWriteSchedules, by: By) -> ScheduleRunOut:
    """Run it now, also while it is paused. The overlap policy holds: what became of it, and why, is in the answer."""
    run = firing.run_now(db, tenant, schedule_id, conf.secret, quota=conf.quota, by=by)
    response.headers["Location"] = f"/v1/jobs/{run.job_id}" if run.job_id else f"/v1/schedules/{schedule_id}/runs"
    return ScheduleRunOut.of(run)


@router.get("/{schedule_id}/runs")
def list_schedule_runs(
    schedule_id: str, request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 20, cursor: Cursor = None
) -> PageOut[ScheduleRunOut]:
    """What became of its ticks and why, latest tick first."""
    return page(list_runs(db, tenant, schedule_id, limit=limit, cursor=cursor), ScheduleRunOut.of, request, response)


@router.get("/{schedule_id}/preview")
def preview_schedule(schedule_id: str, db: Db, tenant: CanRead, n: Count = 10, after: After = None) -> PreviewOut:
    """When it runs next, or would if it were not paused."""
    found = schedules.get_schedule(db, tenant, schedule_id)
    return _preview(parse_cron(found.cron, found.zone), n, after)


def _shown(schedule: Schedule, response: Response) -> ScheduleOut:
    response.headers["ETag"] = f'"{schedule.revision}"'
    return ScheduleOut.of(schedule)


def _preview(cron: Cron, n: int, after: datetime | None) -> PreviewOut:
    start = datetime.now(UTC) if after is None else after
    if not 1970 <= start.year <= 2200:
        raise InputError.at("after", f"is in the year {start.year}", "use a year from 1970 to 2200")
    ticks = [TickOut(at=tick, local=cron.local(tick)) for tick in itertools.islice(cron.after(start), n)]
    return PreviewOut(cron=cron.text, zone=cron.zone, english=cron.english(), ticks=ticks)


def _template(given: NewTemplate) -> Template:
    try:
        spec = parse_spec(given.spec)
    except SpecError as error:
        inside = (replace(p, field=f"template.spec.{p.field}" if p.field else "template.spec") for p in error.problems)
        raise SpecError(*inside) from None
    return Template(model=given.model.ref(), dataset=given.dataset.ref(), spec=spec, name=given.name)


def _revision(if_match: str | None) -> int | None:
    """The revision that a change is of; None for any.

    Raises:
        RevisionNeeded: the header is missing.
        Stale: it holds something else than one ETag of a schedule.
    """
    if if_match is None:
        raise RevisionNeeded.at(
            "If-Match", "is missing", "send the ETag of the schedule as you read it, or * to change it whatever it is now"
        )
    tag = if_match.strip()
    if tag == "*":
        return None
    number = tag.removeprefix("W/").strip('"')
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise Stale.at("If-Match", f"{tag[:50]!r} is not the ETag of a schedule", 'send it as you read it, such as "3"')
    return int(number)
