"""Every route of the OpenAPI document: no key, wrong keys, too small a scope, another tenant's ids. New routes are walked unasked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from api.app import app, create_app
from storage.guard import ForgottenTenant
from storage.keys import create_key, revoke_key
from storage.scopes import ADMIN, SCOPES
from storage.settings import Settings
from storage.tables import api_keys
from tests.api.walk import MAKERS, PUBLIC, SHARED, Operation, Place, operations
from tests.architecture.sizes import ROOT
from tests.support import postgres

ALL = operations(app.openapi())
KEYED = [operation for operation in ALL if operation.path not in PUBLIC]
READS = [operation for operation in KEYED if operation.method == "get"]


def each(found: list[Operation]) -> Any:
    return pytest.mark.parametrize("operation", found, ids=lambda operation: operation.name)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('walk')}/assay.db"
        return
    try:
        with postgres.server() as running, running.database() as found:
            yield found
    except postgres.NoPostgres as error:
        pytest.skip(f"NOT TESTED ON POSTGRESQL: {error}")


@pytest.fixture(scope="module")
def place(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    limits = {"failures_per_minute": 10_000, "rate_per_minute": 10_000}
    settings = Settings(home=tmp_path_factory.mktemp("home"), database_url=url, **limits)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        found = Place(url, client)
        yield found
        found.db.close()


@pytest.fixture(scope="module")
def wrong_keys(place: Place) -> dict[str, str]:
    """What somebody might send who has no valid key."""
    tenant, good = place.acme.shop.tenant, place.acme.admin
    revoked, token = create_key(place.db, tenant, "revoked")
    revoke_key(place.db, tenant, revoked.id)
    expired, late = create_key(place.db, tenant, "expired", expires_at=datetime.now(UTC) + timedelta(hours=1))
    with place.db.begin() as connection:
        connection.execute(sa.update(api_keys).where(api_keys.c.id == expired.id).values(expires_at=datetime.now(UTC)))
    return {
        "none": "",
        "nonsense": "Bearer nonsense",
        "another kind": good.replace("Bearer", "Basic"),
        "unknown": f"Bearer assay_{'0' * 26}_{'0' * 64}",
        "another secret": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "revoked": f"Bearer {token}",
        "expired": f"Bearer {late}",
    }


def problem(answer: Any, status: int, operation: Operation) -> str:
    """The sentence of a refusal; there is none in an answer to HEAD."""
    assert answer.status_code == status, f"{operation.name}: {answer.status_code} {answer.text}"
    if operation.method == "head":
        return ""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    return str(answer.json()["detail"])


def test_nothing_is_left_out_of_the_walk() -> None:
    assert len(KEYED) >= 25
    assert {operation.path for operation in ALL if not operation.path.startswith("/v1/")} == PUBLIC
    hidden = re.compile(r"include_in_schema|\.mount\(|add_route|add_websocket|\.websocket\(")
    assert [path.name for path in (ROOT / "api").rglob("*.py") if hidden.search(path.read_text())] == []


@each(KEYED)
def test_the_walk_knows_an_example(operation: Operation) -> None:
    missing = [name for name in operation.in_path if name not in MAKERS]
    assert not missing, f"nothing is known for {missing} of {operation.name}: add how to make one to MAKERS in tests/api/walk.py"
    assert (operation.body, operation.query) is not None  # each says itself what it lacks


@each(KEYED)
def test_a_route_states_the_scope_it_needs(operation: Operation) -> None:
    assert operation.scopes, f"{operation.name} states no scope: give its `tenant` one of the types of api/security.py"
    assert set(operation.scopes) <= set(SCOPES)
    assert operation.method in ("get", "head") or "read" not in operation.scopes, f"{operation.name} changes something for readers"


@each(KEYED)
def test_without_a_valid_key_there_is_nothing(operation: Operation, place: Place, wrong_keys: dict[str, str]) -> None:
    for name, value in wrong_keys.items():
        answer = place.acme.sent(operation.name, value)
        told = problem(answer, 401, operation)
        assert "Bearer" in answer.headers["www-authenticate"], name
        assert not any(secret in told for secret in place.acme.secrets())


@each(KEYED)
def test_all_other_scopes_together_are_not_enough(operation: Operation, place: Place) -> None:
    others = [scope for scope in SCOPES if scope not in (*operation.scopes, ADMIN)]
    told = problem(place.acme.sent(operation.name, place.acme.key(*others)), 403, operation)
    assert operation.method == "head" or all(scope in told for scope in (*operation.scopes, *others))


@each(KEYED)
def test_its_own_scope_is_enough(operation: Operation, place: Place) -> None:
    for scope in operation.scopes:
        gone = {name: place.acme.ids.pop(name, None) for name in operation.in_path if operation.method == "delete"}
        answer = place.acme.sent(operation.name, place.acme.key(scope))
        place.acme.ids.update({name: kept for name, kept in gone.items() if kept})
        # 409 and 422: what the example asks for cannot be done just now, but everything it names was found.
        assert answer.status_code < 300 or answer.status_code in (409, 422), f"{operation.name}: {answer.status_code} {answer.text}"


NAMED = [(operation, name) for operation in KEYED if operation.name not in SHARED for name in operation.ids]


@pytest.mark.parametrize(("operation", "name"), NAMED, ids=lambda part: getattr(part, "name", part))
def test_the_ids_of_another_tenant_do_not_exist(operation: Operation, name: str, place: Place) -> None:
    theirs = place.acme.id(name)
    nobodys = "0" * 64 if name == "sha256" else f"{theirs.partition('_')[0]}_{'0' * 26}"
    answer, same = (place.other.sent(operation.name, **{name: value}) for value in (theirs, nobodys))
    # Only a body may be refused as a whole, for all that is wrong with it.
    told = problem(answer, 422 if answer.status_code == 422 and name not in operation.in_path else 404, operation)
    assert (answer.status_code, told) == (same.status_code, problem(same, same.status_code, operation).replace(nobodys, theirs))
    assert not any(secret in told for secret in place.acme.secrets() - {theirs})


NOUNS = {"model": "model_id", "dataset": "dataset_id", "job": "job_id", "schedule": "schedule_id", "gate": "gate_id"}
NOUNS |= {"base": "job_id", "head": "job_id", "run": "schedule_id"}
FILTERS = [(read, noun) for read in READS for noun in read.optional if noun in NOUNS]


@pytest.mark.parametrize(("operation", "noun"), FILTERS, ids=lambda part: getattr(part, "name", part))
def test_filters_find_nothing_of_another_tenant(operation: Operation, noun: str, place: Place) -> None:
    theirs = place.acme.id(NOUNS[noun])
    nobodys = f"{theirs.partition('_')[0]}_{'0' * 26}"
    place.acme.sent(operation.name)
    answer, same = (place.other.asked(operation.name, {noun: value}) for value in (theirs, nobodys))
    assert (answer.status_code, _plain(answer)) == (same.status_code, _plain(same).replace(nobodys, theirs))
    assert not any(secret in answer.text for secret in place.acme.secrets() - {theirs})


def test_strangers_change_nothing(place: Place) -> None:
    before = {read.name: _seen(place, read) for read in READS}
    for operation, name in NAMED:
        place.other.sent(operation.name, **{name: place.acme.id(name)})
    for read, seen in before.items():
        assert _seen(place, place.acme.place.operations[read]) == seen, f"{read} shows that a stranger changed something"


@each(READS)
def test_a_tenant_is_shown_nothing_of_another(operation: Operation, place: Place) -> None:
    for read in READS:
        place.acme.sent(read.name)  # so that one of everything is there
    answer = place.other.sent(operation.name)
    assert answer.status_code < 300 or answer.status_code in (409, 422)
    assert not any(secret in answer.text for secret in place.acme.secrets())


def test_the_database_of_the_api_is_guarded(place: Place) -> None:
    with pytest.raises(ForgottenTenant), place.client.app.state.db.read() as connection:  # type: ignore[attr-defined]
        connection.execute(sa.select(api_keys))


def _seen(place: Place, read: Operation) -> tuple[int, str]:
    answer = place.acme.sent(read.name)
    return answer.status_code, _plain(answer)


def _plain(answer: Any) -> str:
    """The text without what differs from request to request."""
    return re.sub(r'"(last_used_at|request_id)":("[^"]*"|null)', "", answer.text)
