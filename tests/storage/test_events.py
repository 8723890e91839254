"""Every change of a job's state writes its event in the same transaction; a reader who goes on behind the last one misses none."""

from __future__ import annotations

import json
import threading

import pytest

from certify.errors import Problem
from certify.report import Report
from certify.run import Plan
from storage import events, jobs, shards, tenants
from storage.database import Database
from storage.errors import NotFound
from storage.guard import guard
from storage.records import JobState
from tests.support.shop import Shop, answers, shard_plans

REPORT = Report(certifiers=())


def names(shop: Shop, job: str, after: int = 0) -> list[str]:
    return [event.event for event in events.watch(shop.db, shop.tenant, job, after).events]


def lease_and_finish(shop: Shop) -> None:
    lease = shards.lease_shard(shop.db, "w", 60)
    assert lease is not None
    shards.finish_shard(shop.db, lease, answers(lease))


def test_the_life_of_a_job(shop: Shop) -> None:
    job = shop.submit()
    assert names(shop, job.id) == ["queued"]
    jobs.plan_job(shop.db, job.id, Plan(family=1, batch_sizes=(1,)), shard_plans(2, 4))
    jobs.set_condition(shop.db, job.id, "waiting for a GPU")
    jobs.set_condition(shop.db, job.id, "waiting for a GPU")  # nothing new
    jobs.set_condition(shop.db, job.id, "")
    lease_and_finish(shop)
    lease_and_finish(shop)
    jobs.finish_job(shop.db, job.id, REPORT)
    jobs.finish_job(shop.db, job.id, REPORT)
    found = events.watch(shop.db, shop.tenant, job.id)
    assert [e.event for e in found.events] == ["queued", "running", "condition", "condition", "finalizing", "ended"]
    bodies = [json.loads(e.body) for e in found.events]
    assert [b["state"] for b in bodies] == ["queued", "running", "running", "running", "finalizing", "succeeded"]
    assert [bodies[2]["condition"], bodies[3]["condition"]] == ["waiting for a GPU", ""]
    assert {b["job"] for b in bodies} == {job.id}
    assert found.state is JobState.SUCCEEDED
    assert found.progress == shop.job(job.id).progress
    for seen, event in enumerate(found.events, 1):
        assert names(shop, job.id, event.seq) == [e.event for e in found.events[seen:]]


def test_cancelled_and_failed_jobs(shop: Shop) -> None:
    waiting = shop.submit()
    jobs.request_cancel(shop.db, shop.tenant, waiting.id)
    jobs.request_cancel(shop.db, shop.tenant, waiting.id)
    assert names(shop, waiting.id) == ["queued", "ended"]
    running = shop.planned(seed=1)
    jobs.request_cancel(shop.db, shop.tenant, running.id)
    jobs.finish_job(shop.db, running.id, REPORT)
    assert names(shop, running.id) == ["queued", "running", "cancelling", "ended"]
    broken = shop.planned(seed=2)
    jobs.fail_job(shop.db, broken.id, [Problem(field="job", detail="broke", mend="mend it")])
    jobs.fail_job(shop.db, broken.id, [Problem(field="job", detail="broke", mend="mend it")])
    assert names(shop, broken.id) == ["queued", "running", "ended"]
    last = events.watch(shop.db, shop.tenant, broken.id).events[-1]
    assert json.loads(last.body)["error"] == [{"field": "job", "detail": "broke", "mend": "mend it"}]


def test_a_change_that_is_rolled_back_leaves_no_event(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    job = shop.submit()

    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("storage.webhooks.announce", broken)
    with pytest.raises(RuntimeError):
        jobs.request_cancel(shop.db, shop.tenant, job.id)
    assert names(shop, job.id) == ["queued"]
    assert shop.job(job.id).state is JobState.QUEUED


def test_another_tenants_job_is_not_there(db: Database, shop: Shop) -> None:
    guard(db)
    job = shop.submit()
    other = tenants.ensure_tenant(db, "other").id
    with pytest.raises(NotFound):
        events.watch(db, other, job.id)


def test_a_reader_beside_many_writers_misses_nothing(shop: Shop) -> None:
    """Numbers of one job are given out in the order of their commits, so `behind the last one seen` is safe."""
    job = shop.planned()
    seen: list[int] = []
    done = threading.Event()

    def write(number: int) -> None:
        for step in range(8):
            jobs.set_condition(shop.db, job.id, f"{number}.{step}")

    def read() -> None:
        after = 0
        while True:
            last_look = done.is_set()
            for event in events.watch(shop.db, shop.tenant, job.id, after).events:
                after = event.seq
                seen.append(event.seq)
            if last_look:
                return

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert seen == [event.seq for event in events.watch(shop.db, shop.tenant, job.id).events]
    assert len(seen) == 2 + 4 * 8
