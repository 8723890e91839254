"""The OpenAPI document: what each route says, and what is so for all of them, said here once.

Errors follow from what an operation takes: a key, an id in its path, a body, an `Idempotency-Key`. A route declares only what is its own,
with `also(...)`. Examples stand in `examples.json` under the name of their schema; a test holds them against the schemas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from api.problems import ProblemDetails
from certify.errors import SpecError
from certify.spec import Spec, parse_spec

Json = dict[str, Any]
EXAMPLES: Json = json.loads((Path(__file__).parent / "examples.json").read_text(encoding="utf-8"))
PROBLEM = "application/problem+json"
_REF = "#/components/{}/{}"

# Status: what it means, and the code of the problem in its example.
_MEANING: dict[int, tuple[str, str]] = {
    401: ("no valid key was sent", "unauthorized"),
    403: ("the key lacks the scope", "forbidden"),
    404: ("there is no such thing, or it belongs to another tenant", "not-found"),
    406: ("none of the forms that Accept allows exists", "not-acceptable"),
    409: ("the request does not fit the present state of things", "conflict"),
    412: ("it was changed since it was read", "stale"),
    413: ("too many bytes, at once or for the tenant's quota", "too-large"),
    415: ("the body is not JSON", "unsupported-media-type"),
    422: ("something that was sent is wrong; `errors` names each field and its mend", "invalid-input"),
    428: ("If-Match is missing", "revision-needed"),
    429: ("too many requests, or the quota is used up; Retry-After says when to come back", "rate-limited"),
    503: ("the database is too busy or away; the same request may be sent again", "busy"),
}
_HEADERS: dict[str, tuple[str, str]] = {
    "X-Request-ID": ("names the request in logs and in the audit log", "req_5f0c1b2a3d4e5f60"),
    "RateLimit-Limit": ("requests that the key may make in a minute", "1200"),
    "RateLimit-Remaining": ("requests that the key may make now", "1199"),
    "RateLimit-Reset": ("seconds until it may make all of them again", "1"),
    "Retry-After": ("seconds after which to ask again", "2"),
    "WWW-Authenticate": ("how to send a key", 'Bearer realm="assay"'),
    "Location": ("path of what was made", "/v1/jobs/job_01m7z2kx1wzsgmj3cpxdts3xqh"),
    "Link": ("the next page, if there is one", '<http://127.0.0.1:8000/v1/jobs?cursor=WyJq>; rel="next"'),
    "ETag": ("names this content", '"3"'),
    "Upload-Offset": ("the byte from which to go on with an upload in parts", "16777216"),
    "X-Blob-Size": ("size of the content in bytes", "3394"),
    "Idempotent-Replayed": ("true when the request was carried out before, and this is its answer from then", "true"),
}
_RATES = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
_TAGS = {
    "blobs": "Bytes by their SHA-256; models and datasets are made of them.",
    "models": "ONNX files by name and version, and what a worker found in them.",
    "datasets": "Examples with labels by name and version.",
    "jobs": "One model, one dataset, one spec; certificates come out.",
    "predictions": "What the smoothed classifier answers, without a radius.",
    "reports": "Certified accuracy of one job, and questions across jobs.",
    "ledgers": "Certified regions that a classifier remembers.",
    "schedules": "Jobs that are submitted by the clock.",
    "gates": "What a run has to pass.",
    "webhooks": "Who is told.",
    "keys": "Keys of the API.",
    "account": "What the tenant uses, and who changed what.",
    "health": "For those who keep the service running.",
}


def also(*statuses: int, why: str = "") -> dict[int | str, Json]:
    """For `responses=` of a route: errors that do not follow from what it takes, with a description of their own if need be."""
    return {status: {"description": why or _MEANING[status][0]} for status in statuses}


def text(media: str, example: str, about: str = "") -> Json:
    """For `content` of a response that is not JSON; `example` is its name in examples.json."""
    return {media: {"schema": {"type": "string", **({"description": about} if about else {})}, "example": EXAMPLES[example]}}


def event_stream(example: str) -> Json:
    """The same for server-sent events; `itemSchema` is OpenAPI 3.2's word for what each of them is."""
    event = {"type": "object", "properties": {name: {"type": "string"} for name in ("event", "id", "data")}, "required": ["event", "data"]}
    return {"text/event-stream": {"itemSchema": event, "example": EXAMPLES[example]}}


def operation_id(route: APIRoute) -> str:
    """The function's name: what a generated client calls its method."""
    return route.name


