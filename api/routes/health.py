"""For those who keep the service running."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from api.security import Db
from storage.errors import Busy
from storage.jobs import count_by_state

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "the database cannot be reached"}})
def readyz(db: Db) -> Response:
    """The database answers."""
    try:
        db.ping()
    except Busy:
        return JSONResponse({"status": "unavailable", "reason": "the database cannot be reached"}, 503)
    return JSONResponse({"status": "ok"})


@router.get("/metrics")
def metrics(db: Db) -> Response:
    """Jobs by state, for Prometheus."""
    registry = CollectorRegistry()
    gauge = Gauge("assay_jobs", "Jobs by state", ["state"], registry=registry)
    for state, count in count_by_state(db).items():
        gauge.labels(state).set(count)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
