"""The OpenAPI document is complete: every operation shows an example of what it takes and gives, and every error it may answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from api.app import app, create_app
from api.openapi import EXAMPLES
from storage.settings import Settings
from tests.api.walk import PUBLIC, Operation, Place, operations

DOCUMENT = app.openapi()
ALL = operations(DOCUMENT)
KEYED = [operation for operation in ALL if operation.path not in PUBLIC]
# What only a layer in front of the routes adds, to every response alike.
PLAIN = {"content-length", "content-type", "date", "server", "vary", "cache-control", "x-accel-buffering"}


def each(found: list[Operation]) -> Any:
    return pytest.mark.parametrize("operation", found, ids=lambda operation: operation.name)


def bodies(operation: Operation) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where, the media type and its description, of what it takes and of what it answers when all is well."""
    for media, described in operation.document.get("requestBody", {}).get("content", {}).items():
        yield "request", media, described
    for code, response in operation.document["responses"].items():
        for media, described in response.get("content", {}).items():
            yield code, media, described


def valid(example: Any, schema: dict[str, Any]) -> None:
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(example)


@each(ALL)
def test_everything_has_an_example_that_fits(operation: Operation) -> None:
    for where, media, described in bodies(operation):
        if media == "application/octet-stream":
            continue
        assert "example" in described, f"{operation.name}: {where} {media} has no example: add one to api/examples.json"
        if "itemSchema" not in described:
            valid(described["example"], described["schema"])


@each(KEYED)
def test_every_error_is_described(operation: Operation) -> None:
    responses = operation.document["responses"]
    needed = {401, 403, 422, 429, 503}
    needed |= {404} if "{" in operation.path else set()
    needed |= {409, 413} if operation.method == "post" else set()
    needed |= {413} if operation.method in ("put", "patch") else set()
    needed |= {415} if "application/json" in operation.document.get("requestBody", {}).get("content", {}) else set()
    assert needed <= {int(code) for code in responses}
    for code, response in responses.items():
        if int(code) >= 400:
            assert list(response["content"]) == ["application/problem+json"]
            assert response["description"]
            assert ("Retry-After" in response["headers"]) == (code in ("409", "429", "503"))
        assert "X-Request-ID" in response["headers"]


def test_operations_are_named_as_a_client_would_call_them() -> None:
    names = [operation.document["operationId"] for operation in ALL]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    known = {tag["name"] for tag in DOCUMENT["tags"]}
    for operation in ALL:
        assert set(operation.document["tags"]) <= known, f"{operation.name}: describe its tag in api/openapi.py"
        assert operation.document.get("description"), f"{operation.name}: its function needs a docstring"
    assert not [name for name in DOCUMENT["components"]["schemas"] if not re.fullmatch(r"[A-Za-z]+", name)]


def test_every_example_is_shown() -> None:
    shown = {json.dumps(described.get("example")) for operation in ALL for _, _, described in bodies(operation)}
    pages = {json.dumps(item) for text in shown if '"next_cursor"' in text for item in json.loads(text)["items"]}
    for name, example in EXAMPLES.items():
        assert json.dumps(example) in shown | pages, f"nothing shows the example {name}"


def test_a_spec_is_described_where_it_is_taken_and_given() -> None:
    for name in ("NewJob", "JobOut", "NewTemplate", "TemplateOut"):
        assert DOCUMENT["components"]["schemas"][name]["properties"]["spec"] == {"$ref": "#/components/schemas/Spec"}
    valid(EXAMPLES["NewJob"]["spec"], {"$ref": "#/components/schemas/Spec"})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("home")
    with TestClient(create_app(Settings(home=home, rate_per_minute=10_000)), raise_server_exceptions=False) as client:
        found = Place(f"sqlite:///{Path(home)}/assay.db", client)
        yield found
        found.db.close()


@each(sorted(ALL, key=lambda operation: operation.method == "delete"))
def test_what_comes_back_is_what_is_described(place: Place, operation: Operation) -> None:
    """Status, headers, media type and content of a real answer."""
    sent = place.acme.sent(operation.name)
    described = operation.document["responses"].get(str(sent.status_code))
    assert described is not None, f"{operation.name} answers {sent.status_code}, which is not described: {sent.text}"
    headers = {name.lower() for name in described["headers"]}
    assert set(sent.headers) - PLAIN <= headers
    assert {name for name in headers if name.startswith(("x-request", "ratelimit"))} <= set(sent.headers)
    media = sent.headers.get("content-type", "").partition(";")[0]
    if sent.content:
        assert media in described["content"]
        if media.endswith("json"):
            valid(sent.json(), described["content"][media]["schema"])
