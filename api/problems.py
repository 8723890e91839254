"""Every error as one shape: RFC 9457 problem+json."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from certify.errors import AssayError, InputError, Problem
from storage.errors import Conflict, DamagedArtifact, LostLease, NotFound

log = structlog.get_logger()

# The nearest class in the tree decides; whatever is not listed is our fault.
STATUS: dict[type[AssayError], int] = {
    InputError: 422,
    NotFound: 404,
    Conflict: 409,
    LostLease: 409,
    DamagedArtifact: 500,
}
_LOGIN = {"WWW-Authenticate": 'Bearer realm="assay"'}


class Unauthorized(AssayError):
    """The request has no valid key."""

    code = "unauthorized"


class TooLarge(InputError):
    """The upload is larger than this service takes."""

    code = "too-large"


STATUS |= {Unauthorized: 401, TooLarge: 413}


class FieldProblem(BaseModel):
    pointer: str
    field: str
    detail: str
    mend: str


class ProblemDetails(BaseModel):
    """RFC 9457; `detail` is one sentence, `errors` names every field with its mend."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FieldProblem]
    request_id: str


def status_of(error: AssayError) -> int:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def install(app: FastAPI) -> None:
    app.add_exception_handler(AssayError, _assay)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def _assay(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AssayError)
    status = status_of(error)
    if status == 500:
        log.error("request failed", action="request_failed", path=request.url.path, error=str(error))
    return _response(request, status, error.code, str(error), error.problems)


def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = tuple(_field(item) for item in error.errors())
    return _response(request, 422, "invalid-input", "; ".join(p.sentence() for p in problems), problems)


def _field(item: dict[str, Any]) -> Problem:
    place = [str(part) for part in item["loc"] if part not in ("body", "query", "path", "header")]
    field = ".".join(place) or "body"
    if item["type"] == "extra_forbidden":
        return Problem(field=field, detail="unknown field", mend="remove it or check its spelling")
    if item["type"] == "missing":
        return Problem(field=field, detail="is required", mend="add it")
    return Problem(field=field, detail=item["msg"][0].lower() + item["msg"][1:], mend="correct the value")


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    detail = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not possible at {request.url.path}"}
    text = detail.get(error.status_code, str(error.detail))
    return _response(request, error.status_code, title.lower().replace(" ", "-"), text, (), dict(error.headers or {}))


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed", action="request_failed", path=request.url.path, exc_info=error)
    return _response(request, 500, "internal-error", "something went wrong on our side; tell the operator the request id", ())


def _response(
    request: Request, status: int, code: str, detail: str, problems: Sequence[Problem], headers: dict[str, str] | None = None
) -> JSONResponse:
    body = ProblemDetails(
        type=f"urn:assay:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=request.url.path,
        code=code,
        errors=[FieldProblem(pointer=p.pointer, field=p.field, detail=p.detail, mend=p.mend) for p in problems],
        request_id=getattr(request.state, "request_id", ""),
    )
    sent = {**(headers or {}), **(_LOGIN if status == 401 else {}), "X-Request-ID": body.request_id}
    return JSONResponse(body.model_dump(), status, headers=sent, media_type="application/problem+json")
