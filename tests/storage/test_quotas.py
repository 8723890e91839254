"""A tenant has what it may have and no more, also when many ask at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from storage import jobs, quotas, tenants
from storage.artifacts import record_blob
from storage.database import Database
from storage.errors import QuotaExceeded, StorageFull, TooManyJobs
from storage.quotas import Quota
from storage.records import Job
from storage.tables import upload_parts
from tests.support.shop import SECRET, Shop, digest, spec

MANY = 12


def submit(shop: Shop, seed: int, most: int) -> Job:
    asked = {"model_id": shop.model, "dataset_id": shop.dataset, "secret": SECRET}
    return jobs.create_job(shop.db, shop.tenant, spec=spec(seed=seed), quota=Quota(max_queued_jobs=most), **asked)[0]


def blob(db: Database, tenant: str, name: str, size: int, most: int) -> bool:
    return record_blob(db, tenant, digest(name), size, Quota(max_stored_bytes=most))


def together(ask: Callable[[int], Any]) -> int:
    """How many of many at once were let in."""

    def let_in(number: int) -> bool:
        try:
            ask(number)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(MANY) as pool:
        return sum(pool.map(let_in, range(MANY)))


def test_racing_submissions_do_not_share_the_last_place(shop: Shop) -> None:
    assert together(lambda seed: submit(shop, seed, most=3)) == 3
    assert quotas.usage(shop.db, shop.tenant, quotas.DEFAULT).queued_jobs == 3


def test_racing_uploads_do_not_share_the_last_bytes(db: Database) -> None:
    tenant = tenants.ensure_tenant(db, "acme").id
    assert together(lambda number: blob(db, tenant, str(number), 40, most=100)) == 2
    assert quotas.usage(db, tenant, quotas.DEFAULT).stored_bytes == 80


def test_ended_jobs_and_known_questions_need_no_place(shop: Shop) -> None:
    first = submit(shop, 0, most=1)
    with pytest.raises(TooManyJobs, match="1 jobs have not ended, and 1 is the most"):
        submit(shop, 1, most=1)
    assert submit(shop, 0, most=1).id == first.id
    jobs.request_cancel(shop.db, shop.tenant, first.id)
    assert submit(shop, 1, most=1).id != first.id


def test_a_limit_of_the_tenant_goes_before_the_services_own(shop: Shop) -> None:
    tenants.set_limits(shop.db, "acme", max_queued_jobs=0, max_stored_bytes=300)
    with pytest.raises(TooManyJobs):
        submit(shop, 0, most=10)
    with pytest.raises(StorageFull, match="exceed the quota of 300"):
        blob(shop.db, shop.tenant, "one more", 1, most=10**9)
    tenants.set_limits(shop.db, "acme", max_queued_jobs=None)
    assert submit(shop, 0, most=10)
    found = quotas.usage(shop.db, shop.tenant, quotas.DEFAULT)
    assert found.quota == Quota(max_queued_jobs=Quota.max_queued_jobs, max_stored_bytes=300)


def test_bytes_are_counted_once_for_each_content_unfinished_uploads_too(db: Database) -> None:
    tenant, other = tenants.ensure_tenant(db, "acme").id, tenants.ensure_tenant(db, "other").id
    assert [blob(db, tenant, "a", 60, most=100) for _ in range(2)] == [True, False]
    assert blob(db, other, "b", 90, most=100)
    with db.begin() as connection:
        part = {"tenant_id": tenant, "sha256": digest("c"), "first": 0, "length": 30, "total": 50, "created_at": db.now(connection)}
        connection.execute(sa.insert(upload_parts).values(part))
    assert quotas.usage(db, tenant, quotas.DEFAULT).stored_bytes == 90
    with pytest.raises(StorageFull):
        quotas.check_room(db, tenant, 11, Quota(max_stored_bytes=100))
    quotas.check_room(db, tenant, 10, Quota(max_stored_bytes=100))
