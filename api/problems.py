"""Every error as one shape: RFC 9457 problem+json."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from certify.errors import AssayError, InputError, Problem, found
from storage.errors import (
    Busy,
    Conflict,
    DamagedArtifact,
    Forbidden,
    LostLease,
    NotFound,
    QuotaExceeded,
    RevisionNeeded,
    Stale,
    StorageFull,
)

log = structlog.get_logger()

# The nearest class in the tree decides; whatever is not listed is our fault.
STATUS: dict[type[AssayError], int] = {
    InputError: 422,
    NotFound: 404,
    Conflict: 409,
    LostLease: 409,
    DamagedArtifact: 500,
    Busy: 503,
    Forbidden: 403,
    QuotaExceeded: 429,
    StorageFull: 413,
    Stale: 412,
    RevisionNeeded: 428,
}
_ALWAYS = {401: {"WWW-Authenticate": 'Bearer realm="assay"'}, 429: {"Retry-After": "30"}, 503: {"Retry-After": "2"}}
_CODES = {413: "too-large"}  # its name differs between Pythons


class Unauthorized(AssayError):
    """The request has no valid key."""

    code = "unauthorized"


class TooLarge(InputError):
    """The upload is larger than this service takes."""

    code = "too-large"


class NotAcceptable(InputError):
    """None of the forms that the client accepts exists."""

    code = "not-acceptable"


STATUS |= {Unauthorized: 401, TooLarge: 413, NotAcceptable: 406}


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
    app.add_exception_handler(HTTPException, refusal)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


def answer(request: Request, error: AssayError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response that an error is, for routes that have headers to add to it."""
    status = status_of(error)
    if status >= 500:
        log.error("request failed", action="request_failed", path=request.url.path, error=str(error), cause=str(error.__cause__ or ""))
    return _response(request, status, error.code, str(error), error.problems, headers)


def _assay(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AssayError)
    return answer(request, error)


def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if any(item["loc"] == ("body",) and isinstance(item.get("input"), bytes) for item in error.errors()):
        sent = request.headers.get("content-type") or "nothing"
        form = Problem(field="Content-Type", detail=f"is {sent[:100]}", mend="send JSON, and say so: Content-Type: application/json")
        return _response(request, 415, "unsupported-media-type", form.sentence(), [form])
    problems = tuple(_field(item) for item in error.errors())
    return _response(request, 422, "invalid-input", "; ".join(p.sentence() for p in problems), problems)


def _field(item: dict[str, Any]) -> Problem:
    if item["type"] == "json_invalid":
        return Problem(field="body", detail=f"is not JSON: {item['ctx']['error']} at character {item['loc'][-1]}", mend="correct it there")
    place = ".".join(str(part) for part in item["loc"][1:])  # the first part says query, path, header or body
    return replace(found({**item, "loc": ()}), field=place or "body")


def refusal(request: Request, error: Exception) -> JSONResponse:
    """The response that an error of the framework is."""
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # FastAPI's only use: a body that JSON allows and no reader takes
        body = Problem(field="body", detail="is JSON nested too deeply, or holds a number too long to read", mend="simplify it")
        return _response(request, 422, "invalid-input", body.sentence(), [body])
    title = HTTPStatus(error.status_code).phrase
    detail = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not possible at {request.url.path}"}
    text = detail.get(error.status_code, str(error.detail))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed(request) or headers.get("Allow", "")
    code = _CODES.get(error.status_code, title.lower().replace(" ", "-"))
    return _response(request, error.status_code, code, text, (), headers)


def _allowed(request: Request) -> str:
    """The methods of a path: all of them, though each route knows only its own."""
    for template, methods in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), request.url.path):
            return ", ".join(sorted(method.upper() for method in methods))
    return ""


def _gone(request: Request, error: Exception) -> Response:
    """The client hung up while it was sending; nobody reads this."""
    log.info("client gone", action="client_gone", path=request.url.path)
    return Response(status_code=400)


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed", action="request_failed", path=request.url.path, exc_info=error)
    return _response(request, 500, "internal-error", "something went wrong on our side; tell the operator the request id", ())


def _response(
    request: Request, status: int, code: str, detail: str, problems: Sequence[Problem], headers: Mapping[str, str] | None = None
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
    sent = {**_ALWAYS.get(status, {}), **(headers or {}), "X-Request-ID": body.request_id}
    return JSONResponse(body.model_dump(), status, headers=sent, media_type="application/problem+json")
