"""What once went wrong, or could: each of these failed before it was mended."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from certify.errors import AssayError, InputError, Problem
from storage import artifacts, catalog, cursors, jobs, results, shards, tenants
from storage.artifacts import Artifacts
from storage.database import Database
from storage.errors import LostLease
from storage.records import JobState
from tests.support.shop import Shop, answers, digest, ready_model


def test_finishing_shards_of_one_job_at_once_does_not_deadlock(db: Database) -> None:
    shop = Shop.open(db, "acme", count=60)
    shop.planned(parts=60, size=1)

    def work(_: int) -> int:
        count = 0
        while lease := shards.lease_shard(db, "w", 60):
            shards.finish_shard(db, lease, answers(lease))
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 60


def test_another_declared_range_is_no_fresh_throw(shop: Shop) -> None:
    # The range is free to choose and does not enter the noise key: were it to restart the count, every range would hide an attempt.
    first = shop.submit(seed=1)
    wider = ready_model(shop.db, shop.tenant, value_range=(0, 2))
    second = shop.offer(model=wider, seed=2)[0]
    assert (first.attempt, second.attempt) == (1, 2)
    same = shop.offer(model=wider, seed=1)[0]
    assert same.id != first.id
    assert (same.attempt, same.noise_commitment) == (first.attempt, first.noise_commitment)


def test_a_new_server_secret_is_no_fresh_throw(shop: Shop) -> None:
    first = shop.submit()
    jobs.request_cancel(shop.db, shop.tenant, first.id)
    assert shop.offer(secret=b"t" * 32)[0].noise_commitment == first.noise_commitment


def test_a_shard_is_finished_only_with_exactly_its_certificates(shop: Shop) -> None:
    job = shop.planned(parts=2, size=4)
    first = shards.lease_shard(shop.db, "w", 60)
    second = shards.lease_shard(shop.db, "w", 60)
    assert first is not None
    assert second is not None
    for wrong in ([], answers(first)[:-1], answers(second), [*answers(first), answers(second)[0]], [answers(first)[0]] * 4):
        with pytest.raises(ValueError, match="certificates"):
            shards.finish_shard(shop.db, first, wrong)
    assert list(results.iter_certificates(shop.db, shop.tenant, job.id)) == []


def test_a_failed_job_has_no_work_left(shop: Shop) -> None:
    job = shop.planned()
    held = shards.lease_shard(shop.db, "w", 60)
    assert held is not None
    jobs.fail_job(shop.db, job.id, [Problem(field="", detail="a contradiction")])
    assert shards.lease_shard(shop.db, "w", 60) is None
    with pytest.raises(LostLease):
        shards.finish_shard(shop.db, held, answers(held))


def test_cancel_ends_although_the_worker_died(shop: Shop) -> None:
    job = shop.planned(parts=1)
    assert shards.lease_shard(shop.db, "w", 0.05) is not None
    jobs.request_cancel(shop.db, shop.tenant, job.id)
    time.sleep(0.1)
    assert shards.lease_shard(shop.db, "w", 60) is None  # nobody starts work that is no longer wanted
    ready = jobs.next_unfinalized(shop.db)
    assert ready is not None
    assert ready.state is JobState.CANCELLING


def test_the_same_tenant_and_blob_at_once(db: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: tenants.ensure_tenant(db, "acme").id, range(16)))
        assert len(made) == 1
        tenant = made.pop()
        assert sum(pool.map(lambda _: artifacts.record_blob(db, tenant, digest("x"), 1), range(16))) == 1


def test_a_damaged_blob_is_mended_by_uploading_it_again(tmp_path: Path) -> None:
    (tmp_path / "upload").write_text("a model")
    store = Artifacts(str(tmp_path / "store"))
    store.put_file(tmp_path / "upload", digest("a model"))
    next((tmp_path / "store").rglob(digest("a model"))).write_text("a mo")  # as a crash during a write may leave it
    with pytest.raises(AssayError):
        store.get(digest("a model"))
    store.put_file(tmp_path / "upload", digest("a model"))
    assert store.get(digest("a model")) == b"a model"


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_limits_are_checked(shop: Shop, limit: int) -> None:
    job = shop.planned()
    for listing in (
        lambda: jobs.list_jobs(shop.db, shop.tenant, limit=limit),
        lambda: catalog.list_models(shop.db, shop.tenant, limit=limit),
        lambda: results.list_certificates(shop.db, shop.tenant, job.id, limit=limit),
    ):
        with pytest.raises(InputError, match="limit"):
            listing()


def test_a_cursor_of_another_list_is_refused(shop: Shop) -> None:
    job = shop.planned()
    with pytest.raises(InputError, match="cursor"):
        jobs.list_jobs(shop.db, shop.tenant, limit=3, cursor=cursors.encode("jobs", 7))
    with pytest.raises(InputError, match="cursor"):
        results.list_certificates(shop.db, shop.tenant, job.id, limit=3, cursor=cursors.encode("findings", "a", "b"))


def test_a_slow_reader_of_results_holds_no_transaction(shop: Shop) -> None:
    job = shop.planned(parts=1)
    lease = shards.lease_shard(shop.db, "w", 60)
    assert lease is not None
    shards.finish_shard(shop.db, lease, answers(lease))
    lines = results.iter_lines(shop.db, shop.tenant, job.id)
    next(lines)
    assert shop.db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert len(list(lines)) == 1


def test_the_last_two_shards_at_the_same_moment_hand_the_job_on(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each transaction has ended its own shard and cannot see that the other has: without a lock on the job neither would be the last.
    job = shop.planned(parts=2, size=4)
    meet, real = threading.Barrier(2), shards.insert

    def insert_and_meet(*args: Any) -> None:
        real(*args)
        with contextlib.suppress(threading.BrokenBarrierError):  # on SQLite the other writer cannot have begun
            meet.wait(timeout=0.5)

    monkeypatch.setattr(shards, "insert", insert_and_meet)
    leases = [shards.lease_shard(shop.db, "w", 60) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda lease: shards.finish_shard(shop.db, lease, answers(lease)), leases))
    assert shop.job(job.id).state is JobState.FINALIZING
