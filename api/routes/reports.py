"""Certified-radius reports: as JSON, and as one page that stands alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field

from api import exports
from api.caching import KEEPABLE, keepable
from api.negotiation import choose
from api.openapi import also, text
from api.pages.render import render_report
from api.repeat import RepeatOut
from api.schemas import JobOut
from api.schemas_gates import newest_of_each
from api.security import CanRead, Db
from certify.report import Report
from storage import catalog, gates, jobs
from storage.errors import Conflict

router = APIRouter(prefix="/v1/jobs", tags=["reports"])


class ReportOut(BaseModel):
    """The report of a job that has ended; `partial` when it did not succeed: it failed, or was cancelled.

    `partial_words` says so with the numbers ("PARTIAL: 256 of 399, cancelled"), and is empty otherwise. Shares are of the rows that
    there are.
    """

    job: JobOut
    partial: bool
    partial_words: str
    repeat: RepeatOut
    report: Report


class MlflowOut(BaseModel):
    """What MLflow's `runs/log-batch` takes, without the id of a run."""

    metrics: list[dict[str, Any]]
    tags: list[dict[str, str]]


@router.get(
    "/{job_id}/report",
    response_model=ReportOut | MlflowOut,
    responses={
        200: {"content": {**text("text/html", "report.html"), **text("text/plain", "report.tex", "rows of a LaTeX table")}},
        **also(409),
        **KEEPABLE,
    },
)
def get_report(
    job_id: str,
    request: Request,
    db: Db,
    tenant: CanRead,
    format: Annotated[Literal["json", "html", "mlflow", "latex"] | None, Query()] = None,
    radius: Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None, Query(max_length=50)] = None,
) -> object:
    """The report: as JSON, as HTML when the client prefers it, as metrics for MLflow, or as rows of a LaTeX table (at each `radius`)."""
    job = jobs.get_job(db, tenant, job_id)
    if job.report is None:
        why = "has ended without a report" if job.state.ended else f"is {job.state}; its report is made when it ends"
        raise Conflict.at("job", f"{job.id} {why}", "see /results for the certificates so far")
    keepable(request)
    form = choose(request, format, {"json": "application/json", "html": "text/html"})
    if form == "html":
        model, dataset = catalog.get_model(db, tenant, job.model_id), catalog.get_dataset(db, tenant, job.dataset_id)
        outcomes = newest_of_each(gates.gates_of_job(db, tenant, job.id))
        return HTMLResponse(render_report(job, job.report, model, dataset, outcomes))
    if form == "mlflow":
        return JSONResponse(exports.mlflow(job, job.report, radius or ()))
    if form == "latex":
        return PlainTextResponse(exports.latex(job, job.report, radius or ()))
    words = exports.partial(job)
    model = catalog.get_model(db, tenant, job.model_id)
    return ReportOut(
        job=JobOut.of(job),
        partial=bool(words),
        partial_words=words,
        repeat=RepeatOut.of(job, model),
        report=job.report,
    )
