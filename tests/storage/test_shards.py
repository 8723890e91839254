"""Shards under lease: fenced, retried, given up, and never half written."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
import sqlalchemy as sa

from certify.certificate import Certificate
from certify.errors import Problem
from certify.report import Report
from storage import jobs, results, shards, tenants
from storage.errors import LostLease, NotFound
from storage.records import JobState, ShardLease
from storage.tables import certificates
from tests.support.shop import Shop, answers

WHY = Problem(field="certifiers.0", detail="out of memory", mend="use a smaller batch_size")


def lease(shop: Shop, worker: str = "w", ttl: float = 60) -> ShardLease:
    found = shards.lease_shard(shop.db, worker, ttl)
    assert found is not None
    return found


def stored(shop: Shop, job_id: str) -> list[Certificate]:
    return list(results.iter_certificates(shop.db, shop.tenant, job_id))


def test_a_lease_carries_all_that_a_worker_needs(shop: Shop) -> None:
    job = shop.planned()
    got = lease(shop)
    assert (got.job_id, got.tenant_id, got.ix, got.certifier, got.first, got.last) == (job.id, shop.tenant, 0, 0, 0, 2)
    assert (got.epoch, got.attempts, got.attempt) == (1, 1, 1)
    assert (got.model_digest, got.dataset_digest, got.value_range) == (job.model_digest, job.dataset_digest, None)
    assert (got.spec, got.plan) == (job.spec, job.plan)


def test_each_shard_is_leased_once_oldest_job_first(shop: Shop) -> None:
    first = shop.planned(seed=1)
    second = shop.planned(seed=2)
    leases = [lease(shop) for _ in range(8)]
    assert [(got.job_id, got.ix) for got in leases] == sorted((job.id, ix) for job in (first, second) for ix in range(4))
    assert shards.lease_shard(shop.db, "w", 60) is None


def test_a_finished_shard_is_stored_whole_and_the_last_one_hands_the_job_on(shop: Shop) -> None:
    job = shop.planned()
    for _ in range(4):
        assert shop.job(job.id).state is JobState.RUNNING
        got = lease(shop)
        shards.finish_shard(shop.db, got, answers(got))
    assert shop.job(job.id).state is JobState.FINALIZING
    ready = jobs.next_unfinalized(shop.db)
    assert ready is not None
    assert ready.id == job.id
    jobs.finish_job(shop.db, job.id, Report(certifiers=()))
    assert shop.job(job.id).state is JobState.SUCCEEDED
    assert [certificate.example for certificate in stored(shop, job.id)] == list(range(8))


def test_a_stale_worker_writes_nothing(shop: Shop) -> None:
    job = shop.planned(parts=1)
    stale = lease(shop, "slow", ttl=0.05)
    time.sleep(0.1)
    fresh = lease(shop, "quick")
    assert (fresh.id, fresh.epoch, fresh.attempts) == (stale.id, stale.epoch + 1, 2)
    late = [
        lambda: shards.finish_shard(shop.db, stale, answers(stale, device="slow")),
        lambda: shards.heartbeat(shop.db, stale, 60, examples_done=1, samples_done=1),
        lambda: shards.fail_shard(shop.db, stale, [WHY], retry=False),
        lambda: shards.cancel_shard(shop.db, stale),
        lambda: shards.release_shard(shop.db, stale),
    ]
    for write in late:
        with pytest.raises(LostLease):
            write()
    assert stored(shop, job.id) == []
    shards.finish_shard(shop.db, fresh, answers(fresh, device="quick"))
    with pytest.raises(LostLease):
        shards.finish_shard(shop.db, fresh, answers(fresh, device="twice"))
    assert {certificate.provenance.device for certificate in stored(shop, job.id)} == {"quick"}


def test_a_finish_that_breaks_half_way_leaves_no_trace(shop: Shop) -> None:
    job = shop.planned(parts=1)
    got = lease(shop)
    twice = [*answers(got), answers(got)[0]]
    with pytest.raises(Exception, match=r"(?i)unique|duplicate|certificate"):
        shards.finish_shard(shop.db, got, twice)
    assert stored(shop, job.id) == []
    assert shop.job(job.id).progress.shards_done == 0
    shards.finish_shard(shop.db, got, answers(got))
    assert len(stored(shop, job.id)) == 2


def test_a_heartbeat_keeps_the_lease(shop: Shop) -> None:
    shop.planned(parts=1)
    got = lease(shop, ttl=0.4)
    for _ in range(4):
        time.sleep(0.2)
        assert not shards.heartbeat(shop.db, got, 0.4, examples_done=1, samples_done=10).cancel_requested
        assert shards.lease_shard(shop.db, "thief", 60) is None


def test_a_retry_waits_and_then_starts_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_BACKOFF", timedelta(seconds=0.3))
    job = shop.planned(parts=1)
    first = lease(shop)
    shards.fail_shard(shop.db, first, [WHY], retry=True)
    assert shards.lease_shard(shop.db, "w", 60) is None
    assert shop.job(job.id).state is JobState.RUNNING
    time.sleep(0.35)
    again = lease(shop)
    assert (again.id, again.attempts, again.noise_key) == (first.id, 2, first.noise_key)


def test_a_poison_shard_does_not_block_the_others(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_BACKOFF", timedelta(0))
    job = shop.planned()
    tries = 0
    while got := shards.lease_shard(shop.db, "w", 60):
        if got.ix == 0:
            tries += 1
            shards.fail_shard(shop.db, got, [WHY], retry=True)
        else:
            shards.finish_shard(shop.db, got, answers(got))
    assert tries == shards.MAX_ATTEMPTS
    assert shop.job(job.id).state is JobState.FINALIZING
    jobs.finish_job(shop.db, job.id, Report(certifiers=()))
    ended = shop.job(job.id)
    assert (ended.state, ended.error) == (JobState.FAILED, (WHY,))
    assert [certificate.example for certificate in stored(shop, job.id)] == [2, 3, 4, 5, 6, 7]


def test_a_shard_that_kills_its_workers_fails_its_job(shop: Shop) -> None:
    job = shop.planned(parts=1)
    for _ in range(shards.MAX_ATTEMPTS):
        lease(shop, ttl=0.01)
        time.sleep(0.03)
    assert shards.lease_shard(shop.db, "w", 60) is None
    assert shop.job(job.id).state is JobState.FINALIZING
    jobs.finish_job(shop.db, job.id, Report(certifiers=()))
    ended = shop.job(job.id)
    assert ended.state is JobState.FAILED
    assert "died 3 times" in ended.error[0].detail


def test_no_retry_fails_at_once(shop: Shop) -> None:
    job = shop.planned(parts=1)
    shards.fail_shard(shop.db, lease(shop), [WHY], retry=False)
    assert shop.job(job.id).state is JobState.FINALIZING


def test_a_graceful_stop_costs_no_attempt(shop: Shop) -> None:
    shop.planned(parts=1)
    for _ in range(shards.MAX_ATTEMPTS + 2):
        shards.release_shard(shop.db, lease(shop))
    assert lease(shop).attempts == 1


def test_certificates_come_back_exactly_page_by_page(shop: Shop) -> None:
    job = shop.planned()
    given: list[Certificate] = []
    for _ in range(4):
        got = lease(shop)
        given += answers(got)
        shards.finish_shard(shop.db, got, answers(got))
    seen: list[Certificate] = []
    cursor = None
    while True:
        page = results.list_certificates(shop.db, shop.tenant, job.id, limit=3, cursor=cursor)
        seen += page.items
        if (cursor := page.next_cursor) is None:
            break
    assert seen == given == stored(shop, job.id)
    with shop.db.read() as connection:
        radii = list(connection.execute(sa.select(certificates.c.radius).order_by(certificates.c.example)).scalars())
    assert radii == [certificate.radius for certificate in given]  # not one bit is lost in the column


def test_certificates_of_another_tenant_do_not_exist(shop: Shop) -> None:
    job = shop.planned()
    stranger = tenants.ensure_tenant(shop.db, "stranger").id
    with pytest.raises(NotFound):
        results.list_certificates(shop.db, stranger, job.id, limit=10)
    with pytest.raises(NotFound):
        list(results.iter_certificates(shop.db, stranger, job.id))
