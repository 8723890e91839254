"""The law of every list: its pages together are its rows, each once, whatever is added meanwhile; only its own cursors are taken."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import app, create_app
from certify.certificate import Certificate, PredictionEvidence
from certify.gates import GateOutcome, Judgement
from certify.norms import Norm
from certify.run import Plan
from certify.statement import Statement
from storage import gates, jobs, shards
from storage.cursors import encode
from storage.records_gates import DueGate
from storage.settings import Settings
from tests.api.walk import Operation, Place, World, operations
from tests.support.ledgers import SIGMAS, Books
from tests.support.regions import candidate
from tests.support.shop import answers, digest, ready_dataset, ready_model, shard_plans

LISTS = [operation for operation in operations(app.openapi()) if "cursor" in operation.optional]
COUNT = itertools.count(100)


def _answered(world: World) -> str:
    job, db = world.shop.planned(parts=1, size=8, seed=next(COUNT)), world.place.db
    lease = shards.lease_shard(db, "pager", 60)
    assert lease is not None
    shards.finish_shard(db, lease, answers(lease))
    return job.id


def _predicted(world: World) -> None:
    """Answers of the one prediction, all at once, as its only shard has them."""
    job, db = world.id("/v1/predictions/{job_id}"), world.place.db
    if jobs.plan_job(db, job, Plan(family=1, batch_sizes=(1,)), shard_plans(1, 8)):
        lease = shards.lease_shard(db, "pager", 60)
        assert lease is not None
        votes = PredictionEvidence(sigma=0.25, n=100, counts=(90, 10, 0), p_value=1e-9)
        changed = {
            "kind": "predict",
            "statement": Statement.parse("S0-prediction"),
            "evidence": votes,
            "norm": Norm.L2,
            "radius": 0.0,
            "epsilon_verified": None,
        }
        rows = [row.model_copy(update=changed) for row in answers(lease) if isinstance(row, Certificate)]
        shards.finish_shard(db, lease, rows)


def _judged(world: World) -> None:
    gate = gates.get_gate(world.place.db, world.shop.tenant, world.id("gate_id"))
    found = GateOutcome(judgement=Judgement.PASS, sentence="it holds", checks=())
    assert gates.record_outcome(world.place.db, DueGate(gate=gate, job_id=_answered(world), tick=None), found)


def _posted(path: str) -> Callable[[World], None]:
    def post(world: World) -> None:
        sent = world.sent(f"post {path}")
        assert sent.is_success, sent.text

    return post


def _remembered(world: World, same: bool) -> None:
    """One more region: in the ledger that the walk knows, or in one of a rule that nobody has asked for yet."""
    number = next(COUNT)
    world.id("ledger_id")  # which is made of a job of its own
    books, sigmas = Books(world.shop, world.place.db), SIGMAS if same else (0.25, 0.5 + number / 1000)
    asked = [candidate([number, 0, 0, 0], 0, 0.1)]
    assert books.take(books.sampled(asked, seed=number, sigmas=sigmas), asked, sigmas=sigmas)


# How to add a row to each list; what a finished job has is never added to.
ROWS: dict[str, Callable[[World], Any]] = {
    "/v1/models": lambda world: ready_model(world.place.db, world.shop.tenant, blob=digest(f"model {next(COUNT)}")),
    "/v1/models/{model_id}/versions": lambda world: ready_model(world.place.db, world.shop.tenant, blob=digest(f"model {next(COUNT)}")),
    "/v1/datasets": lambda world: ready_dataset(world.place.db, world.shop.tenant, count=next(COUNT)),
    "/v1/datasets/{dataset_id}/versions": lambda world: ready_dataset(world.place.db, world.shop.tenant, count=next(COUNT)),
    "/v1/jobs": lambda world: world.shop.submit(seed=next(COUNT)),
    "/v1/jobs/{job_id}/results": lambda world: None,
    "/v1/predictions/{job_id}": _predicted,
    "/v1/reports/certificates": _answered,
    "/v1/ledgers": lambda world: _remembered(world, same=False),
    "/v1/ledgers/{ledger_id}/regions": lambda world: _remembered(world, same=True),
    "/v1/schedules": _posted("/v1/schedules"),
    "/v1/schedules/{schedule_id}/runs": _posted("/v1/schedules/{schedule_id}/run"),
    "/v1/gates": _posted("/v1/gates"),
    "/v1/gates/{gate_id}/outcomes": _judged,
    "/v1/webhooks": _posted("/v1/webhooks"),
    "/v1/webhooks/{webhook_id}/deliveries": _posted("/v1/webhooks/{webhook_id}/test"),
    "/v1/api-keys": _posted("/v1/api-keys"),
    "/v1/audit": _posted("/v1/api-keys"),
}
GARBAGE = ["", "x", "é", "====", "a" * 500, base64.urlsafe_b64encode(b"[" * 300).decode(), encode("job\0s", "x"), encode("none", "x")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("home")
    limits = {"rate_per_minute": 10_000, "max_queued_jobs": 10_000, "webhook_private": True}
    with TestClient(create_app(Settings(home=home, **limits)), raise_server_exceptions=False) as client:
        place = Place(f"sqlite:///{home}/assay.db", client)
        yield place.acme
        place.db.close()


def each(found: list[Operation]) -> Any:
    return pytest.mark.parametrize("operation", found, ids=lambda operation: operation.path)


def add(world: World, operation: Operation, times: int) -> None:
    assert operation.path in ROWS, f"say in ROWS how a row gets into {operation.path}"
    for _ in range(times):
        ROWS[operation.path](world)


def page(world: World, operation: Operation, **query: Any) -> Any:
    return world.asked(operation.name, {name: str(value) for name, value in query.items()})


def names(found: list[dict[str, Any]]) -> list[str]:
    """What tells rows apart, without what may change from look to look."""
    plain = [row.get("certificate", row) | {"job": row.get("job")} for row in found]
    return [str(row.get("id") or row.get("number") or (row["job"], row.get("certifier"), row["example"])) for row in plain]


@each(LISTS)
def test_the_pages_are_the_list(world: World, operation: Operation) -> None:
    add(world, operation, 5)
    before = names(page(world, operation, limit=1000).json()["items"])
    assert len(before) == len(set(before)) >= 5
    got: list[str] = []
    cursor: dict[str, str] = {}
    for limit in itertools.cycle((1, 2, 3)):
        sent = page(world, operation, limit=limit, **cursor)
        assert sent.status_code == 200, sent.text
        found = sent.json()
        got += names(found["items"])
        if found["next_cursor"] is None:
            assert "next" not in sent.links
            break
        assert len(found["items"]) == limit
        follow = world.place.client.get(sent.links["next"]["url"], headers={"Authorization": world.admin})
        cursor = {"cursor": found["next_cursor"]}
        assert names(follow.json()["items"]) == names(page(world, operation, limit=limit, **cursor).json()["items"])
        if len(got) < 4:
            add(world, operation, 1)
    assert len(got) == len(set(got)), "a row came twice"
    assert [name for name in got if name in before] == before, "a row was lost or moved"


@each(LISTS)
def test_what_is_no_page_is_refused(world: World, operation: Operation) -> None:
    add(world, operation, 3)
    for limit in (0, -1, 1001, 10**30, "x"):
        assert page(world, operation, limit=limit).status_code == 422
    own = page(world, operation, limit=1).json()["next_cursor"]
    inside = json.loads(base64.urlsafe_b64decode(own + "=="))
    bent = [encode(*inside[:-1]), encode(*inside, 1), encode(inside[0], *([None] * (len(inside) - 1))), encode(*inside[:-1], "\0")]
    huge = [encode(*inside[:-1], 2**63), encode(*inside[:-1], "\ud800"), encode(*inside[:-1], True)]
    others = [
        page(world, other, limit=1).json()["next_cursor"] for other in LISTS if other.path in ("/v1/audit", "/v1/reports/certificates")
    ]
    for cursor in [*GARBAGE, *bent, *huge, *(other for other in others if other != own)]:
        sent = page(world, operation, cursor=cursor)
        assert sent.status_code == 422, (cursor, sent.text)
        assert sent.json()["errors"][0]["field"] == "cursor"


@each(LISTS)
def test_another_tenants_cursor_leads_to_ones_own_rows(world: World, operation: Operation) -> None:
    add(world, operation, 3)
    cursor = page(world, operation, limit=1).json()["next_cursor"]
    theirs = world.place.other.asked(operation.name, {"cursor": cursor})
    assert theirs.status_code == 200
    assert not world.secrets() & {str(value) for row in theirs.json()["items"] for value in row.values()}