def install(app: FastAPI) -> None:
    def document() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> Json:
    tags = [{"name": name, "description": about} for name, about in _TAGS.items()]
    found = _pages(get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes, tags=tags))
    found["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
    schemas = found["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _add(schemas, ProblemDetails.model_json_schema(ref_template=_REF.format("schemas", "{model}")))
    _add(schemas, Spec.model_json_schema(ref_template=_REF.format("schemas", "{model}")))
    _require_less(schemas)
    found["components"]["headers"] = {
        name: {"description": about, "schema": {"type": "string"}, "example": example} for name, (about, example) in _HEADERS.items()
    }
    for name, schema in schemas.items():
        _refer_to_spec(schema)
        if name in EXAMPLES:
            schema["examples"] = [EXAMPLES[name]]
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            _complete(path, method, operation, schemas)
    return found


def _pages(document: Json) -> Json:
    """`JobPage` instead of `PageOut_JobOut_`: generated clients show these names."""
    plain: Json = json.loads(re.sub(r"PageOut_(\w+?)Out_", r"\1Page", json.dumps(document)))
    for name, schema in plain["components"]["schemas"].items():
        if name.endswith("Page"):
            schema["title"] = name
    return plain


def _add(schemas: Json, schema: Json) -> None:
    schemas |= schema.pop("$defs", {})
    schemas[schema["title"]] = schema


def _require_less(schemas: Json) -> None:
    """What the reader of specs fills in by itself is not asked of who writes one, whatever the types say."""
    for kind, ref in schemas["Spec"]["properties"]["certifiers"]["items"]["discriminator"]["mapping"].items():
        try:
            parse_spec({"certifiers": [{"kind": kind}]})
            missing = {"kind"}
        except SpecError as error:
            missing = {"kind", *(problem.field.rpartition(".")[2] for problem in error.problems if problem.detail == "is required")}
        schema = schemas[ref.rpartition("/")[2]]
        schema["required"] = [name for name in schema["required"] if name in missing]


def _refer_to_spec(schema: Json) -> None:
    """A spec is checked by its own reader, which names its fields; the document says what it reads."""
    spec = schema.get("properties", {}).get("spec", {})
    if spec.get("type") == "object":
        spec.clear()
        spec["$ref"] = _REF.format("schemas", "Spec")


def _complete(path: str, method: str, operation: Json, schemas: Json) -> None:
    responses: Json = operation["responses"]
    if "HTTPValidationError" in json.dumps(responses.get("422", {})):
        del responses["422"]
    parameters = operation.setdefault("parameters", [])
    if method == "post" and path.startswith("/v1/"):
        about = "a new random word for each request; sent again with it, the request happens once"
        parameters.append(_header("Idempotency-Key", about, "0b7c5d2f", minLength=1, maxLength=255, pattern="^[!-~]+$"))
    if "304" in responses:
        parameters.append(_header("If-None-Match", "the ETag of the answer that the client has", _HEADERS["ETag"][1]))
    for status in _errors(path, method, operation):
        responses.setdefault(str(status), {"description": _MEANING[status][0]})
    for code, response in responses.items():
        response.setdefault("headers", {}).update(
            {name: {"$ref": _REF.format("headers", name)} for name in _headers(path, method, operation, int(code))}
        )
        if int(code) >= 400:
            response.setdefault("content", {PROBLEM: _problem(int(code), path)})
        _exemplify(response.get("content", {}), schemas)
    _exemplify(operation.get("requestBody", {}).get("content", {}), schemas)
    operation["responses"] = dict(sorted(responses.items()))
    if not parameters:
        del operation["parameters"]


def _errors(path: str, method: str, operation: Json) -> Iterable[int]:
    if not path.startswith("/v1/"):
        return
    yield from (401, 403, 422, 429, 503)
    if "{" in path:
        yield 404
    if method in ("post", "put", "patch"):
        yield 413
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        yield 415
    if method == "post":
        yield 409  # of the Idempotency-Key at least
    if any(len(response.get("content", {})) > 1 for response in operation["responses"].values()):
        yield 406


def _headers(path: str, method: str, operation: Json, status: int) -> Iterable[str]:
    yield "X-Request-ID"
    if not path.startswith("/v1/"):
        return
    yield from _RATES
    good = status < 300
    if status in (409, 429, 503) or (status == 202 and method == "post" and "{" not in path):
        yield "Retry-After"
    if status == 401:
        yield "WWW-Authenticate"
    if method == "post" and good:
        yield "Idempotent-Replayed"
        if "{" not in path or path.endswith("/run"):
            yield "Location"
    if method == "get" and good and any(p["name"] == "cursor" for p in operation["parameters"]):
        yield "Link"
    if "/blobs/" in path and (status in (202, 409) or (method == "head" and status == 404)):
        yield "Upload-Offset"
    if method == "head" and good:
        yield "X-Blob-Size"
    if status == 304 or (
        good and ("304" in operation["responses"] or "ScheduleOut" in json.dumps(operation["responses"].get(str(status))))
    ):
        yield "ETag"


def _problem(status: int, path: str) -> Json:
    meaning, code = _MEANING[status]
    example = {
        "type": f"urn:assay:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": meaning,
        "instance": path,
        "code": code,
        "errors": [{"pointer": "/name", "field": "name", "detail": "is required", "mend": "add it"}] if status == 422 else [],
        "request_id": _HEADERS["X-Request-ID"][1],
    }
    return {"schema": {"$ref": _REF.format("schemas", "ProblemDetails")}, "example": example}


def _exemplify(content: Json, schemas: Json) -> None:
    """An example of its schema for each JSON body."""
    media = content.get("application/json", {})
    schema = media.get("schema", {})
    name = next(iter(schema.get("anyOf", [schema]))).get("$ref", "").rpartition("/")[2]
    if name in EXAMPLES:
        media["example"] = EXAMPLES[name]
    elif name.endswith("Page"):
        items = schemas[name]["properties"]["items"]["items"]
        one = items.get("$ref", "").rpartition("/")[2] or "Finding"
        media["example"] = {"items": [EXAMPLES[one]] if one in EXAMPLES else [], "next_cursor": None}


def _header(name: str, about: str, example: str, **form: Any) -> Json:
    schema = {"type": "string", **form}
    return {"name": name, "in": "header", "required": False, "description": about, "schema": schema, "example": example}
