"""Many clients of several tenants at once, who do everything a client does, and note what they should never see."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from certify.report import Report
from certify.run import Plan
from storage import jobs, shards
from storage.database import Database
from storage.keys import create_key
from tests.support.server import Server
from tests.support.shop import BOUNDS, Shop, answers, shard_plans

_ID = re.compile(r"\b(?:mdl|dat|job|sch|whk|key|ten)_[0-9a-z]{26}\b")
MIB = 2**20


@dataclass
class Tenant:
    """One tenant, its key, and the jobs its clients know of."""

    shop: Shop
    token: str
    jobs: list[str] = field(default_factory=list)


@dataclass
class Crowd:
    """`statuses` counts answers, `strange` says what was wrong, `seen` who saw which id; `owners` whose it is."""

    server: Server
    tenants: list[Tenant]
    statuses: Counter[int] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)
    slowest: float = 0.0

    @classmethod
    def of(cls, server: Server, tenants: int) -> Crowd:
        shops = [Shop.open(server.db, f"tenant {number}") for number in range(tenants)]
        return cls(server, [Tenant(shop, create_key(server.db, shop.tenant, "crowd")[1]) for shop in shops])

    def run(self, clients: int, seconds: float) -> None:
        """`clients` at once for some seconds, with a worker that answers what they submit."""
        stop = threading.Event()
        worker = threading.Thread(target=_work, args=(Database(self.server.db.url), stop))
        worker.start()
        try:
            asyncio.run(self._all(clients, time.monotonic() + seconds))
        finally:
            stop.set()
            worker.join()

    async def _all(self, clients: int, end: float) -> None:
        await asyncio.gather(*(self._client(self.tenants[n % len(self.tenants)], random.Random(n), end) for n in range(clients)))

    async def _client(self, tenant: Tenant, chance: random.Random, end: float) -> None:
        headers = {"Authorization": f"Bearer {tenant.token}"}
        async with httpx.AsyncClient(base_url=self.server.url, headers=headers, timeout=60.0) as http:
            one = _Client(self, tenant, chance, http)
            weights: dict[Callable[[], Awaitable[None]], int] = {
                one.submit: 3,
                one.look: 6,
                one.lists: 4,
                one.results: 3,
                one.watch: 3,
                one.upload: 2,
                one.upload_in_parts: 1,
                one.cancel: 1,
                one.trespass: 1,
            }
            while time.monotonic() < end:
                action = chance.choices(list(weights), list(weights.values()))[0]
                try:
                    await action()
                except httpx.HTTPError as error:
                    self.strange.append(f"{action.__name__}: {type(error).__name__} {error}")
                self.actions[action.__name__] += 1
                await asyncio.sleep(chance.random() * 0.1)

    def leaks(self) -> list[str]:
        """Ids that a tenant saw and that are another's, or nobody's."""
        owners = self._owners()
        return [f"{tenant} saw {id_} of {owners.get(id_)}" for tenant, id_ in self.seen if owners.get(id_) != tenant]

    def _owners(self) -> dict[str, str]:
        found: dict[str, str] = {}
        with self.server.db.read() as connection:
            for table in ("models", "datasets", "jobs", "api_keys"):
                found |= dict(connection.exec_driver_sql(f"SELECT id, tenant_id FROM {table}").all())
        return found | {tenant.shop.tenant: tenant.shop.tenant for tenant in self.tenants}


class _Client:
    """One client of one tenant."""

    def __init__(self, crowd: Crowd, tenant: Tenant, chance: random.Random, http: httpx.AsyncClient) -> None:
        self.crowd, self.tenant, self.chance, self.http = crowd, tenant, chance, http

    async def ask(self, method: str, path: str, *expected: int, **request: Any) -> httpx.Response:
        began = time.monotonic()
        answer = await self.http.request(method, path, **request)
        self.crowd.slowest = max(self.crowd.slowest, time.monotonic() - began)
        self.note(answer, answer.text if method != "HEAD" else "", expected)
        return answer

    def note(self, answer: httpx.Response, text: str, expected: tuple[int, ...]) -> None:
        self.crowd.statuses[answer.status_code] += 1
        if answer.status_code not in expected:
            self.crowd.strange.append(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {text[:300]}")
        if answer.status_code < 400:
            self.crowd.seen |= {(self.tenant.shop.tenant, id_) for id_ in _ID.findall(text)}

    def job(self) -> str | None:
        return self.chance.choice(self.tenant.jobs[-50:]) if self.tenant.jobs else None

    async def submit(self) -> None:
        """Twice with one key: one job. Sometimes a question that was asked before."""
        shop = self.tenant.shop
        seed = self.chance.randrange(50) if self.chance.random() < 0.2 else self.chance.randrange(2**31)
        body = {"model": shop.model, "dataset": shop.dataset, "spec": {"certifiers": [BOUNDS], "seed": seed}, "name": "crowd"}
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        first, again = await self._twice(body, headers)
        if first is not None and again is not None and first != again:
            self.crowd.strange.append(f"one key made two jobs: {first} {again}")
        self.tenant.jobs += [job for job in (first,) if job]

    async def _twice(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[str | None, str | None]:
        times = 2 if self.chance.random() < 0.3 else 1
        sent = await asyncio.gather(*(self.ask("POST", "/v1/jobs", 200, 202, 409, json=body, headers=headers) for _ in range(times)))
        made = [answer.json()["id"] for answer in sent if answer.is_success]
        return (made[0] if made else None), (made[1] if len(made) > 1 else None)

    async def look(self) -> None:
        if (job := self.job()) is not None:
            found = await self.ask("GET", f"/v1/jobs/{job}", 200)
            if "etag" in found.headers:
                await self.ask("GET", f"/v1/jobs/{job}", 304, headers={"If-None-Match": found.headers["etag"]})

    async def lists(self) -> None:
        page = (await self.ask("GET", "/v1/jobs?limit=20", 200)).json()
        if page["next_cursor"]:
            await self.ask("GET", f"/v1/jobs?limit=20&cursor={page['next_cursor']}", 200)
        await self.ask("GET", "/v1/models", 200)
        await self.ask("GET", "/v1/usage", 200)

    async def results(self) -> None:
        if (job := self.job()) is not None:
            await self.ask("GET", f"/v1/jobs/{job}/results?limit=100", 200)
            await self.ask("GET", f"/v1/jobs/{job}/report", 200, 409)
            await self.ask("GET", f"/v1/jobs/{job}/results?format=ndjson", 200)

    async def watch(self) -> None:
        """Events for some seconds, then hang up."""
        if (job := self.job()) is None:
            return
        end = time.monotonic() + self.chance.random() * 6
        async with self.http.stream("GET", f"/v1/jobs/{job}/events") as stream:
            lines = []
            async for line in stream.aiter_lines():
                lines.append(line)
                if time.monotonic() > end:
                    break
            self.note(stream, "\n".join(lines), (200,))

    async def upload(self) -> None:
        data = os.urandom(self.chance.randrange(1, 200_000))
        target = f"/v1/blobs/sha256/{hashlib.sha256(data).hexdigest()}"
        await self.ask("HEAD", target, 404)
        await self.ask("PUT", target, 201, content=data)
        await self.ask("HEAD", target, 200)
        await self.ask("POST", "/v1/datasets", 202, 422, json={"name": "crowd", "blob": target[-64:]})

    async def upload_in_parts(self) -> None:
        data = os.urandom(2 * MIB + 5)
        target = f"/v1/blobs/sha256/{hashlib.sha256(data).hexdigest()}"
        for first in range(0, len(data), MIB):
            part = data[first : first + MIB]
            place = {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"}
            await self.ask("PUT", target, 201, 202, content=part, headers=place)

    async def cancel(self) -> None:
        if (job := self.job()) is not None:
            await self.ask("POST", f"/v1/jobs/{job}/cancel", 202)

    async def trespass(self) -> None:
        """Another tenant's job is not there."""
        other = self.chance.choice([tenant for tenant in self.crowd.tenants if tenant is not self.tenant])
        if other.jobs:
            await self.ask("GET", f"/v1/jobs/{self.chance.choice(other.jobs)}", 404)
        await self.ask("GET", f"/v1/models/{other.shop.model}", 404)


def _work(db: Database, stop: threading.Event) -> None:
    """Answer jobs as a dispatcher beside the service would: plan, lease, finish, report."""
    while not stop.wait(0.02):
        if (waiting := jobs.next_unplanned(db)) is not None:
            jobs.plan_job(db, waiting[0].id, Plan(family=1, batch_sizes=(1,)), shard_plans(2, 4))
        if (lease := shards.lease_shard(db, "crowd", 60)) is not None:
            shards.heartbeat(db, lease, 60, examples_done=2, samples_done=0)
            shards.finish_shard(db, lease, answers(lease))
        if (job := jobs.next_unfinalized(db)) is not None:
            jobs.finish_job(db, job.id, Report(certifiers=()))
    db.close()
