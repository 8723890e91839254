"""Smoothed predictions: jobs that only predict, asked and answered in their own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Request, Response

from api.caching import KEEPABLE, keepable
from api.openapi import also
from api.paging import Cursor, Limit, page
from api.schemas import AnswerOut, NewPrediction, PredictionOut, PredictionPageOut
from api.security import By, CanRead, CanWriteJobs, Conf, Db
from certify.errors import InputError
from certify.question import in_own_words, is_prediction, ledger_prediction_spec, prediction_spec
from certify.spec import Spec
from storage import jobs, results
from storage.database import Database
from storage.errors import NotFound
from storage.ledger_rows import get_ledger

router = APIRouter(prefix="/v1/predictions", tags=["predictions"])
UNCHANGED: dict[int | str, Any] = {
    200: {"model": PredictionOut, "description": "an unchanged question: the prediction that already answers it"}
}


@router.post("", status_code=202, responses={**UNCHANGED, **also(404)})
def create_prediction(body: NewPrediction, response: Response, db: Db, conf: Conf, tenant: CanWriteJobs, by: By) -> PredictionOut:
    """Ask for the smoothed classifier's answers at the inputs themselves. It is a job: `/v1/jobs/{id}` cancels it and has its report."""
    with _own_words():
        spec = _spec(db, tenant, body)
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
    response.headers["Location"] = f"/v1/predictions/{job.id}"
    response.headers["Retry-After"] = "2"
    return PredictionOut.of(job, reused=not new)


@router.get("/{job_id}", responses=KEEPABLE)
def get_prediction(
    job_id: str, request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 100, cursor: Cursor = None
) -> PredictionPageOut:
    """How far it is, and a page of the answers there are so far, by example."""
    job = jobs.get_job(db, tenant, job_id)
    if not is_prediction(job.spec):
        raise NotFound.at("prediction", f"{job.id} is a job that does not only predict", f"see GET /v1/jobs/{job.id}/results")
    keepable(request, job.state.ended)
    found = page(results.list_certificates(db, tenant, job_id, limit=limit, cursor=cursor), AnswerOut.of, request, response)
    return PredictionPageOut(**vars(PredictionOut.of(job)), items=found.items, next_cursor=found.next_cursor)


def _spec(db: Database, tenant: str, body: NewPrediction) -> Spec:
    asked = body.model_dump(exclude={"model", "dataset", "name", "ledger"})
    if body.ledger is None:
        return prediction_spec(**asked)
    found = get_ledger(db, tenant, body.ledger)
    more = {name: value for name, value in asked.items() if name not in ("sigma", "noise", "precision")}
    return ledger_prediction_spec(ledger=found.id, version=found.version, rule=found.rule, **more)


@contextmanager
def _own_words() -> Iterator[None]:
    """Errors name the fields of the body, which has no certifiers."""
    try:
        yield
    except InputError as error:
        raise in_own_words(error) from None
