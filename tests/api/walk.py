"""What the walk over every route needs to know: one example for each path parameter, required body, query and header.

A new route that needs one more fails the walk with a sentence that says which. `{name}` in an example stands for the id of that name,
`{unique}` for a name that nothing has yet.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fastapi.testclient import TestClient

from certify.report import Report
from storage import jobs, shards
from storage.artifacts import record_blob
from storage.database import Database
from storage.keys import create_key
from tests.support.ledgers import Books
from tests.support.regions import candidate
from tests.support.shop import BOUNDS, Shop, answers, digest

# Whoever runs the service may see these; they hold nothing of any tenant.
PUBLIC = {"/healthz", "/readyz", "/metrics"}
PINNED = {"kind": "no-drop", "radius": 0.1, "baseline": "pinned", "level_per_night": 0.01}
BOTH = {"model": "{model_id}", "dataset": "{dataset_id}"}

BODIES: dict[str, Any] = {
    "post /v1/models": {"name": "m", "blob": "{sha256}"},
    "post /v1/datasets": {"name": "d", "blob": "{sha256}"},
    "post /v1/jobs": {**BOTH, "spec": {"certifiers": [BOUNDS], "seed": 7}},
    "post /v1/predictions": {**BOTH, "sigma": 0.25, "n": 100, "seed": 7},
    "post /v1/schedules": {"name": "{unique}", "cron": "0 2 * * *", "template": {**BOTH, "spec": {"certifiers": [BOUNDS], "seed": 9}}},
    "patch /v1/schedules/{schedule_id}": {"template": {**BOTH, "spec": {"certifiers": [BOUNDS], "seed": 9}}},
    "post /v1/gates": {"name": "g", "schedule": "{schedule_id}", "rules": [PINNED, {**PINNED, "baseline": "{job_id}"}]},
    "put /v1/gates/{gate_id}/pin": {"job": "{job_id}"},
    "post /v1/webhooks": {"url": "https://8.8.8.8/hook"},
    "patch /v1/webhooks/{webhook_id}": {"active": True},
    "post /v1/api-keys": {"name": "k", "scopes": ["read"]},
}
QUERIES: dict[str, dict[str, str]] = {
    "get /v1/schedules/preview": {"cron": "0 2 * * *"},
    "get /v1/reports/compare": {"base": "{job_id}", "head": "{later_job_id}"},
}
HEADERS: dict[str, dict[str, str]] = {"patch /v1/schedules/{schedule_id}": {"If-Match": "*"}}
# Routes at which another tenant's id is not another tenant's thing.
SHARED = {"put /v1/blobs/sha256/{sha256}": "the name of bytes, not of a row: who uploads the same bytes has uploaded them"}


def _made(path: str) -> Callable[[World], str]:
    """The id of what POST to a path makes of its own example."""
    return lambda world: str(world.sent(f"post {path}").json()["id"])


def _blob(world: World) -> str:
    sha256 = digest(f"blob of {world.shop.tenant}")
    record_blob(world.place.db, world.shop.tenant, sha256, 100)
    return sha256


def _job(world: World, seed: int = 0) -> str:
    """Ended, with certificates and a report."""
    job, db = world.shop.planned(parts=1, size=8, seed=seed), world.place.db
    lease = shards.lease_shard(db, "walker", 60)
    assert lease is not None
    assert lease.job_id == job.id
    shards.finish_shard(db, lease, answers(lease))
    jobs.finish_job(db, job.id, Report(certifiers=()))
    return job.id


def _ledger(world: World) -> str:
    """With a region, and the job that left it."""
    books, asked = Books(world.shop, world.place.db), [candidate([0, 0, 0, 0], 0, 1.0)]
    job = books.sampled(asked)
    assert books.take(job, asked)
    jobs.finish_job(world.place.db, job.id, Report(certifiers=()))
    return books.ledger().id


MAKERS: dict[str, Callable[[World], str]] = {
    "unique": lambda world: secrets.token_hex(8),
    "sha256": _blob,
    "model_id": lambda world: world.shop.model,
    "dataset_id": lambda world: world.shop.dataset,
    "job_id": _job,
    "later_job_id": lambda world: _job(world, seed=1),
    "ledger_id": _ledger,
    "schedule_id": _made("/v1/schedules"),
    "gate_id": _made("/v1/gates"),
    "webhook_id": _made("/v1/webhooks"),
    "key_id": _made("/v1/api-keys"),
    # The same name, but only jobs that predict are found there.
    "/v1/predictions/{job_id}": _made("/v1/predictions"),
}


@dataclass(frozen=True)
class Operation:
    """One method of one path of the OpenAPI document."""

    method: str
    path: str
    document: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def scopes(self) -> list[str]:
        (stated,) = self.document.get("security", [{}])
        return list(stated.get("HTTPBearer", []))

    @property
    def in_path(self) -> list[str]:
        """What stands for each parameter of the path: its name, or the whole path where the name alone does not say which thing."""
        names = [p["name"] for p in self.document.get("parameters", []) if p["in"] == "path"]
        return [self.path if self.path in MAKERS else name for name in names]

    @property
    def body(self) -> Any:
        taken = self.document.get("requestBody", {})
        if not taken.get("required") or "application/json" not in taken["content"]:
            return None
        assert self.name in BODIES, f"{self.name} needs a body: add an example to BODIES in tests/api/walk.py"
        return BODIES[self.name]

    @property
    def query(self) -> dict[str, str]:
        needed = {p["name"] for p in self.document.get("parameters", []) if p["in"] == "query" and p["required"]}
        missing = sorted(needed - set(QUERIES.get(self.name, {})))
        assert not missing, f"{self.name} needs the query parameters {missing}: add examples to QUERIES in tests/api/walk.py"
        return QUERIES.get(self.name, {})

    @property
    def optional(self) -> list[str]:
        """Query parameters that may be left out."""
        return [p["name"] for p in self.document.get("parameters", []) if p["in"] == "query" and not p["required"]]

    @property
    def ids(self) -> list[str]:
        """Names of all that it names of a tenant, in its path, query or body."""
        named = re.findall(r"'\{(\w+)\}'", str((BODIES.get(self.name), QUERIES.get(self.name))))
        return [*self.in_path, *(name for name in dict.fromkeys(named) if name != "unique")]


def operations(document: Mapping[str, Any]) -> list[Operation]:
    return [Operation(method, path, found) for path, methods in document["paths"].items() for method, found in methods.items()]


@dataclass
class Place:
    """An API with two tenants who each have one of everything, and no worker."""

    url: str
    client: TestClient

    def __post_init__(self) -> None:
        self.db = Database(self.url)
        self.acme, self.other = World(self, Shop.open(self.db, "acme")), World(self, Shop.open(self.db, "other"))

    @cached_property
    def operations(self) -> dict[str, Operation]:
        return {operation.name: operation for operation in operations(self.client.get("/openapi.json").json())}


@dataclass
class World:
    """What one tenant has."""

    place: Place
    shop: Shop
    ids: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.admin = self.key("admin")

    def key(self, *scopes: str) -> str:
        return f"Bearer {create_key(self.place.db, self.shop.tenant, 'walk', scopes)[1]}"

    def sent(self, name: str, key: str | None = None, **instead: str) -> Any:
        """The answer to an operation with its examples, which are this tenant's but for those given `instead`; with its admin key
        unless another value of the Authorization header is given."""
        return self._request(name, self.admin if key is None else key, {}, instead)

    def asked(self, name: str, query: Mapping[str, str]) -> Any:
        """The same with something more in the query."""
        return self._request(name, self.admin, query, {})

    def _request(self, name: str, key: str, query: Mapping[str, str], instead: Mapping[str, str]) -> Any:
        found = self.place.operations[name]
        path = found.path
        for stands in found.in_path:
            path = re.sub(r"\{\w+\}", instead.get(stands) or self.id(stands, found.path), path, count=1)
        body = {} if found.body is None else {"json": self._filled(found.body, instead)}
        headers = {**HEADERS.get(name, {}), **({"Authorization": key} if key else {})}
        params = {**self._filled(found.query, instead), **query}
        return self.place.client.request(found.method, path, params=params, headers=headers, **body)

    def id(self, name: str, path: str = "") -> str:
        """Of one thing of the tenant's for each name, made when it is first asked for."""
        assert name in MAKERS, f"nothing is known for {{{name}}} of {path}: add how to make one to MAKERS in tests/api/walk.py"
        if name == "unique":
            return MAKERS[name](self)
        if name not in self.ids:
            self.ids[name] = MAKERS[name](self)
        return self.ids[name]

    def _filled(self, example: Any, instead: Mapping[str, str]) -> Any:
        if isinstance(example, dict):
            return {key: self._filled(value, instead) for key, value in example.items()}
        if isinstance(example, list):
            return [self._filled(value, instead) for value in example]
        name = re.fullmatch(r"\{(\w+)\}", example) if isinstance(example, str) else None
        return example if name is None else instead.get(name[1]) or self.id(name[1])

    def secrets(self) -> set[str]:
        """Everything that would give the tenant away."""
        return {*self.ids.values(), self.shop.tenant, self.shop.model, self.shop.dataset}
