"""Everything the OpenAPI document allows, and what it forbids, is asked of the service: no 5xx, no answer that is not described.

Cases are drawn by schemathesis from the schemas: their examples, their edges, and at random. Ids that lead nowhere would only ever be
answered with 404, so half of the cases get those of things that exist.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from schemathesis import engine
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events

from api.app import create_app
from storage.settings import Settings
from tests.api.walk import Place
from tests.storage.conftest import pg_server

__all__ = ["pg_server"]
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)
# A precondition is looked at before the body.
REFUSED = {"negative_data_rejection": {"enabled": True, "expected-statuses": [400, 401, 403, 404, 405, 406, 409, 412, 413, 415, 422, 428]}}
KNOWN = {"model": "model_id", "dataset": "dataset_id", "job": "job_id", "base": "job_id", "head": "later_job_id", "blob": "sha256"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("home")
    if request.param == "sqlite":
        yield from _place(home, f"sqlite:///{home}/assay.db")
    else:
        with request.getfixturevalue("pg_server").database() as url:
            yield from _place(home, url)


def _place(home: Path, url: str) -> Iterator[Place]:
    plenty = {"rate_per_minute": 10**6, "failures_per_minute": 10**6, "max_queued_jobs": 10**6, "webhook_private": True}
    with TestClient(create_app(Settings(home=home, database_url=url, **plenty)), raise_server_exceptions=False) as client:
        found = Place(url, client)
        yield found
        found.db.close()


def surprises(place: Place, *, examples: int, seed: int = 1) -> tuple[list[str], int]:
    """What schemathesis finds wrong, and how many requests it made."""
    config = {
        "seed": seed,
        "headers": {"Authorization": place.acme.admin},
        "request-timeout": 60,  # machines that test are busy
        "max-stream-events": 3,
        "generation": {"max-examples": examples, "no-shrink": True, "database": "none", "deterministic": True},
        "checks": {"enabled": False, **{name: {"enabled": True} for name in CHECKS}, **REFUSED},
        "phases": {"stateful": {"enabled": False}},
    }
    schema = schemathesis.openapi.from_asgi("/openapi.json", place.client.app, config=SchemathesisConfig.from_dict(config))
    chance = random.Random(seed)

    @schemathesis.hook("before_call")
    def lead_somewhere(_context: Any, case: Any, _kwargs: Any) -> None:
        if case.meta.generation.mode.is_positive and chance.random() < 0.5:
            _lead_somewhere(case, place)

    try:
        return _told(engine.from_schema(schema))
    finally:
        schemathesis.hooks.unregister_all() if hasattr(schemathesis, "hooks") else None


def _lead_somewhere(case: Any, place: Place) -> None:
    for name in case.path_parameters or {}:
        case.path_parameters[name] = place.acme.id(name, case.path)
    for part in (case.query, case.body):
        if isinstance(part, dict):
            for name, known in KNOWN.items():
                if isinstance(part.get(name), str):
                    part[name] = place.acme.id(known)


def _told(run: Any) -> tuple[list[str], int]:
    found, requests = [], 0
    for event in run.execute():
        if isinstance(event, (events.NonFatalError, events.FatalError)):
            found.append(str(event.info if isinstance(event, events.NonFatalError) else event.exception))
        if not isinstance(event, events.ScenarioFinished):
            continue
        requests += len(event.recorder.interactions)
        for case_id, checks in event.recorder.checks.items():
            for check in checks:
                if check.failure_info is not None:
                    sent = event.recorder.interactions[case_id]
                    found.append(f"{event.recorder.label} [{check.name}] {check.failure_info.failure}\n  {_shown(sent)}")
    return found, requests


def _shown(sent: Any) -> str:
    body = sent.request.body if sent.request.body is not None else b""
    answer = sent.response.text[:400] if sent.response else ""
    return f"{sent.request.method} {sent.request.uri} {body[:300]!r} -> {sent.response.status_code if sent.response else None} {answer}"


def test_no_surprises(place: Place) -> None:
    found, requests = surprises(place, examples=3)
    assert not found, f"{len(found)} of {requests}:\n" + "\n".join(found)
    assert requests > 1000


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_no_surprises_after_many_more(place: Place, seed: int) -> None:
    found, requests = surprises(place, examples=60, seed=seed)
    assert not found, f"{len(found)} of {requests}:\n" + "\n".join(found)
