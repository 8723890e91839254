"""Keys, limits and the audit log over REST."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from storage.artifacts import record_blob
from storage.database import Database
from storage.keys import create_key
from storage.settings import Settings
from storage.tenants import ensure_tenant, set_limits
from tests.support.shop import BOUNDS, Shop


class Place:
    """An API with a tenant that has a model and a dataset, and no worker."""

    def __init__(self, folder: Path, client: TestClient) -> None:
        self.client = client
        self.db = Database(f"sqlite:///{folder}/assay.db")
        self.shop = Shop.open(self.db, "acme")
        self.admin = self.key()

    def key(self, *scopes: str, tenant: str = "acme") -> dict[str, str]:
        return {"Authorization": f"Bearer {create_key(self.db, ensure_tenant(self.db, tenant).id, 'test', scopes or ('admin',))[1]}"}

    def submit(self, seed: int, **headers: str) -> Any:
        spec = {"certifiers": [BOUNDS], "seed": seed}
        body = {"model": self.shop.model, "dataset": self.shop.dataset, "spec": spec}
        return self.client.post("/v1/jobs", json=body, headers=headers or self.admin)


def opened(folder: Path, **settings: Any) -> Iterator[Place]:
    with TestClient(create_app(Settings(home=folder, **settings)), raise_server_exceptions=False) as client:
        place = Place(folder, client)
        yield place
        place.db.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield from opened(tmp_path, max_queued_jobs=2)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Place]:
    yield from opened(tmp_path, rate_per_minute=5, failures_per_minute=3)


def bearer(made: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {made.json()['token']}"}


def test_a_teammate_gets_a_key_that_does_what_it_says(place: Place) -> None:
    made = place.client.post("/v1/api-keys", json={"name": "ci", "scopes": ["read"], "expires_in_days": 30}, headers=place.admin)
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    key, ci = made.json(), bearer(made)
    assert made.headers["location"] == f"/v1/api-keys/{key['id']}"
    assert timedelta(days=29) < datetime.fromisoformat(key["expires_at"]) - datetime.now(UTC) <= timedelta(days=30)
    assert place.client.get("/v1/jobs", headers=ci).status_code == 200
    refused = place.submit(0, **ci)
    assert refused.status_code == 403
    assert "jobs:write; the key has read" in refused.json()["detail"]
    shown = place.client.get(f"/v1/api-keys/{key['id']}", headers=place.admin)
    assert key["token"] not in shown.text
    assert shown.json()["last_used_at"] is not None
    assert "token" not in shown.json()
    assert place.client.delete(f"/v1/api-keys/{key['id']}", headers=place.admin).json()["revoked_at"] is not None
    assert place.client.get("/v1/jobs", headers=ci).status_code == 401


def test_a_rotated_key_works_on_with_both_secrets_while_its_grace_lasts(place: Place) -> None:
    made = place.client.post("/v1/api-keys", json={"name": "ci", "scopes": ["read"]}, headers=place.admin)
    path = f"/v1/api-keys/{made.json()['id']}/rotate"
    second = place.client.post(path, json={"grace_seconds": 60}, headers=place.admin)
    third = place.client.post(path, headers=place.admin)
    fourth = place.client.post(path, json={"grace_seconds": 60}, headers=place.admin)
    assert [r.status_code for r in (second, third, fourth)] == [200] * 3
    answers = [place.client.get("/v1/jobs", headers=bearer(r)).status_code for r in (made, second, third, fourth)]
    assert answers == [401, 401, 200, 200]
    assert fourth.json()["previous_until"] is not None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scopes": ["read"]}, "name"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["root"]}, "scopes.0"),
        ({"name": "a", "scopes": ["read"], "expires_in_days": 0}, "expires_in_days"),
        ({"name": "a", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "a", "scopes": ["read"], "expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
        ({"name": "a", "scopes": ["read"], "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"name": "a", "scopes": ["read"], "expires_at": "2030-01-01T00:00:00Z", "expires_in_days": 1}, "body"),
    ],
)
def test_a_key_that_cannot_be_made_is_refused_by_field(place: Place, body: dict[str, Any], field: str) -> None:
    refused = place.client.post("/v1/api-keys", json=body, headers=place.admin)
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == [field]


def test_a_key_that_ends_makes_none_that_outlives_it(place: Place) -> None:
    brief = place.client.post("/v1/api-keys", json={"name": "a", "scopes": ["admin"], "expires_in_days": 1}, headers=place.admin)
    heir = place.client.post("/v1/api-keys", json={"name": "b", "scopes": ["admin"]}, headers=bearer(brief))
    assert heir.json()["expires_at"] == brief.json()["expires_at"]
    longer = place.client.post("/v1/api-keys", json={"name": "b", "scopes": ["read"], "expires_in_days": 2}, headers=bearer(brief))
    assert longer.status_code == 403
    assert "outlive" in longer.json()["detail"]


def test_the_rate_of_a_key_is_told_and_held(slow: Place) -> None:
    other = slow.key()
    answers = [slow.client.get("/v1/jobs", headers=slow.admin) for _ in range(7)]
    assert [r.status_code for r in answers] == [200] * 5 + [429] * 2
    assert [r.headers["ratelimit-remaining"] for r in answers] == ["4", "3", "2", "1", "0", "0", "0"]
    assert answers[0].headers["ratelimit-limit"] == "5"
    refused = answers[-1]
    assert (refused.headers["content-type"], refused.json()["code"]) == ("application/problem+json", "rate-limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 12
    assert refused.headers["x-request-id"] == refused.json()["request_id"]
    assert slow.client.get("/v1/jobs", headers=other).status_code == 200


def test_failures_are_limited_by_address_but_shut_nobody_else_out(slow: Place) -> None:
    wrong = {"Authorization": "Bearer nonsense"}
    answers = [slow.client.get("/v1/jobs", headers=wrong) for _ in range(4)]
    assert [r.status_code for r in answers] == [401] * 3 + [429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert slow.client.get("/v1/jobs", headers=slow.admin).status_code == 200
    assert slow.client.get("/healthz").status_code == 200


def test_jobs_stay_within_the_quota_and_may_go_on_when_one_ends(place: Place) -> None:
    first, _, refused = (place.submit(seed) for seed in range(3))
    assert refused.status_code == 429
    assert refused.json()["code"] == "too-many-jobs"
    assert "2 jobs have not ended, and 2 is the most" in refused.json()["detail"]
    assert "--max-queued-jobs" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0
    assert place.submit(0).json()["id"] == first.json()["id"]  # an unchanged question needs no room
    assert place.client.get("/v1/usage", headers=place.admin).json()["queued_jobs"] == {"used": 2, "limit": 2}
    place.client.post(f"/v1/jobs/{first.json()['id']}/cancel", headers=place.admin)
    assert place.submit(2).status_code == 202
    set_limits(place.db, "acme", max_queued_jobs=3)
    assert place.submit(3).status_code == 202
    assert place.submit(4).status_code == 429


def test_usage_counts_the_bytes_of_the_tenant_alone(place: Place) -> None:
    record_blob(place.db, ensure_tenant(place.db, "other").id, "0" * 64, 10**9)
    used = place.client.get("/v1/usage", headers=place.admin).json()
    assert used["stored_bytes"] == {"used": 300, "limit": 100 * 2**30}
    assert used["requests_per_minute"] == 1200


def test_the_audit_log_names_the_key_and_the_request(place: Place) -> None:
    made = place.client.post("/v1/api-keys", json={"name": "ci", "scopes": ["jobs:write"]}, headers=place.admin)
    job = place.submit(0, **bearer(made))
    assert job.status_code == 202
    told = place.client.get("/v1/audit", params={"action": "job"}, headers=place.admin).json()["items"]
    assert [(e["action"], e["target"], e["key_id"]) for e in told] == [("job.submitted", job.json()["id"], made.json()["id"])]
    assert told[0]["request_id"] == job.headers["x-request-id"]
    everything = place.client.get("/v1/audit", params={"limit": 1}, headers=place.admin)
    assert "next" in everything.links
    assert made.json()["token"].split("_")[-1] not in place.client.get("/v1/audit", params={"limit": 100}, headers=place.admin).text
    theirs = place.client.get("/v1/audit", headers=place.key(tenant="other")).json()["items"]
    assert {e["action"] for e in theirs} == {"tenant.created", "key.created"}
