"""Jobs: one throw of the dice for one question, a key nobody sees early, cancel from every state, tenants apart."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from certify.errors import InputError, Problem
from certify.report import Report
from certify.run import Plan, commitment, public_key
from storage import catalog, jobs, shards, tenants
from storage.database import Database
from storage.errors import Conflict, NotFound
from storage.records import JobState
from tests.support.salts import key_of
from tests.support.shop import SECRET, Shop, answers, shard_plans, spec

REPORT = Report(certifiers=())


def finish(shop: Shop, job_id: str) -> None:
    while lease := shards.lease_shard(shop.db, "w", 60):
        shards.finish_shard(shop.db, lease, answers(lease))
    jobs.finish_job(shop.db, job_id, REPORT)


def test_a_question_asked_again_returns_its_job(shop: Shop) -> None:
    job, new = shop.offer()
    assert new
    assert shop.offer() == (job, False)
    assert job.progress.certificates_total == 8
    running = shop.planned()
    assert running.id == job.id
    finish(shop, job.id)
    again, new = shop.offer()
    assert (again.id, again.state, new) == (job.id, JobState.SUCCEEDED, False)


def test_after_cancel_the_same_dice_lie_there(shop: Shop) -> None:
    first = shop.submit()
    jobs.request_cancel(shop.db, shop.tenant, first.id)
    second, new = shop.offer()
    assert new
    assert second.id != first.id
    assert (second.attempt, second.noise_commitment) == (first.attempt, first.noise_commitment)


def test_after_failure_the_same_dice_lie_there(shop: Shop) -> None:
    first = shop.submit()
    jobs.fail_job(shop.db, first.id, [Problem(field="", detail="no plan")])
    assert shop.job(first.id).error[0].detail == "no plan"
    second, new = shop.offer()
    assert new
    assert (second.attempt, second.noise_commitment) == (first.attempt, first.noise_commitment)


def test_another_spec_is_the_next_attempt_and_cancelled_ones_count(shop: Shop) -> None:
    first = shop.submit(seed=1)
    jobs.request_cancel(shop.db, shop.tenant, first.id)
    second = shop.submit(seed=2)
    assert (first.attempt, second.attempt, shop.submit(seed=3).attempt) == (1, 2, 3)
    assert first.noise_commitment != second.noise_commitment


def test_identical_submissions_at_once_make_one_job(shop: Shop) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: shop.offer(), range(16)))
    assert len({job.id for job, _ in made}) == 1
    assert sum(new for _, new in made) == 1


def test_different_submissions_at_once_get_different_attempts(shop: Shop) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda seed: shop.submit(seed=seed), range(12)))
    assert sorted(job.attempt for job in made) == list(range(1, 13))


def test_the_noise_key_is_shown_only_at_the_end(shop: Shop) -> None:
    job = shop.planned()
    expected = key_of(shop.db, job)
    assert job.noise_commitment == commitment(expected) == hashlib.sha256(expected).hexdigest()
    assert job.noise_key is None
    lease = shards.lease_shard(shop.db, "w", 60)
    assert lease is not None
    assert lease.noise_key == expected
    assert shop.job(job.id).noise_key is None
    shards.release_shard(shop.db, lease)
    for listed in jobs.list_jobs(shop.db, shop.tenant, limit=10).items:
        assert listed.noise_key is None
    assert jobs.request_cancel(shop.db, shop.tenant, job.id).noise_key is None
    jobs.finish_job(shop.db, job.id, REPORT)
    assert shop.job(job.id).noise_key == expected.hex()


def test_a_public_seed_gives_the_public_key(shop: Shop) -> None:
    shop.planned(noise_key="public-seed", seed=5)
    lease = shards.lease_shard(shop.db, "w", 60)
    assert lease is not None
    assert lease.noise_key == public_key(spec(seed=5))


def test_the_stored_spec_names_the_origin_of_its_noise(shop: Shop) -> None:
    assert shop.submit().spec.noise_key == "service"


def test_what_cannot_run_is_refused(shop: Shop) -> None:
    with pytest.raises(InputError, match="selects no example"):
        shop.submit(examples={"start": 100})
    with pytest.raises(NotFound):
        shop.submit(model="mdl_unknown")
    waiting = catalog.register_model(shop.db, shop.tenant, name="new", blob=catalog.get_model(shop.db, shop.tenant, shop.model).blob)
    with pytest.raises(Conflict):
        shop.submit(model=waiting.id)
    lease = catalog.lease_inspection(shop.db, "w", 60)
    assert lease is not None
    catalog.reject(shop.db, lease, [Problem(field="operators", detail="Loop is not allowed")])
    with pytest.raises(InputError, match="Loop is not allowed"):
        shop.submit(model=waiting.id)
    assert jobs.list_jobs(shop.db, shop.tenant, limit=10).items == ()


def test_a_job_is_planned_once(shop: Shop) -> None:
    job = shop.submit()
    found = jobs.next_unplanned(shop.db)
    assert found is not None
    assert found[0].id == job.id
    plan = Plan(family=3, batch_sizes=(64,))
    with ThreadPoolExecutor(4) as pool:
        planned = list(pool.map(lambda _: jobs.plan_job(shop.db, job.id, plan, shard_plans(4, 2)), range(4)))
    assert sorted(planned) == [False, False, False, True]
    job = shop.job(job.id)
    assert (job.state, job.plan, job.progress.shards_total) == (JobState.RUNNING, plan, 4)
    assert jobs.next_unplanned(shop.db) is None


def test_cancel_while_queued_ends_at_once(shop: Shop) -> None:
    job = jobs.request_cancel(shop.db, shop.tenant, shop.submit().id)
    assert (job.state, job.finished_at is not None) == (JobState.CANCELLED, True)
    assert jobs.request_cancel(shop.db, shop.tenant, job.id) == job
    assert not jobs.plan_job(shop.db, job.id, Plan(family=1, batch_sizes=(1,)), shard_plans(1, 1))


def test_cancel_while_running_keeps_what_is_finished(shop: Shop) -> None:
    job = shop.planned()
    done, held = shards.lease_shard(shop.db, "a", 60), shards.lease_shard(shop.db, "b", 60)
    assert done is not None
    assert held is not None
    shards.finish_shard(shop.db, done, answers(done))
    assert jobs.request_cancel(shop.db, shop.tenant, job.id).state is JobState.CANCELLING
    assert jobs.request_cancel(shop.db, shop.tenant, job.id).state is JobState.CANCELLING
    assert shards.lease_shard(shop.db, "c", 60) is None
    assert jobs.next_unfinalized(shop.db) is None
    assert shards.heartbeat(shop.db, held, 60, examples_done=1, samples_done=0).cancel_requested
    shards.cancel_shard(shop.db, held)
    ready = jobs.next_unfinalized(shop.db)
    assert ready is not None
    jobs.finish_job(shop.db, job.id, REPORT)
    ended = shop.job(job.id)
    assert (ended.state, ended.progress.certificates_done, ended.report) == (JobState.CANCELLED, 2, REPORT)


def test_cancel_after_the_end_changes_nothing(shop: Shop) -> None:
    job = shop.planned()
    finish(shop, job.id)
    ended = shop.job(job.id)
    assert ended.state is JobState.SUCCEEDED
    assert jobs.request_cancel(shop.db, shop.tenant, job.id) == ended
    jobs.finish_job(shop.db, job.id, REPORT)
    assert shop.job(job.id) == ended


def test_progress_is_counted_and_honest(shop: Shop) -> None:
    job = shop.planned()
    assert (job.progress.certificates_done, job.progress.rate, job.progress.eta_seconds) == (0, None, None)
    first, second = shards.lease_shard(shop.db, "a", 60), shards.lease_shard(shop.db, "b", 60)
    assert first is not None
    assert second is not None
    shards.finish_shard(shop.db, first, answers(first))
    shards.heartbeat(shop.db, second, 60, examples_done=1, samples_done=500)
    progress = shop.job(job.id).progress
    assert (progress.certificates_done, progress.shards_done, progress.samples_done) == (3, 1, 500)
    assert progress.rate is not None
    assert progress.eta_seconds == pytest.approx(5 / progress.rate)
    shards.release_shard(shop.db, second)
    assert shop.job(job.id).progress.certificates_done == 2


def test_a_condition_is_shown_and_cleared(shop: Shop) -> None:
    job = shop.planned()
    jobs.set_condition(shop.db, job.id, "waiting for GPU")
    assert shop.job(job.id).condition == "waiting for GPU"
    finish(shop, job.id)
    assert shop.job(job.id).condition == ""


def test_lists_are_filtered_and_paged(shop: Shop) -> None:
    made = [shop.submit(seed=seed).id for seed in range(5)]
    jobs.request_cancel(shop.db, shop.tenant, made[2])
    assert [job.id for job in jobs.list_jobs(shop.db, shop.tenant, limit=9, state=JobState.CANCELLED).items] == [made[2]]
    first = jobs.list_jobs(shop.db, shop.tenant, limit=3)
    second = jobs.list_jobs(shop.db, shop.tenant, limit=3, cursor=first.next_cursor)
    assert sorted(job.id for job in (*first.items, *second.items)) == sorted(made)
    assert second.next_cursor is None
    with pytest.raises(InputError, match="cursor"):
        jobs.list_jobs(shop.db, shop.tenant, limit=3, cursor="nonsense")


def test_another_tenant_sees_and_stops_nothing(shop: Shop) -> None:
    job = shop.planned()
    stranger = tenants.ensure_tenant(shop.db, "stranger").id
    with pytest.raises(NotFound):
        jobs.get_job(shop.db, stranger, job.id)
    with pytest.raises(NotFound):
        jobs.request_cancel(shop.db, stranger, job.id)
    with pytest.raises(NotFound):
        jobs.create_job(shop.db, stranger, model_id=shop.model, dataset_id=shop.dataset, spec=spec(), secret=SECRET)
    assert jobs.list_jobs(shop.db, stranger, limit=10).items == ()
    assert shop.job(job.id).state is JobState.RUNNING


def test_tenants_share_no_job(db: Database) -> None:
    here, there = Shop.open(db, "here"), Shop.open(db, "there")
    assert here.submit().id != there.submit().id
