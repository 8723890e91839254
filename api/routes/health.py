"""For those who keep the service running."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from pydantic import BaseModel

from api.openapi import text
from api.security import Db
from storage.errors import Busy
from storage.jobs import count_by_state
from storage.schedule_runs import count_schedules

router = APIRouter(tags=["health"])


class StatusOut(BaseModel):
    status: Literal["ok", "unavailable"]
    reason: str = ""


@router.get("/healthz")
def healthz() -> StatusOut:
    """The process answers."""
    return StatusOut(status="ok")


@router.get("/readyz", responses={503: {"model": StatusOut, "description": "the database cannot be reached"}})
def readyz(db: Db, response: Response) -> StatusOut:
    """The database answers."""
    try:
        db.ping()
    except Busy:
        response.status_code = 503
        return StatusOut(status="unavailable", reason="the database cannot be reached")
    return StatusOut(status="ok")


@router.get("/metrics", response_class=Response, responses={200: {"content": text("text/plain", "metrics")}})
def metrics(db: Db) -> Response:
    """Jobs, schedules and their runs by state, for Prometheus; `assay_schedule_late_seconds` grows while no scheduler works."""
    registry, found = CollectorRegistry(), count_schedules(db)
    by_state: dict[tuple[str, str], Mapping[Any, int]] = {
        ("assay_jobs", "Jobs by state"): count_by_state(db),
        ("assay_schedules", "Schedules by state"): {"active": found.active, "paused": found.paused},
        ("assay_schedule_runs", "Ticks of schedules by what became of them"): found.runs,
    }
    for (name, about), counts in by_state.items():
        gauge = Gauge(name, about, ["state"], registry=registry)
        for state, count in counts.items():
            gauge.labels(state).set(count)
    Gauge("assay_schedule_late_seconds", "How long the oldest undecided tick has been due", registry=registry).set(found.late_seconds)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
