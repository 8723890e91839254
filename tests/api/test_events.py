"""The events of a job over HTTP: in order, resumed where they were lost, ended with the job; the client follows them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from api.sdk.client import Client
from certify.report import Report
from certify.run import Plan
from storage import jobs, shards
from storage.tables import job_events
from tests.api.conftest import Api
from tests.api.test_routes import problem
from tests.support.server import Server
from tests.support.shop import Shop, answers, shard_plans

REPORT = Report(certifiers=())


@pytest.fixture
def shop(api: Api) -> Shop:
    return Shop.open(api.service.db, "default")


def finish(shop: Shop, job: str) -> None:
    """Plan a job and answer it, as a dispatcher would."""
    jobs.plan_job(shop.db, job, Plan(family=1, batch_sizes=(1,)), shard_plans(2, 4))
    for _ in range(2):
        lease = shards.lease_shard(shop.db, "w", 60)
        assert lease is not None
        shards.finish_shard(shop.db, lease, answers(lease))
    jobs.finish_job(shop.db, job, REPORT)


def parsed(text: str) -> list[dict[str, str]]:
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def events(client: httpx.Client, job: str, last: str = "") -> list[dict[str, str]]:
    sent = client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": last} if last else {})
    assert sent.status_code == 200
    assert sent.headers["content-type"].startswith("text/event-stream")
    assert sent.headers["x-accel-buffering"] == "no"
    return [event for event in parsed(sent.text) if "event" in event]


def test_all_events_of_a_job_that_has_ended(api: Api, shop: Shop) -> None:
    job = shop.submit().id
    finish(shop, job)
    found = events(api.client, job)
    assert [e["event"] for e in found] == ["queued", "running", "finalizing", "ended"]
    assert json.loads(found[-1]["data"])["state"] == "succeeded"
    assert [e["event"] for e in events(api.client, job, found[1]["id"])] == ["finalizing", "ended"]
    # The last was seen: 204 ends the reconnecting of a browser.
    assert api.client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": found[-1]["id"]}).status_code == 204


def test_a_stream_that_cannot_begin_is_a_problem(api: Api, shop: Shop) -> None:
    job = shop.submit().id
    problem(api.client.get("/v1/jobs/job_x/events"), 404)
    problem(api.client.get(f"/v1/jobs/{job}/events", headers={"Authorization": f"Bearer {api.key('other')}"}), 404)
    for wrong in ("x", "-1", "1" * 30):
        problem(api.client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": wrong}), 422)


def test_a_job_that_ended_before_events_were_written_down(api: Api, shop: Shop) -> None:
    job = shop.submit().id
    finish(shop, job)
    with shop.db.begin() as connection:
        connection.execute(sa.delete(job_events))
    assert [e["event"] for e in events(api.client, job)] == ["ended"]


def test_events_come_as_they_happen(api: Api, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress between them, keep-alives when nothing happens, and the end by itself."""
    monkeypatch.setattr("api.routes.events.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("api.routes.events._KEEP_ALIVE_SECONDS", 0.2)
    job = shop.submit().id
    threading.Timer(0.8, finish, (shop, job)).start()
    text = api.client.get(f"/v1/jobs/{job}/events").text
    found = [e for e in parsed(text) if "event" in e]
    assert ": ping" in text
    assert [e["event"] for e in found if "id" in e] == ["queued", "running", "finalizing", "ended"]
    assert [e["event"] for e in found if "id" not in e] == ["progress"] * sum(e["event"] == "progress" for e in found)
    assert json.loads(next(e for e in found if e["event"] == "progress")["data"])["certificates_total"] == 8
    ids = [int(e["id"]) for e in found if "id" in e]
    assert ids == sorted(ids)


def test_a_long_stream_ends_and_is_taken_up_again(api: Api, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.events.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("api.routes.events._LONGEST_SECONDS", 0.1)
    job = shop.submit().id
    first = events(api.client, job)
    assert [e["event"] for e in first] == ["queued", "progress"]
    finish(shop, job)
    assert [e["event"] for e in events(api.client, job, first[0]["id"])] == ["running", "finalizing", "ended"]


def test_the_client_follows_and_goes_on_after_the_service_was_killed(tmp_path: Path) -> None:
    with Server(tmp_path) as server, Client(server.url, server.key) as client:
        shop = Shop.open(server.db, "default")
        job = shop.submit().id
        told: list[dict[str, Any]] = []
        looks: list[str] = []
        client._connection.http.event_hooks["request"].append(lambda request: looks.append(request.url.path))
        ended: list[dict[str, Any]] = []
        follower = threading.Thread(target=lambda: ended.append(client.watch(job, lambda found: told.append(dict(found)))))
        follower.start()
        _until(lambda: bool(told))
        jobs.plan_job(shop.db, job, Plan(family=1, batch_sizes=(1,)), shard_plans(2, 4))
        _until(lambda: told[-1]["state"] == "running")
        server.kill()
        server.start()
        looks.clear()
        for number in range(2):
            lease = shards.lease_shard(shop.db, "w", 60)
            assert lease is not None
            shards.finish_shard(shop.db, lease, answers(lease))
            _until(lambda n=number: told[-1]["progress"]["certificates_done"] == 4 * (n + 1))
        jobs.finish_job(shop.db, job, REPORT)
        follower.join(30)
        assert ended[0]["state"] == "succeeded"
        assert ended[0]["finished_at"]
        states = [t["state"] for t in told]
        assert [s for i, s in enumerate(states) if s not in states[:i]] == ["queued", "running", "finalizing", "succeeded"]
        assert looks.count(f"/v1/jobs/{job}") <= 3  # it did not poll


def test_a_client_whose_proxy_lets_no_events_through_polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Proxy(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/events"):
                raise httpx.ReadTimeout("nothing came", request=request)
            return super().handle_request(request)

    monkeypatch.setattr("api.sdk.client.time.sleep", lambda _: None)
    with Server(tmp_path) as server, Client(server.url, server.key) as client:
        http = client._connection.http
        client._connection.http = httpx.Client(transport=Proxy(), base_url=server.url, headers=http.headers)
        shop = Shop.open(server.db, "default")
        job = shop.submit().id
        threading.Timer(0.5, finish, (shop, job)).start()
        assert client.watch(job, lambda found: None)["state"] == "succeeded"


def test_a_service_with_watchers_stops_in_time(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client() as http:
        job = Shop.open(server.db, "default").submit().id
        with http.stream("GET", f"/v1/jobs/{job}/events") as stream:
            next(stream.iter_lines())
            began = time.monotonic()
            server.process.terminate()
            server.process.wait(20)
            assert time.monotonic() - began < 10


def _until(done: Any) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
