"""Jobs: submitted, watched, cancelled, and their results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.caching import KEEPABLE, keepable
from api.negotiation import choose
from api.openapi import also, text
from api.paging import Cursor, Limit, page
from api.schemas import JobOut, NewJob, PageOut
from api.security import By, CanRead, CanWriteJobs, Conf, Db
from certify.errors import InputError, SpecError
from certify.findings import Finding
from certify.spec import Spec, parse_spec
from storage import jobs, results
from storage.records import JobState

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
NDJSON = "application/x-ndjson"
UNCHANGED: dict[int | str, Any] = {200: {"model": JobOut, "description": "an unchanged question: the job that already answers it"}}


class FindingPage(PageOut[Finding]):
    """Certificates and attack results; `kind` tells them apart."""


@router.post("", status_code=202, responses={**UNCHANGED, **also(404)})
def create_job(body: NewJob, response: Response, db: Db, conf: Conf, tenant: CanWriteJobs, by: By) -> JobOut:
    """Submit a job. The spec is checked against the model and the dataset before anything is queued."""
    spec = _spec(body)
    with _fields_of_the_body():
        job, new = jobs.create_job(
            db,
            tenant,
            model_id=body.model,
            dataset_id=body.dataset,
            spec=spec,
            secret=conf.secret,
            name=body.name,
            quota=conf.quota,
            by=by,
        )
    response.status_code = 202 if new else 200
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    response.headers["Retry-After"] = "2"
    return JobOut.of(job, reused=not new)


@router.get("")
def list_jobs(
    request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 20, cursor: Cursor = None, state: JobState | None = None
) -> PageOut[JobOut]:
    """Jobs, newest first."""
    return page(jobs.list_jobs(db, tenant, limit=limit, cursor=cursor, state=state), JobOut.of, request, response)


@router.get("/{job_id}", responses=KEEPABLE)
def get_job(job_id: str, request: Request, db: Db, tenant: CanRead) -> JobOut:
    """A job with its progress, rate and what it waits for."""
    job = jobs.get_job(db, tenant, job_id)
    keepable(request, job.state.ended)
    return JobOut.of(job)


@router.post("/{job_id}/cancel", status_code=202)
def cancel_job(job_id: str, db: Db, tenant: CanWriteJobs, by: By) -> JobOut:
    """Ask a job to stop. What is finished is kept; asking again changes nothing."""
    return JobOut.of(jobs.request_cancel(db, tenant, job_id, by))


@router.get(
    "/{job_id}/results",
    response_model=FindingPage,
    responses={200: {"content": text(NDJSON, "results.ndjson", "one result a line")}, **KEEPABLE},
)
def get_results(
    job_id: str,
    request: Request,
    response: Response,
    db: Db,
    tenant: CanRead,
    limit: Limit = 100,
    cursor: Cursor = None,
    format: Annotated[Literal["json", "ndjson"] | None, Query()] = None,
) -> object:
    """Certificates and attack results by certifier, then example: a page of JSON, or all of them as JSON lines."""
    ended = jobs.has_ended(db, tenant, job_id)  # asked before its rows are read; a wrong id is an error before a stream starts
    if choose(request, format, {"json": "application/json", "ndjson": NDJSON}) == "ndjson":
        return StreamingResponse(_lines(results.iter_lines(db, tenant, job_id)), media_type=NDJSON)
    keepable(request, ended)
    return page(results.list_findings(db, tenant, job_id, limit=limit, cursor=cursor), lambda found: found, request, response)


def _lines(documents: Iterator[str]) -> Iterator[str]:
    for document in documents:
        yield document + "\n"


def _spec(body: NewJob) -> Spec:
    try:
        return parse_spec(body.spec)
    except SpecError as error:
        raise SpecError(*(replace(p, field=f"spec.{p.field}" if p.field else "spec") for p in error.problems)) from None


@contextmanager
def _fields_of_the_body() -> Iterator[None]:
    """What is found about the spec after it was read is named as in the body too."""
    try:
        yield
    except InputError as error:
        inside = (p.field.partition(".")[0] in Spec.model_fields for p in error.problems)
        named = (replace(p, field=f"spec.{p.field}") if spec else p for p, spec in zip(error.problems, inside, strict=True))
        raise type(error)(*named) from None
